"""`zeroq autoscaler` as a process with keys, a Lease, probes and signals; a real broker and a fake API server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig, dump_config
from common.keys import make_keys
from tests.unit.fake_kubernetes import FakeKubernetes

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_leaked_processes")


def free_ports(num: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class Rig:
    """Starts processes that read one configuration."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        ports = dict(zip(("learner", "actor", "evaluator", "monitor"), free_ports(4), strict=True))
        make_keys(folder / "keys")
        config = RunConfig.model_validate(
            {
                "model": "m",
                "data": {"train": "x.jsonl"},
                "broker": {"address": "127.0.0.1", "ports": ports},
                "security": {"keys": str(folder / "keys")},
                "autoscaler": {"every_s": 0.5, "evaluators": {"min": 2}, "actors": {"min": 1}},
            }
        )
        self.config = folder / "config.yaml"
        dump_config(config, self.config)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        run_dir = f"--run-dir={self.folder / name}"
        process = subprocess.Popen(
            [sys.executable, "-m", *command, run_dir, f"--config={self.config}", f"--name={name}"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def autoscaler(self, name: str) -> subprocess.Popen[bytes]:
        return self.start(name, "launcher", "autoscaler", "--kubeconfig-context=fake")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def page(self, name: str, path: str) -> tuple[int, str]:
        """Status and body; (0, "") before the process serves."""
        record = self.folder / name / "processes" / f"{name}.json"
        if not record.exists():
            return 0, ""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{json.loads(record.read_text())['metrics_port']}{path}", timeout=5
            ) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path, stack)


def holder(fake: FakeKubernetes) -> str:
    """Who leads; each process adds something random to its name, because two may have been given the same."""
    name, _, own = fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"].partition("_")
    assert len(own) == 8
    return str(name)


def test_two_autoscalers_with_a_broker_and_an_api_server(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeKubernetes() as fake:
        fake.add_deployment("zeroq-actor", 1, "actor")
        fake.add_deployment("zeroq-evaluator", 1, "evaluator")
        fake.add_lease()
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
        broker = rig.start("broker", "broker")
        candidates = {name: rig.autoscaler(name) for name in ("first", "second")}
        until(lambda: all(rig.page(name, "/readyz")[0] == 200 for name in candidates), "both are ready")
        until(lambda: fake.replicas("zeroq-evaluator") == 2, "the floor is kept")
        leader = holder(fake)
        (standby,) = candidates.keys() - {leader}
        until(lambda: "zeroq_autoscaler_leader 0.0" in rig.page(standby, "/metrics")[1], "the other stands by")
        metrics = rig.page(leader, "/metrics")[1]
        assert "zeroq_autoscaler_leader 1.0" in metrics
        assert 'zeroq_autoscaler_desired{role="evaluator"} 2.0' in metrics
        floor = 'zeroq_autoscaler_decisions_total{direction="up",reason="floor",role="evaluator"} 1.0'
        assert floor in metrics
        assert floor not in rig.page(standby, "/metrics")[1]
        assert rig.page(leader, "/livez")[0] == 200

        candidates[leader].send_signal(signal.SIGTERM)
        assert candidates[leader].wait(timeout=15) == 0, rig.log(leader)
        fake.set_replicas("zeroq-evaluator", 1)
        until(lambda: fake.replicas("zeroq-evaluator") == 2, "the other takes over")
        assert holder(fake) == standby
        for process in (candidates[standby], broker):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        assert "Traceback" not in rig.log(leader) + rig.log(standby)


@pytest.mark.parametrize("options", [["--check"], []])
def test_without_the_brokers_address_it_ends_at_once(rig: Rig, options: list[str]) -> None:
    process = rig.start("a", "launcher", "autoscaler", *options, "broker.address=null")
    assert process.wait(timeout=30) == 2
    assert rig.log("a").startswith("error: broker.address: not set")
    assert rig.log("a").count("\n") == 1


def test_check_of_a_good_one(rig: Rig) -> None:
    assert rig.start("a", "launcher", "autoscaler", "--check").wait(timeout=30) == 0

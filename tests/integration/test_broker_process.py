"""The broker as a process: real sockets, real signals, peers that die, and peers that send nonsense."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from common import messages as m
from common.client import BrokerClient
from common.config import RunConfig, dump_config
from common.curve import Dialler
from common.lifecycle import RunPaths
from common.wire import encode
from tests.wire_keys import run_keys

pytestmark = pytest.mark.usefixtures("no_leaked_processes")

# An actor that takes a lease, renews it, says so, and hangs: to be killed.
DOOMED_ACTOR = """
import sys, time
from pathlib import Path
from common import messages as m
from common.client import BrokerClient
from common.keys import Keys
client = BrokerClient(sys.argv[1], "actor", "doomed", keys=Keys.load(Path(sys.argv[2]), "actor"))
client.hello()
lease = client.request(m.LeaseWork(kind="generate", version=0, wait_s=10.0)).header
ack = client.request(m.Renew(lease_id=lease.lease_id, token=lease.token, progress=1)).header
print(lease.task_id, type(ack).__name__, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Poll `condition` until it holds; AssertionError naming `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


class BrokerProcess:
    """`python -m broker` in a run directory."""

    def __init__(self, root: Path, **broker: Any) -> None:
        self.paths = RunPaths(root)
        config = RunConfig.model_validate(
            {
                "model": "tiny",
                "data": {"train": "x.jsonl"},
                "rollout": {"group_size": 2},
                "learner": {"groups_per_step": 4, "max_staleness": 1},
                "broker": {"generate_lease_s": 1.0, "grade_lease_s": 5.0, **broker},
            }
        )
        root.mkdir(parents=True, exist_ok=True)
        dump_config(config, self.paths.config)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "broker", "--run-dir", str(root)], stderr=subprocess.PIPE, text=True
        )

    def endpoints(self) -> dict[str, str]:
        def ready() -> bool:
            assert self.process.poll() is None, f"the broker ended: {self.process.communicate()[1]}"
            return self.paths.endpoints.exists()

        wait_until(ready, "endpoints.json")
        return dict(json.loads(self.paths.endpoints.read_text()))

    def end(self) -> tuple[int, str]:
        """SIGTERM; exit code and standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=15)
        return self.process.returncode, errors


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess(tmp_path / "run")
    yield process
    if process.process.poll() is None:
        process.process.kill()
    process.process.communicate()


def client(broker: BrokerProcess, role: m.Role, name: str | None = None, **kwargs: Any) -> BrokerClient:
    if role == "learner":
        kwargs = {"vocab_size": 50, "version": 0, **kwargs}
    c = BrokerClient(broker.endpoints()[role], role, name or role, keys=run_keys(broker.paths, role), **kwargs)
    c.hello()
    return c


def ask(c: BrokerClient, header: m.Header, payload: dict[str, Any] | None = None) -> Any:
    return c.request(header, payload, timeout_s=30).header


def add(learner: BrokerClient, task_id: str, purpose: m.Purpose = "train") -> Any:
    header = m.AddTask(task_id=task_id, purpose=purpose, group_size=2, sampling=m.Sampling(max_tokens=8))
    ids = np.array([1, 2, 3], dtype=np.int32)
    return ask(learner, header, {"prompt_ids": ids, "prompt": b"1+1=", "spec": b'{"answer":"2"}'})


def generate(actor: BrokerClient, version: int, wait_s: float = 10.0) -> str | None:
    """Lease, generate, submit; the task's id."""
    lease = ask(actor, m.LeaseWork(kind="generate", version=version, wait_s=wait_s))
    if isinstance(lease, m.NoWork):
        return None
    assert isinstance(lease, m.Lease), lease
    frames = {
        "token_ids": np.arange(6, dtype=np.int32),
        "logprobs": np.full(6, -1.0, dtype=np.float32),
        "versions": np.full(6, version, dtype=np.int32),
        "texts": b"2 3 ",
    }
    rollouts = [m.RolloutMeta(num_tokens=3, text_bytes=2, finish_reason="stop")] * 2
    header = m.SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, rollouts=rollouts)
    assert isinstance(ask(actor, header, frames), m.Ack)
    return lease.task_id


def grade(evaluator: BrokerClient, wait_s: float = 10.0) -> str | None:
    """Lease, compare with the answer, submit; the task's id."""
    envelope = evaluator.request(m.LeaseWork(kind="grade", wait_s=wait_s), timeout_s=30)
    lease = envelope.header
    if isinstance(lease, m.NoWork):
        return None
    assert isinstance(lease, m.Lease)
    answer = json.loads(envelope.blob("spec"))["answer"]
    texts, verdicts = envelope.blob("texts"), []
    for size in lease.text_bytes:
        right = texts[:size].decode().strip() == answer
        texts = texts[size:]
        verdicts.append(
            m.Verdict(outcome="pass" if right else "fail", reward=float(right), rewards={"accuracy": float(right)})
        )
    header = m.SubmitVerdicts(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, verdicts=verdicts)
    assert isinstance(ask(evaluator, header), m.Ack)
    return lease.task_id


def test_full_rounds_with_publishes(broker: BrokerProcess) -> None:
    with (
        client(broker, "learner") as learner,
        client(broker, "actor") as actor,
        client(broker, "evaluator") as evaluator,
    ):
        task = 0
        for version in range(3):
            parked = learner.call(m.Take(purpose="train", wait_s=20.0))
            for _ in range(4):
                assert isinstance(add(learner, f"t{task}"), m.Ack)
                task += 1
                assert generate(actor, version) == grade(evaluator)
            taken = [parked.result(20)]
            taken += [learner.request(m.Take(purpose="train", wait_s=10.0), timeout_s=20) for _ in range(3)]
            for envelope in taken:
                group = envelope.header
                assert isinstance(group, m.Group)
                assert [v.reward for v in group.verdicts] == [1.0, 0.0]
                np.testing.assert_array_equal(envelope.array("versions", "int32"), [version] * 6)
                np.testing.assert_array_equal(envelope.array("prompt_ids", "int32"), [1, 2, 3])
                assert envelope.text("prompt") == "1+1="
            report = ask(learner, m.Publish(version=version + 1))
            assert report.status["version"] == version + 1
            assert isinstance(
                ask(learner, m.Release(task_ids=[e.header.task_id for e in taken], outcome="trained")), m.Ack
            )  # type: ignore[attr-defined]
        status = ask(learner, m.GetStatus()).status
        assert status["counters"]["groups_trained"] == 12
        assert status["outstanding_train"] == status["taken"] == 0
        assert {p["role"] for p in status["peers"]} == {"learner", "actor", "evaluator"}


def test_killed_actor_loses_its_lease_and_the_task_is_leased_again(broker: BrokerProcess) -> None:
    with (
        client(broker, "learner") as learner,
        client(broker, "actor") as actor,
        client(broker, "evaluator") as evaluator,
    ):
        add(learner, "t1")
        keys = str(broker.paths.root / "keys")
        command = [sys.executable, "-c", DOOMED_ACTOR, broker.endpoints()["actor"], keys]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as doomed:
            assert doomed.stdout is not None
            assert doomed.stdout.readline() == "t1 Ack\n"
            assert generate(actor, 0, wait_s=0.0) is None
            killed = time.monotonic()
            os.kill(doomed.pid, signal.SIGKILL)
        assert generate(actor, 0, wait_s=20.0) == "t1"
        assert time.monotonic() - killed < 5
        assert grade(evaluator) == "t1"
        status = ask(learner, m.GetStatus()).status
        assert status["counters"]["leases_expired"] == 1
        assert status["counters"]["attempts_failed"] == 1


def test_a_lease_for_a_vanished_actor_goes_to_another_at_once(broker: BrokerProcess) -> None:
    """The actor that waited longest is gone without a word when work comes."""
    with client(broker, "learner") as learner, client(broker, "actor", "second") as second:
        gone = client(broker, "actor", "gone")
        gone.call(m.LeaseWork(kind="generate", version=0, wait_s=200.0))
        wait_until(lambda: ask(learner, m.GetStatus()).status["waiting"]["generate"] == 1, "the actor waits")
        gone.close()
        time.sleep(1.0)  # until the broker's socket has heard of it; before that, the lease would have to expire
        parked = second.call(m.LeaseWork(kind="generate", version=0, wait_s=20.0))
        add(learner, "t1")
        lease = parked.result(20).header
        assert isinstance(lease, m.Lease)
        assert lease.attempt == 0


def test_a_wrong_role_is_refused(broker: BrokerProcess) -> None:
    with client(broker, "actor") as actor, client(broker, "evaluator") as evaluator:
        for c, header in [
            (actor, m.Take(purpose="train")),
            (actor, m.LeaseWork(kind="grade")),
            (evaluator, m.Publish(version=1)),
            (evaluator, m.GetStatus()),
        ]:
            refused = ask(c, header)
            assert isinstance(refused, m.Refused)
            assert refused.code == "wrong_role"


def test_garbage_does_not_kill_the_broker(broker: BrokerProcess) -> None:
    endpoint = broker.endpoints()["actor"]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        raw = context.socket(zmq.DEALER)
        raw.setsockopt(zmq.LINGER, 0)
        dialler = Dialler(endpoint, "broker", run_keys(broker.paths, "actor"), client="actor")
        dialler.attach(raw)
        raw.connect(endpoint)
        good = [bytes(f) for f in encode(m.Renew(request_id=7, lease_id="x", token=1, progress=1), {"x": b"abc"})]
        for frames in (
            [b""],
            [b"\xff" * 100],
            [b"x" * 100_000],
            [b"\x80"],
            [os.urandom(500)],
            [b""] * 200,
            [good[0]],  # a frame is missing
            [good[0], b"abd"],  # another frame than described
            [good[0], b"abc"],  # fine on the wire, from a stranger
        ):
            raw.send_multipart(frames)
        answers = []
        while len(answers) < 3:
            assert raw.poll(10_000), f"only {len(answers)} answers"
            answers.append(raw.recv_multipart()[0])
        assert all(b"refused" in a for a in answers)
        dialler.detach()
        raw.close()
        with contextlib.closing(socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))) as plain:
            plain.sendall(os.urandom(10_000))
    finally:
        context.destroy(0)
    with client(broker, "learner") as learner:
        add(learner, "t1")
        assert ask(learner, m.GetStatus()).status["queues"]["generate"] == 1
    code, errors = broker.end()
    assert code == 0
    assert "Traceback" not in errors


def test_metrics_are_served(broker: BrokerProcess) -> None:
    with client(broker, "learner") as learner:
        add(learner, "t1")
        record = json.loads((broker.paths.processes / "broker.json").read_text())

        def scraped() -> str | None:
            with urllib.request.urlopen(f"http://127.0.0.1:{record['metrics_port']}/metrics", timeout=5) as page:
                text = page.read().decode()
            return text if 'zeroq_broker_queue_depth{queue="generate"} 1.0' in text else None

        text = wait_until(scraped, "the queue's depth in the metrics")
    assert "zeroq_broker_tasks_admitted_total 1.0" in text
    assert 'zeroq_broker_group_staleness_publishes_bucket{le="+Inf"} 0.0' in text
    assert 'zeroq_broker_peers{role="learner"} 1.0' in text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stops_cleanly(broker: BrokerProcess, signum: signal.Signals) -> None:
    with client(broker, "actor") as actor:
        pending = actor.call(m.LeaseWork(kind="generate", version=0, wait_s=100.0))
        broker.process.send_signal(signum)
        _, errors = broker.process.communicate(timeout=10)
        assert broker.process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not pending.done()
    assert not broker.paths.endpoints.exists()


def test_a_port_in_use_is_a_user_error(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        broker = BrokerProcess(tmp_path / "run", ports={"actor": port})
        _, errors = broker.process.communicate(timeout=30)
    assert broker.process.returncode == 2
    assert f"broker.ports.actor = {port}: the port is in use; choose another, or 0 for a free one" in errors
    assert "Traceback" not in errors
    assert not broker.paths.endpoints.exists()


def test_fixed_ports_are_bound(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = BrokerProcess(tmp_path / "run", ports={"monitor": port})
    try:
        assert broker.endpoints()["monitor"] == f"tcp://127.0.0.1:{port}"
        with client(broker, "monitor") as monitor:
            assert ask(monitor, m.GetStatus()).status["version"] == 0
    finally:
        assert broker.end()[0] == 0

"""`zeroq logs`: pods that have no log yet or any more, readers that have seen enough."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.k8s import logs
from launcher.k8s.client import connect
from tests.unit.cluster_rig import ROOT, Run, fake, zeroq
from tests.unit.fake_kubernetes import FakeKubernetes, Fault

__all__ = ["fake", "zeroq"]  # fixtures

WAITING = 'container "actor" is waiting to start: ContainerCreating'


def stamped(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02d}.5Z {text}"


@pytest.mark.parametrize(("status", "message"), [(400, WAITING), (404, "gone")])
def test_a_pod_without_a_log_costs_the_others_nothing(
    fake: FakeKubernetes, zeroq: Run, status: int, message: str
) -> None:
    first, second = fake.pods("actor")
    fake.logs[second] = [stamped(1, "here")]
    fake.faults.append(Fault(status, path=f"{first}/log", times=9, message=message))
    code, out, err = zeroq("logs", "actor")
    assert (code, out) == (0, f"{second}: here\n")
    assert err.startswith("left out: ")
    assert message in err
    assert err.count("\n") == 1


def test_no_pod_with_a_log_is_an_error(fake: FakeKubernetes, zeroq: Run) -> None:
    fake.faults.append(Fault(400, path="/log", times=9, message="previous terminated container not found"))
    code, out, err = zeroq("logs", "actor", "--previous")
    assert (code, out) == (2, "")
    assert "previous terminated container not found" in err
    assert err.count("\n") == 1


def following(role: str, stop: threading.Event) -> threading.Thread:
    def run() -> None:
        with connect() as cluster:
            logs.print_logs(cluster, role, follow=True, tail=9, previous=False, stop=stop)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_keeps_a_log_away_is_said_once(
    fake: FakeKubernetes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "AGAIN_AFTER_S", 0.01)
    (pod,) = fake.pods("broker")
    fake.logs[pod] = [stamped(1, "at last")]
    fault = Fault(400, path="/log", times=20, message=WAITING)
    fake.faults.append(fault)
    stop, out, err = threading.Event(), "", ""
    thread = following("broker", stop)
    deadline = time.monotonic() + 20
    while "at last" not in out and time.monotonic() < deadline:
        captured = capsys.readouterr()
        out, err = out + captured.out, err + captured.err
        time.sleep(0.01)
    stop.set()
    fake.closing.set()
    thread.join(timeout=10)
    assert fault.times == 0
    assert out == f"{pod}: at last\n"
    assert err.count(WAITING) == 1


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_a_reader_that_has_seen_enough_ends_it(fake: FakeKubernetes, tmp_path: Path, more: tuple[str, ...]) -> None:
    """`zeroq logs -f actor | head -1`: no traceback, and no process that stays."""
    for pod in fake.pods("actor"):
        fake.logs[pod] = [stamped(i % 60, f"line {i}") for i in range(9000)]
    environment: dict[str, Any] = {**os.environ, "KUBECONFIG": str(fake.kubeconfig(tmp_path))}
    command = [sys.executable, "-m", "launcher", "logs", "actor", "--tail", "9000", *more]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "line" in process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
        assert process.stderr.read() == ""

"""The process pool with real processes: restarts, fatal deaths, the order of a stop, and no orphan, ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import RunFailure, UserError
from common.lifecycle import RunPaths
from launcher.pool import Pool
from launcher.processes import ProcessRole
from tests.integration.pool_host import spec

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[ProcessRole, float] = {"learner": 5, "actor": 5, "evaluator": 5, "broker": 5}


def until(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {deadline_s} s")


class Rig:
    """A pool, the events it told of, and what its processes recorded."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.paths = RunPaths(folder)
        self.record = folder / "record"
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.pool = Pool(
            self.paths,
            lambda event, **fields: self.events.append((event, fields)),
            **({"backoff_s": 0.05, "stop_deadline_s": QUICK} | options),
        )

    def start(self, **modes: str) -> None:
        """Start processes, `actor_0="serve"`."""
        specs = []
        for key, mode in modes.items():
            name = key.replace("_", "-")
            role = key.split("_")[0]
            specs.append(spec(self.record, name, role, mode, max_restarts=2))  # type: ignore[arg-type]
        self.pool.start(specs)
        names = [key.replace("_", "-") for key in modes]
        names += [f"{key.replace('_', '-')}-child" for key, mode in modes.items() if mode == "family"]
        until(lambda: all(self.said(name, "started") for name in names), f"start of {names}")

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def said(self, name: str, what: str) -> list[list[str]]:
        return [line for line in self.lines() if line[0] == name and line[1] == what]


@pytest.fixture
def rig(tmp_path: Path, no_leaked_processes: None) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.pool.stop()


def pids(record: Path) -> list[int]:
    if not record.exists():
        return []
    return [int(line.split()[2]) for line in record.read_text().splitlines() if line.split()[1] == "started"]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_learners_success_ends_the_run(rig: Rig) -> None:
    rig.start(broker="serve", learner="finish")
    assert until(rig.pool.poll, "the end")


@pytest.mark.parametrize("role", ["actor", "evaluator"])
def test_killed_workers_are_restarted_within_their_budget(rig: Rig, role: str) -> None:
    rig.start(broker="serve", learner="serve", **{f"{role}_0": "serve"})
    for restart in (1, 2):
        os.kill(rig.pool.children[f"{role}-0"].process.pid, signal.SIGKILL)
        until(lambda: rig.pool.poll() or len(rig.events) == restart, "the restart")  # noqa: B023
        until(lambda: rig.pool.poll() or len(rig.said(f"{role}-0", "started")) == restart + 1, "the start")  # noqa: B023
    assert [event for event, _ in rig.events] == [f"{role}_restarted"] * 2
    assert [fields["exit"] for _, fields in rig.events] == ["signal SIGKILL"] * 2
    os.kill(rig.pool.children[f"{role}-0"].process.pid, signal.SIGKILL)
    with pytest.raises(RunFailure, match=rf"{role}.max_restarts=2 is used up"):
        until(rig.pool.poll, "the failure")


def test_restarts_back_off(tmp_path: Path, no_leaked_processes: None) -> None:
    rig = Rig(tmp_path, backoff_s=60.0)
    with rig.pool:
        rig.start(broker="serve", learner="serve", actor_0="crash")
        until(lambda: rig.pool.poll() or rig.events, "the event")
        assert rig.events[0][1]["delay_s"] == 30.0  # the longest
        assert rig.events[0][1]["last_line"] == "about to crash: the disk of fake-room is on fire"
        rig.pool.poll()
        assert len(rig.said("actor-0", "started")) == 1


@pytest.mark.parametrize("role", ["broker", "learner"])
def test_a_dead_broker_or_learner_ends_the_run_with_its_last_lines(rig: Rig, role: str) -> None:
    rig.start(**({"broker": "serve", "learner": "serve"} | {role: "crash"}))
    with pytest.raises(RunFailure) as caught:
        until(rig.pool.poll, "the failure")
    assert f"{role} ended with exit code 3" in str(caught.value)
    assert "the disk of fake-room is on fire" in str(caught.value)


def test_a_process_that_refuses_its_input_is_the_users_error(rig: Rig) -> None:
    rig.start(broker="serve", learner="serve", actor_0="refuse")
    with pytest.raises(UserError, match=r"^learner\.lr is not to my taste; choose another$"):
        until(rig.pool.poll, "the refusal")


@pytest.mark.parametrize("mode", ["crash", "refuse"])
def test_a_prometheus_that_dies_is_let_go_and_the_run_goes_on(rig: Rig, mode: str) -> None:
    rig.start(broker="serve", learner="serve", prometheus=mode)
    until(lambda: rig.pool.poll() or len(rig.events) == 3, "the end of the budget")
    assert [event for event, _ in rig.events] == ["prometheus_restarted"] * 2 + ["monitoring_ended"]
    assert rig.events[-1][1]["log"]
    assert not rig.pool.poll()
    assert set(rig.pool.children) == {"broker", "learner"}


def test_stop_goes_from_the_learner_to_the_broker(rig: Rig) -> None:
    rig.start(broker="serve", evaluator_0="serve", actor_0="serve", learner="serve", prometheus="serve")
    rig.pool.stop()
    order = [line[0] for line in rig.lines() if line[1] == "SIGTERM"]
    assert order == ["learner", "actor-0", "evaluator-0", "broker", "prometheus"]


def test_those_that_do_not_stop_are_killed(tmp_path: Path, no_leaked_processes: None) -> None:
    rig = Rig(tmp_path, stop_deadline_s=dict.fromkeys(QUICK, 0.3))
    rig.start(broker="serve", actor_0="stubborn")
    rig.pool.stop()
    assert rig.said("actor-0", "SIGTERM")
    assert not any(alive(pid) for pid in pids(rig.record))


def test_grandchildren_in_sessions_of_their_own_are_killed_too(rig: Rig) -> None:
    rig.start(broker="serve", actor_0="family")
    rig.pool.stop()
    assert len(pids(rig.record)) == 3
    assert not any(alive(pid) for pid in pids(rig.record))


def test_a_dead_actors_family_is_gone_before_it_is_restarted(rig: Rig) -> None:
    rig.start(broker="serve", learner="serve", actor_0="family")
    first = int(rig.said("actor-0-child", "started")[0][2])
    os.kill(rig.pool.children["actor-0"].process.pid, signal.SIGKILL)
    until(lambda: rig.pool.poll() or rig.events, "the restart")
    assert not alive(first)


def test_actors_come_and_go_while_the_run_goes_on(rig: Rig) -> None:
    rig.start(broker="serve", learner="serve", actor_0="serve")
    rig.pool.add(spec(rig.record, "actor-1", "actor", "serve"))
    until(lambda: rig.said("actor-1", "started"), "the new actor")
    rig.pool.remove("actor-0")
    until(lambda: rig.pool.poll() or "actor-0" not in rig.pool.children, "the leaving")
    assert not rig.events
    with pytest.raises(ValueError, match="there is a process called actor-1"):
        rig.pool.add(spec(rig.record, "actor-1", "actor", "serve"))


def test_an_actor_that_will_not_leave_is_killed(tmp_path: Path, no_leaked_processes: None) -> None:
    rig = Rig(tmp_path, stop_deadline_s=dict.fromkeys(QUICK, 0.2))
    with rig.pool:
        rig.start(broker="serve", actor_0="stubborn")
        rig.pool.remove("actor-0")
        until(lambda: rig.pool.poll() or "actor-0" not in rig.pool.children, "the leaving")


def test_children_hear_no_terminal(rig: Rig) -> None:
    rig.start(broker="serve")
    process = rig.pool.children["broker"].process
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.integration.pool_host", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        until((tmp_path / "up").exists, "the host's start")
        until(lambda: len(pids(tmp_path / "record")) == 5, "the start of five processes")
        yield process
    finally:
        process.kill()
        process.wait()


def test_kill_9_of_the_launcher_leaves_no_orphan(host: subprocess.Popen[bytes], tmp_path: Path) -> None:
    family = {int(line.split()[2]) for line in (tmp_path / "record").read_text().splitlines() if "-child" in line}
    host.kill()
    host.wait()
    ours = [pid for pid in pids(tmp_path / "record") if pid not in family]
    assert len(ours) == 4
    until(lambda: not any(alive(pid) for pid in ours), "the end of the launcher's children", 5.0)
    for pid in family:  # a real room ties its own children to itself (common.lifecycle.die_with_parent)
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order_and_exits_130(
    host: subprocess.Popen[bytes], tmp_path: Path, signum: signal.Signals
) -> None:
    os.killpg(host.pid, signum)  # as a terminal does: to the whole foreground group
    assert host.wait(30) == 130
    lines = [line.split() for line in (tmp_path / "record").read_text().splitlines()]
    assert [line[0] for line in lines if line[1] == "SIGTERM" and "-child" not in line[0]] == [
        "learner",
        "actor-0",
        "evaluator-0",
        "broker",
    ]
    assert not [line for line in lines if line[1] == "SIGINT"]
    assert not any(alive(pid) for pid in pids(tmp_path / "record"))

"""A real evaluator process against a broker that the test plays: one ROUTER socket and a script."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
import zmq

from common.client import configure_socket, send_frames
from common.lifecycle import write_atomic
from common.message_parts import SCHEMA_VERSION
from common.messages import (
    Ack,
    Header,
    Hello,
    Lease,
    LeaseWork,
    NoWork,
    Refused,
    Renew,
    ReturnLease,
    SubmitVerdicts,
    Welcome,
)
from common.wire import decode, encode

ROOT = Path(__file__).parents[2]
GOOD = "<think>one half and one quarter</think><answer>3/4</answer>"
WRONG = "<think>one half and one quarter</think><answer>1/4</answer>"
SLOW = "<think>hm</think><answer>\\int_0^1 \\frac{\\ln(1+x^7)}{1+\\sqrt{x}} dx</answer>"
MATH = {"kind": "math", "answer": "0.75", "columns": {}}


class ScriptedBroker:
    """Leases the tasks put to it, once each, and records what comes back."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[tuple[Lease, dict[str, bytes]]] = queue.SimpleQueue()
        self.received: list[Header] = []
        self.answer: Callable[[Header], Header | None] = lambda header: Ack(deadline_s=1.0)
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        configure_socket(self._socket)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def add(
        self, task_id: str, texts: list[str], spec: dict[str, Any], deadline_s: float = 60.0, attempt: int = 0
    ) -> None:
        encoded = [text.encode() for text in texts]
        lease = Lease(
            kind="grade",
            lease_id=f"lease-{task_id}",
            token=7,
            task_id=task_id,
            purpose="train",
            deadline_s=deadline_s,
            group_size=len(texts),
            attempt=attempt,
            text_bytes=[len(text) for text in encoded],
        )
        self.tasks.put((lease, {"prompt": b"P", "texts": b"".join(encoded), "spec": json.dumps(spec).encode()}))

    def of(self, kind: type[Header], task_id: str) -> list[Any]:
        """Requests of one type about one task, in order."""
        return [h for h in list(self.received) if isinstance(h, kind) and h.lease_id == f"lease-{task_id}"]  # type: ignore[attr-defined]

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        waiting: list[tuple[bytes, int, float]] = []
        while not self._closed.is_set():
            if self._socket.poll(20):
                identity, *message = self._socket.recv_multipart()
                header = decode(message).header
                self.received.append(header)
                if isinstance(header, LeaseWork):
                    waiting.append((identity, header.request_id, time.monotonic() + header.wait_s))
                elif isinstance(header, Hello):
                    self._reply(identity, header.request_id, Welcome(broker_incarnation="b", version=0))
                elif (reply := self.answer(header)) is not None:
                    self._reply(identity, header.request_id, reply)
            for waiter in list(waiting):
                if not self.tasks.empty():
                    lease, payload = self.tasks.get()
                    self._reply(waiter[0], waiter[1], lease, payload)
                elif time.monotonic() > waiter[2]:
                    self._reply(waiter[0], waiter[1], NoWork())
                else:
                    continue
                waiting.remove(waiter)

    def _reply(self, identity: bytes, request_id: int, header: Header, payload: dict[str, bytes] | None = None) -> None:
        frames = encode(header.model_copy(update={"request_id": request_id}), payload)
        send_frames(self._socket, [identity, *frames])


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    scripted = ScriptedBroker()
    yield scripted
    scripted.close()


@contextmanager
def evaluator(directory: Path, endpoint: str, **reward: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A running evaluator process; killed at the end if the test has not ended it."""
    security = {"mode": "off"}  # the broker is played
    config = {"model": "none", "data": {"train": "none.jsonl"}, "reward": reward, "security": security}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    write_atomic(directory / "endpoints.json", json.dumps({"evaluator": endpoint}))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "unit")])}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "evaluator", "--run-dir", str(directory), "--name", "evaluator-0"],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=ROOT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], directory: Path, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, (directory / "log").read_text()
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_groups_are_graded_workers_replaced_and_a_stop_leaves_nothing(tmp_path: Path, broker: ScriptedBroker) -> None:
    with evaluator(tmp_path, broker.endpoint) as process:
        for number in range(12):
            broker.add(f"t{number}", [GOOD, WRONG, "nothing"], MATH)
        wait_until(lambda: all(broker.of(SubmitVerdicts, f"t{n}") for n in range(12)), tmp_path)
        for number in range(12):
            (submit,) = broker.of(SubmitVerdicts, f"t{number}")
            assert (submit.token, submit.task_id) == (7, f"t{number}")
            assert [v.outcome for v in submit.verdicts] == ["pass", "fail", "fail"]
            assert [v.reward for v in submit.verdicts] == [2.0, 1.0, 0.0]

        workers = [pid for pid in descendants(process) if psutil.Process(pid).ppid() != process.pid]
        assert workers
        assert not any(
            "libtorch" in mapped.path
            for pid in [process.pid, *descendants(process)]
            for mapped in psutil.Process(pid).memory_maps()
        )
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        broker.add("after", [GOOD], MATH)
        wait_until(lambda: broker.of(SubmitVerdicts, "after"), tmp_path)

        everything = descendants(process)
        process.terminate()
        assert process.wait(timeout=20) == 0, (tmp_path / "log").read_text()
        wait_until(lambda: not any(runs(pid) for pid in everything), tmp_path)
        assert not [h for h in broker.received if isinstance(h, ReturnLease)]


def test_slow_group_is_renewed_with_progress_and_a_cancelled_one_is_dropped(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    def answer(header: Header) -> Header:
        if isinstance(header, Renew) and header.lease_id == "lease-cancelled":
            return Refused(code="cancelled", detail="swept at publish 3")
        return Ack(deadline_s=1.0)

    broker.answer = answer
    with evaluator(tmp_path, broker.endpoint, math_timeout_s=0.7) as process:
        broker.add("slow", [GOOD, *[SLOW] * 5], MATH, deadline_s=1.0)
        wait_until(lambda: broker.of(SubmitVerdicts, "slow"), tmp_path)
        (submit,) = broker.of(SubmitVerdicts, "slow")
        assert [v.outcome for v in submit.verdicts] == ["pass", *["timeout"] * 5]
        assert [v.rewards["accuracy"] for v in submit.verdicts] == [1.0, *[0.0] * 5]
        progress = [renewal.progress for renewal in broker.of(Renew, "slow")]
        assert progress
        assert progress == sorted(set(progress))

        broker.add("cancelled", [GOOD, *[SLOW] * 20], MATH, deadline_s=1.0)
        wait_until(lambda: broker.of(Renew, "cancelled"), tmp_path)
        broker.add("next", [GOOD], MATH)
        wait_until(lambda: broker.of(SubmitVerdicts, "next"), tmp_path)

        broker.add("draining", [SLOW] * 40, MATH)
        wait_until(lambda: broker.tasks.empty(), tmp_path)
        process.terminate()
        assert process.wait(timeout=30) == 0, (tmp_path / "log").read_text()
        assert not broker.of(SubmitVerdicts, "cancelled")
        assert not broker.of(ReturnLease, "cancelled")
        assert [(r.failed, r.reason) for r in broker.of(ReturnLease, "draining")] == [(False, "evaluator stopping")]


def test_broken_grader_returns_the_lease_and_never_a_verdict(tmp_path: Path, broker: ScriptedBroker) -> None:
    components = [
        {"name": "accuracy"},
        {"name": "mine", "kind": "function", "function": "evaluator_targets:dying_reward"},
    ]
    with evaluator(tmp_path, broker.endpoint, components=components):
        broker.add("dies", [GOOD, "die"], MATH)
        broker.add("unknown", [GOOD], {"kind": "proof"})
        broker.add("lives", [GOOD], MATH)
        wait_until(
            lambda: (
                broker.of(ReturnLease, "dies")
                and broker.of(ReturnLease, "unknown")
                and broker.of(SubmitVerdicts, "lives")
            ),
            tmp_path,
        )
        (returned,) = broker.of(ReturnLease, "dies")
        assert returned.failed
        assert "died twice" in returned.reason
        (returned,) = broker.of(ReturnLease, "unknown")
        assert returned.failed
        assert "no grader for accuracy kind 'proof'" in returned.reason
        assert not broker.of(SubmitVerdicts, "dies")
        assert not broker.of(SubmitVerdicts, "unknown")
        (submit,) = broker.of(SubmitVerdicts, "lives")
        assert submit.verdicts[0].rewards == {"accuracy": 1.0, "mine": 0.5}


def test_submit_is_kept_until_acknowledged(tmp_path: Path, broker: ScriptedBroker) -> None:
    def answer(header: Header) -> Header | None:
        first = isinstance(header, SubmitVerdicts) and len(broker.of(SubmitVerdicts, "kept")) == 1
        return None if first else Ack(deadline_s=60.0)  # the first reply is lost

    broker.answer = answer
    with evaluator(tmp_path, broker.endpoint):
        broker.add("kept", [GOOD], MATH)
        wait_until(lambda: len(broker.of(SubmitVerdicts, "kept")) == 2, tmp_path)
        first, second = broker.of(SubmitVerdicts, "kept")
        assert first == second


def test_killed_evaluator_leaves_no_process_behind(tmp_path: Path, broker: ScriptedBroker) -> None:
    with evaluator(tmp_path, broker.endpoint, math_timeout_s=600.0) as process:
        broker.add("slow", [SLOW] * 4, MATH)
        wait_until(lambda: broker.tasks.empty(), tmp_path)
        left = descendants(process)
        assert left
        process.kill()
        process.wait()
        wait_until(lambda: not any(runs(pid) for pid in left), tmp_path, timeout_s=10)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"kind": "function", "function": "no_such_module:f"}, "reward.components[0].function = 'no_such_module:f'"),
        ({"kind": "language", "language": "tlh"}, "reward.components[0].language = 'tlh'"),
        ({"kind": "reward_model", "model": "no/such"}, "reward.components[0].model: no/such: no such directory"),
    ],
)
def test_unusable_reward_is_a_user_error(tmp_path: Path, component: dict[str, Any], message: str) -> None:
    with evaluator(tmp_path, "tcp://127.0.0.1:9", components=[{"name": "c", **component}]) as process:
        assert process.wait(timeout=60) == 2
    assert f"error: {message}" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_broker_of_another_schema_version_is_one_line_and_exit_2(
    replaced: bool, tmp_path: Path, broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also when a broker that was of ours is replaced while a group is graded."""
    broker.answer = lambda header: Refused(code="invalid", detail="?").model_copy(update={"v": SCHEMA_VERSION + 1})
    if not replaced:
        monkeypatch.setattr(f"{__name__}.Welcome", lambda **_: broker.answer(Ack()))
    broker.add("t", [GOOD], MATH)
    with evaluator(tmp_path, broker.endpoint) as process:
        assert process.wait(60) == 2
    assert len(broker.of(SubmitVerdicts, "t")) == replaced
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        f"error: {broker.endpoint}: schema version {SCHEMA_VERSION + 1} came, {SCHEMA_VERSION} is spoken here: the "
        "sender is newer; give all processes one image tag"
    )


def test_stop_without_a_broker_ends_the_process_in_seconds(tmp_path: Path, broker: ScriptedBroker) -> None:
    with evaluator(tmp_path, broker.endpoint) as process:
        wait_until(lambda: any(isinstance(h, LeaseWork) for h in list(broker.received)), tmp_path)
        broker.close()
        process.terminate()
        assert process.wait(timeout=15) == 0, (tmp_path / "log").read_text()


def test_a_function_that_breaks_its_contract_ends_the_run_and_one_that_raises_does_after_all_attempts(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    directory = tmp_path / "rl_all"
    directory.mkdir()
    spec = {"kind": "none", "id": "general/17", "columns": {}}
    raising = [{"name": "mine", "kind": "function", "function": "evaluator_targets:raising_reward"}]
    with evaluator(directory, broker.endpoint, components=raising) as process:
        broker.add("first", [GOOD], spec)
        wait_until(lambda: broker.of(ReturnLease, "first"), directory)
        (returned,) = broker.of(ReturnLease, "first")
        assert returned.failed
        assert returned.reason.startswith("reward component 'mine' (evaluator_targets:raising_reward) raised KeyError")
        assert process.poll() is None  # the function may have had bad luck
        broker.add("last", [GOOD], spec, attempt=2)
        assert process.wait(timeout=60) == 2
    assert broker.of(ReturnLease, "last")[0].failed
    line = (directory / "log").read_text().splitlines()[-1]
    assert line.startswith(
        "error: run rl_all, task last (row 'general/17'): reward component 'mine' (evaluator_targets:raising_reward) "
        "raised KeyError: 'solution'"
    )
    assert line.endswith("go on with resume=auto")

    silent = [{"name": "mine", "kind": "function", "function": "evaluator_targets:silent_reward"}]
    with evaluator(directory, broker.endpoint, components=silent) as process:
        broker.add("silent", [GOOD, GOOD], spec)
        assert process.wait(timeout=60) == 2
    assert not broker.of(SubmitVerdicts, "silent")
    line = (directory / "log").read_text().splitlines()[-1]
    assert "row 'general/17'): rollout 0 has no reward: reward component 'mine'" in line


def test_reward_models_score_in_a_process_that_dies_with_its_evaluator(tmp_path: Path, broker: ScriptedBroker) -> None:
    from common.reward_model import RewardModelFacts
    from tests.reward_rig import make_reward_model

    model = make_reward_model(tmp_path / "rm", RewardModelFacts("safety", "response", 64))
    components = [
        {"name": "format", "kind": "format"},
        {"name": "safe", "kind": "reward_model", "model": str(model), "when": {"aspect": "safety"}},
    ]
    with evaluator(tmp_path, broker.endpoint, components=components) as process:
        for number in range(6):
            aspect = "safety" if number % 2 else "helpfulness"
            broker.add(f"t{number}", [GOOD, WRONG], {"kind": "none", "columns": {"aspect": aspect}})
        wait_until(lambda: all(broker.of(SubmitVerdicts, f"t{n}") for n in range(6)), tmp_path)
        found = [broker.of(SubmitVerdicts, f"t{n}")[0].verdicts for n in range(6)]
        assert [[v.rewards["safe"] is None for v in group] for group in found] == [[True] * 2, [False] * 2] * 3
        scores = [[v.rewards["safe"] for v in group] for group in found[1::2]]
        assert scores[1] == pytest.approx(scores[0], abs=1e-5)
        assert scores[0][0] != pytest.approx(scores[0][1], abs=1e-3)
        assert found[1][0].reward == pytest.approx(1.0 + scores[0][0])
        everything = descendants(process)
        with_torch = [pid for pid in everything if any("libtorch" in m.path for m in psutil.Process(pid).memory_maps())]
        assert len(with_torch) == 1
        process.kill()
        process.wait()
        wait_until(lambda: not any(runs(pid) for pid in everything), tmp_path, timeout_s=10)

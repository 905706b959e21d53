"""The loop's parts: leases and renewals, failures in a row, and what importing the room costs."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import pytest

from common.errors import BrokerUnavailable, LeaseLost, RunFailure, UserError, WireError
from common.lifecycle import StopFlag
from common.messages import Ack, Header, Lease, Refused, Renew
from common.wire import Envelope, Payload
from evaluator import loop
from evaluator.lease import LeaseKeeper, Task
from evaluator.loop import MAX_FAILURES_IN_A_ROW, Graders, Health


def lease(**fields: Any) -> Lease:
    return Lease(
        **{
            "kind": "grade",
            "lease_id": "L",
            "token": 3,
            "task_id": "T",
            "purpose": "train",
            "deadline_s": 30.0,
            "group_size": 2,
            "attempt": 0,
            "text_bytes": [2, 3],
            **fields,
        }
    )


def frames(texts: bytes = "éabc".encode(), spec: bytes = b'{"kind": "none"}') -> Payload:
    return {"prompt": b"P", "texts": texts, "spec": spec}


def test_lease_is_cut_into_texts() -> None:
    task = Task(Envelope(lease(), frames()))
    assert task.texts == ["é", "abc"]
    assert (task.prompt, task.spec) == ("P", {"kind": "none"})


@pytest.mark.parametrize(
    ("fields", "payload", "message"),
    [
        ({"text_bytes": [2, 2]}, frames(), "text_bytes sum to 4"),
        ({"text_bytes": [5]}, frames(), "1 texts for 2 rollouts"),
        ({}, frames(spec=b"{"), "not JSON"),
        ({}, frames(spec=b"[]"), "not a mapping"),
        ({}, {"prompt": b"P", "texts": b"abcde"}, "'spec'"),
    ],
)
def test_malformed_lease_is_refused(fields: dict[str, Any], payload: Payload, message: str) -> None:
    with pytest.raises(WireError, match=message):
        Task(Envelope(lease(**fields), payload))


class FakeClient:
    """Records requests; the test answers them."""

    def __init__(self) -> None:
        self.sent: list[Renew] = []
        self.replies: list[Future[Envelope]] = []

    def call(self, header: Renew) -> Future[Envelope]:
        self.sent.append(header)
        self.replies.append(Future())
        return self.replies[-1]

    def answer(self, header: Header) -> None:
        self.replies[-1].set_result(Envelope(header, {}))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kept() -> tuple[LeaseKeeper, FakeClient, Clock]:
    client, clock = FakeClient(), Clock()
    return LeaseKeeper(client, lease(), clock=clock), client, clock  # type: ignore[arg-type]


def test_renewals_are_sent_when_due_and_only_with_progress(kept: tuple[LeaseKeeper, FakeClient, Clock]) -> None:
    keeper, client, clock = kept
    keeper.tick(1)
    assert client.sent == []
    clock.now += 11
    keeper.tick(1)
    assert [(r.lease_id, r.token, r.progress) for r in client.sent] == [("L", 3, 1)]
    keeper.tick(2)
    assert len(client.sent) == 1  # one at a time
    client.answer(Ack(deadline_s=60.0))
    clock.now += 19
    keeper.tick(2)
    assert len(client.sent) == 1  # a third of 60 s has not passed
    clock.now += 21
    keeper.tick(2)
    assert client.sent[-1].progress == 2
    client.answer(Ack())
    keeper.tick(2)
    clock.now += 100
    keeper.tick(2)
    assert len(client.sent) == 2  # no progress, no renewal


@pytest.mark.parametrize("code", ["cancelled", "lease_lost"])
def test_lost_lease_ends_the_work(kept: tuple[LeaseKeeper, FakeClient, Clock], code: str) -> None:
    keeper, client, clock = kept
    clock.now += 11
    keeper.tick(1)
    client.answer(Refused.model_validate({"code": code, "detail": "swept"}))
    with pytest.raises(LeaseLost, match="swept"):
        keeper.tick(1)


def test_unanswered_or_refused_renewal_does_not_end_the_work(kept: tuple[LeaseKeeper, FakeClient, Clock]) -> None:
    keeper, client, clock = kept
    clock.now += 11
    keeper.tick(1)
    client.answer(Refused(code="no_progress", detail=""))
    keeper.tick(1)
    keeper.tick(2)
    client.replies[-1].set_exception(BrokerUnavailable("gone"))
    keeper.tick(2)


def test_failures_in_a_row_end_the_process_and_a_success_resets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_PAUSE_S", 0.0)
    health, stop = Health(), StopFlag()
    for _ in range(3):
        for _ in range(MAX_FAILURES_IN_A_ROW - 1):
            health.failed("bad", stop)
        health.succeeded()
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        health.failed("bad", stop)
    with pytest.raises(RunFailure, match="8 groups in a row could not be graded; the last: bad"):
        health.failed("bad", stop)


def config(**reward: Any) -> Any:
    from common.config import RunConfig

    return RunConfig.model_validate({"model": "m", "data": {"train": "t.jsonl"}, "reward": reward})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module_anywhere:f", "No module named"),
        ("evaluator_targets:no_such", "has no 'no_such'"),
        ("evaluator_targets:strict_reward", "must take"),
    ],
)
def test_unusable_function_is_a_user_error_at_start_that_names_its_key(function: str, message: str) -> None:
    components = [{"name": "a"}, {"name": "f", "kind": "function", "function": function}]
    with pytest.raises(UserError, match=rf"reward\.components\[1\]\.function = '{function}'.*{message}"):
        Graders(config(components=components))


def test_broken_grader_library_is_a_failure_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise loop.CallFailed("a worker could not start: RuntimeError: math-verify is broken")

    monkeypatch.setattr(loop, "WorkerPool", fail)
    with pytest.raises(RunFailure, match=r"the graders do not work here: .*math-verify is broken"):
        Graders(config())


def test_importing_the_room_loads_no_torch_and_no_grader_library() -> None:
    program = (
        "import json, sys, evaluator.loop, evaluator.__main__\n"
        "print(json.dumps([m for m in ('torch', 'sympy', 'math_verify', 'reasoning_gym', 'py3langid')"
        " if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(found.stdout) == []


def test_graders_load_no_torch() -> None:
    program = (
        "import sys, evaluator.graders.math_answer, evaluator.graders.language, "
        "evaluator.graders.reasoning_gym_answer\nprint('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "False"

"""The way of a task through the broker: admission, credit, grading, take, release, and long polls."""

from __future__ import annotations

import pytest
from broker_harness import Harness, group_frames, make_config

from common import messages as m


def test_one_task_from_admission_to_training() -> None:
    h = Harness()
    assert h.add("t1") == m.Ack(request_id=2)
    reply = h.lease("actor1")
    assert isinstance(reply, m.Lease)
    assert (reply.kind, reply.task_id, reply.group_size, reply.attempt) == ("generate", "t1", 2, 0)
    assert reply.sampling == m.Sampling(max_tokens=64)
    assert reply.deadline_s == 10.0
    assert isinstance(h.submit("actor1", reply), m.Ack)
    grading = h.lease("evaluator1")
    assert isinstance(grading, m.Lease)
    assert (grading.kind, grading.text_bytes, grading.sampling) == ("grade", [2, 2], None)
    assert grading.token > reply.token
    assert isinstance(h.grade("evaluator1", grading), m.Ack)
    h.now += 1.5
    group = h.take()
    assert group is not None
    assert isinstance(group.header, m.Group)
    assert group.header.queued_s == 1.5
    assert len(group.header.rollouts) == len(group.header.verdicts) == 2
    assert sorted(group.payload) == ["logprobs", "prompt", "prompt_ids", "texts", "token_ids", "versions"]
    assert h.release("t1", request_id=99) == m.Ack(request_id=99)
    assert h.counters["groups_trained"] == 1
    assert h.status()["taken"] == 0


def test_leases_carry_only_what_their_holder_may_see() -> None:
    h = Harness()
    h.add("t1")
    h.hello("actor1")
    reply = h.send(b"actor1", "actor", m.LeaseWork(kind="generate", version=0))
    assert reply is not None
    assert list(reply.payload) == ["prompt_ids"]
    assert isinstance(reply.header, m.Lease)
    h.submit("actor1", reply.header)
    h.hello("evaluator1")
    reply = h.send(b"evaluator1", "evaluator", m.LeaseWork(kind="grade"))
    assert reply is not None
    assert sorted(reply.payload) == ["prompt", "spec", "texts"]
    assert reply.payload["texts"] == b"abab"


def test_payload_frames_are_handed_on_without_a_copy() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    frames = group_frames([3, 3], 0, b"abab")
    h.submit("actor1", lease, frames=frames)
    h.grade("evaluator1", h.lease("evaluator1"))
    group = h.take()
    assert group is not None
    for name, frame in frames.items():
        assert group.payload[name] is frame


def test_no_work_at_once_without_patience_and_after_wait_s_with() -> None:
    h = Harness()
    assert isinstance(h.lease("actor1"), m.NoWork)
    assert h.lease("actor1", wait_s=5, request_id=41) is None
    assert isinstance(h.lease("actor2"), m.NoWork)
    assert h.take(wait_s=4, request_id=42) is None
    assert h.state.next_deadline(h.now) == 4
    assert [r.header for r in h.advance(4)] == [m.NoWork(request_id=42)]
    assert [r.header for r in h.advance(1)] == [m.NoWork(request_id=41)]
    assert h.state.next_deadline(h.now) is None


def test_waiting_requests_are_served_in_order_as_work_comes() -> None:
    h = Harness()
    for name in ("actor1", "actor2"):
        assert h.lease(name, wait_s=30) is None
    assert h.take(wait_s=30, request_id=43) is None
    h.add("t1")
    assert [r.peer for r in h.mail] == [b"actor1"]
    assert isinstance(h.mail[0].header, m.Lease)
    h.submit("actor1", h.mail[0].header)
    h.grade("evaluator1", h.lease("evaluator1"))
    assert isinstance(h.mail[1].header, m.Group)
    assert h.mail[1].header.request_id == 43


def test_requests_without_an_id_are_all_different() -> None:
    h = Harness()
    for task_id in ("t1", "t2"):
        h.add(task_id)
    leases = [h.lease("actor1", request_id=0) for _ in range(2)]
    assert {lease.task_id for lease in leases} == {"t1", "t2"}
    assert h.lease("actor1", wait_s=9, request_id=0) is None
    assert h.lease("actor1", wait_s=9, request_id=0) is None
    assert h.status()["waiting"]["generate"] == 2


def test_eval_tasks_come_first_and_need_no_credit() -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=0))
    h.add("t1")
    assert h.add("t2").code == "no_credit"
    assert isinstance(h.add("e1", "eval"), m.Ack)
    assert h.complete() == "e1"
    assert h.complete() == "t1"
    assert h.taken_id("eval") == "e1"
    assert h.taken_id("eval") is None
    assert h.taken_id() == "t1"
    h.release("e1")
    assert h.counters["groups_evaluated"] == 1
    assert h.status()["outstanding_eval"] == 0


def test_eval_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.ledger.MAX_EVAL_TASKS", 2)
    h = Harness()
    assert isinstance(h.add("e1", "eval"), m.Ack)
    assert isinstance(h.add("e2", "eval"), m.Ack)
    assert h.add("e3", "eval").code == "no_credit"


@pytest.mark.parametrize("order", ["release first", "publish first"])
def test_credit_of_a_trained_task_comes_back_at_the_publish_in_either_order(order: str) -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=0))
    h.add("t1")
    h.complete()
    assert h.taken_id() == "t1"
    if order == "release first":
        h.release("t1")
        assert h.add("t2").code == "no_credit"
        h.publish(1)
    else:
        h.publish(1)
        assert h.add("t2").code == "no_credit"
        h.release("t1")
    assert isinstance(h.add("t2"), m.Ack)


def test_credit_is_never_exceeded() -> None:
    h = Harness()  # 2 groups per publish, eta 1: credit 4
    answers = [h.add(f"t{i}") for i in range(6)]
    assert [type(a) for a in answers] == [m.Ack] * 4 + [m.Refused] * 2
    assert answers[-1].code == "no_credit"
    assert "limit" in answers[-1].detail


def test_retry_regenerates_and_keeps_the_credit() -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=0))
    h.add("t1")
    h.complete()
    h.taken_id()
    h.release("t1", outcome="retry")
    assert h.add("t2").code == "no_credit"
    assert h.complete() == "t1"
    assert h.taken_id() == "t1"
    h.release("t1")
    assert h.counters["groups_retried"] == h.counters["groups_trained"] == 1


def test_release_is_all_or_nothing() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    h.complete()
    h.taken_id()
    refused = h.release("t1", "t2")
    assert refused.code == "unknown_task"
    assert "t2" in refused.detail
    assert h.status()["taken"] == 1
    assert h.release("t1", "never seen").code == "unknown_task"
    assert isinstance(h.release("t1"), m.Ack)

"""Repeated requests: whatever is sent again after a lost reply is answered alike and happens once."""

from __future__ import annotations

import pytest
from broker_harness import Harness

from common import messages as m


def test_add_task_again_is_a_duplicate_at_every_stage() -> None:
    h = Harness()
    assert not h.add("t1").duplicate
    assert h.add("t1").duplicate
    h.complete()
    assert h.add("t1").duplicate
    assert h.taken_id() == "t1"
    assert h.add("t1").duplicate
    h.release("t1")
    assert h.add("t1").duplicate
    assert h.counters["tasks_admitted"] == 1


def test_submit_again_is_a_duplicate_even_after_training() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    assert not h.submit("actor1", lease).duplicate
    assert h.submit("actor1", lease).duplicate
    grading = h.lease("evaluator1")
    assert not h.grade("evaluator1", grading).duplicate
    assert h.grade("evaluator1", grading).duplicate
    assert h.taken_id() == "t1"
    assert h.submit("actor1", lease).duplicate
    h.release("t1")
    h.publish(1)
    assert h.submit("actor1", lease).duplicate
    assert h.grade("evaluator1", grading).duplicate
    assert h.counters["groups_duplicated"] == 3
    assert h.counters["groups_generated"] == h.counters["groups_trained"] == 1


def test_submit_of_another_task_under_a_used_lease_is_not_a_duplicate() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    h.submit("actor1", lease)
    assert h.submit("actor1", lease, task_id="other").code == "lease_lost"


def test_a_take_sent_again_gets_the_same_group() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    h.complete()
    h.complete()
    first = h.take(request_id=500)
    again = h.take(request_id=500)
    assert first is not None
    assert again is not None
    assert isinstance(first.header, m.Group)
    assert first.header.task_id == again.header.task_id == "t1"  # type: ignore[attr-defined]
    assert h.taken_id() == "t2"


def test_a_take_sent_again_over_a_fresh_socket_gets_the_same_group_and_the_old_socket_none() -> None:
    h = Harness()
    for name in ("t1", "t2"):
        h.add(name)
        h.complete()
    h.take(request_id=500)
    header = m.Hello(role="learner", name="learner", incarnation="learner-inc", vocab_size=100, version=0)
    h.ask(b"fresh", "learner", header)
    again = h.send(b"fresh", "learner", m.Take(purpose="train"), request_id=500)
    assert again is not None
    assert again.header.task_id == "t1"  # type: ignore[attr-defined]
    late = h.ask(b"learner", "learner", m.Take(purpose="train"))
    assert late.code == "unknown_peer"
    assert h.status()["taken"] == 1


def test_a_lease_asked_for_again_is_the_same_lease() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    first = h.lease("actor1", request_id=77)
    h.now += 4
    again = h.lease("actor1", request_id=77)
    assert again.lease_id == first.lease_id
    assert again.deadline_s == 6.0
    assert h.lease("actor1", request_id=78).task_id == "t2"
    assert h.counters["leases_granted"] == 2


def test_a_parked_request_sent_again_moves_to_the_new_socket() -> None:
    h = Harness()
    assert h.lease("actor1", wait_s=5, request_id=9) is None
    h.ask(b"new", "actor", m.Hello(role="actor", name="actor1", incarnation="actor1-inc"))
    assert h.send(b"new", "actor", m.LeaseWork(kind="generate", wait_s=5, version=0), request_id=9) is None
    h.add("t1")
    assert [(r.peer, type(r.header)) for r in h.mail] == [(b"new", m.Lease)]


def test_release_again_is_a_duplicate_and_never_touches_a_later_take() -> None:
    h = Harness()
    h.add("t1")
    h.complete()
    assert h.taken_id() == "t1"
    assert not h.release("t1", outcome="retry", request_id=900).duplicate
    assert h.release("t1", outcome="retry", request_id=900).duplicate
    h.complete()
    assert h.taken_id() == "t1"
    assert h.release("t1", outcome="retry", request_id=900).duplicate  # a late copy of the first release
    assert h.status()["taken"] == 1
    assert not h.release("t1", request_id=901).duplicate
    assert h.release("t1", request_id=902).duplicate


def test_publish_again_changes_nothing() -> None:
    h = Harness()
    assert h.publish(1).status["version"] == 1
    h.publish(2)
    assert h.publish(1).status["version"] == 2
    assert h.publish(4).code == "version"
    assert h.status()["version"] == 2


def test_return_lease_again_is_a_duplicate() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    assert not h.give_back("actor1", lease, failed=True).duplicate
    assert h.give_back("actor1", lease, failed=True).duplicate
    assert h.counters["attempts_failed"] == 1


def test_memory_of_what_has_ended_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.ledger.MAX_FINISHED", 3)
    monkeypatch.setattr("broker.invariants.MAX_FINISHED", 3)
    monkeypatch.setattr("broker.leases.MAX_REMEMBERED", 4)
    monkeypatch.setattr("broker.learner_desk.MAX_REMEMBERED_RELEASES", 2)
    h = Harness()
    for i in range(8):
        h.add(f"t{i}")
        h.complete(i, lease_version=i)
        h.release(str(h.taken_id()))
        h.publish(i + 1)
    core = h.state.core
    assert list(core.ledger.finished) == ["t5", "t6", "t7"]
    assert len(core.leases.ended) == 4
    assert not h.add("t0").duplicate


def test_too_many_waiters_are_sent_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.waiting.MAX_WAITERS", 2)
    h = Harness()
    assert h.lease("actor1", wait_s=9) is None
    assert h.lease("actor1", wait_s=9) is None
    assert isinstance(h.lease("actor1", wait_s=9), m.NoWork)


def test_a_parked_request_sent_again_waits_on_even_when_the_room_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.waiting.MAX_WAITERS", 2)
    h = Harness()
    assert h.lease("actor1", wait_s=5, request_id=9) is None
    assert h.lease("actor2", wait_s=50) is None
    h.advance(3)
    assert h.lease("actor1", wait_s=5, request_id=9) is None
    assert h.advance(2) == []  # the alarm of the first sending
    assert [r.header for r in h.advance(3)] == [m.NoWork(request_id=9)]

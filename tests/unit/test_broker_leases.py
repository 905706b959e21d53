"""Leases: deadlines, progress, fencing, failed attempts, dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from broker_harness import Harness, make_config

from broker import core as core_module
from broker.records import Reply, RequestKey, Waiter
from common import messages as m


def test_renewal_moves_the_deadline_only_with_progress() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    h.now += 6
    assert h.renew("actor1", lease, 0).code == "no_progress"
    assert h.renew("actor1", lease, 5).deadline_s == 10.0
    h.now += 6
    refused = h.renew("actor1", lease, 5)
    assert refused.code == "no_progress"
    assert "progress 5 is not above 5" in refused.detail
    h.advance(3.9)
    assert h.status()["leases"]["generate"] == 1
    h.advance(0.2)
    assert h.status()["leases"]["generate"] == 0
    assert h.counters["leases_expired"] == h.counters["attempts_failed"] == 1


def test_a_renewal_sent_again_is_acknowledged_without_moving_the_deadline() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    h.renew("actor1", lease, 5, request_id=300)
    h.now += 4
    again = h.renew("actor1", lease, 5, request_id=300)
    assert again.duplicate
    assert again.deadline_s == 6.0


def test_expired_work_is_leased_again_and_late_work_refused() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    assert h.lease("actor2", wait_s=60) is None
    h.advance(10.0)
    (reply,) = h.mail
    assert isinstance(reply.header, m.Lease)
    assert (reply.peer, reply.header.task_id, reply.header.attempt) == (b"actor2", "t1", 1)
    assert reply.header.token > lease.token
    h.now += 2.1
    late = h.submit("actor1", lease)
    assert late.code == "lease_lost"
    assert "expired 2.1 s before" in late.detail
    assert "actor1" in late.detail
    assert h.renew("actor1", lease, 9).code == "lease_lost"
    assert isinstance(h.submit("actor2", reply.header), m.Ack)


def test_a_message_between_deadline_and_tick_still_counts() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    h.now += 11
    assert isinstance(h.submit("actor1", lease), m.Ack)
    h.advance(0)
    assert h.counters["leases_expired"] == 0


@pytest.mark.parametrize("change", [{"token": 999}, {"lease_id": "nonsense"}])
def test_a_wrong_token_or_lease_is_refused_and_harms_nobody(change: dict[str, object]) -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    assert h.submit("actor1", lease, **change).code == "lease_lost"
    assert h.counters["attempts_failed"] == 0
    assert isinstance(h.submit("actor1", lease), m.Ack)


def test_an_actor_cannot_touch_an_evaluators_lease() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    grading = h.lease("evaluator1")
    assert h.renew("actor1", grading, 5).code == "lease_lost"
    assert h.submit("actor1", grading).code == "lease_lost"
    assert h.give_back("actor1", grading, failed=True).code == "lease_lost"
    assert isinstance(h.grade("evaluator1", grading), m.Ack)


def test_returned_work_goes_to_the_front_and_only_failures_count() -> None:
    h = Harness(make_config(groups_per_step=4))
    for name in ("t1", "t2"):
        h.add(name)
    first = h.lease("actor1")
    h.give_back("actor1", first, failed=False)
    again = h.lease("actor1")
    assert (again.task_id, again.attempt) == ("t1", 0)
    h.give_back("actor1", again, failed=True)
    third = h.lease("actor1")
    assert (third.task_id, third.attempt) == ("t1", 1)


def test_dead_letters_can_be_read_to_the_last_one() -> None:
    h = Harness(make_config(groups_per_step=30, max_staleness=0))
    dead = [f"t{n}" for n in range(30)]
    for task_id in dead:
        h.add(task_id)
        for _ in range(3):
            h.give_back("actor1", h.lease("actor1"), failed=True, reason="no")
    assert [letter["task_id"] for letter in h.status()["dead_letters"]] == dead[10:]
    read: list[dict[str, Any]] = []
    while letters := h.ask(b"learner", "learner", m.GetStatus(dead_after=len(read))).status["dead_letters"]:
        read += letters
    assert [letter["task_id"] for letter in read] == dead
    assert [letter["number"] for letter in read] == list(range(1, 31))


@pytest.mark.parametrize("way", ["return", "expire", "invalid"])
def test_a_task_that_keeps_failing_becomes_a_dead_letter(way: str) -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=0))
    h.add("t1")
    assert h.add("t2").code == "no_credit"
    for _ in range(3):
        lease = h.lease("actor1")
        assert lease.task_id == "t1"
        if way == "return":
            h.give_back("actor1", lease, failed=True, reason="engine crashed")
        elif way == "expire":
            h.advance(10)
        else:
            assert h.submit("actor1", lease, versions=9).code == "invalid"
    (letter,) = h.status()["dead_letters"]
    assert (letter["task_id"], letter["attempts"]) == ("t1", 3)
    assert {"return": "engine crashed", "expire": "no progress within 10 s", "invalid": "versions[0] = 9"}[
        way
    ] in letter["reason"]
    assert h.counters["dead_lettered"] == 1
    assert isinstance(h.lease("actor1"), m.NoWork)
    assert isinstance(h.add("t2"), m.Ack)  # its credit is free again
    assert h.add("t1").duplicate


def test_attempts_are_counted_per_phase() -> None:
    h = Harness()
    h.add("t1")
    for _ in range(2):
        h.give_back("actor1", h.lease("actor1"), failed=True)
    h.generate()
    for _ in range(2):
        h.give_back("evaluator1", h.lease("evaluator1"), failed=True)
    h.grade("evaluator1", h.lease("evaluator1"))
    assert h.taken_id() == "t1"
    assert h.counters["attempts_failed"] == 4


def test_a_failed_grading_keeps_the_group() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    grading = h.lease("evaluator1")
    h.advance(10)
    again = h.lease("evaluator1")
    assert again.task_id == "t1"
    assert again.attempt == 1
    assert h.grade("evaluator1", grading).code == "lease_lost"
    assert isinstance(h.grade("evaluator1", again), m.Ack)
    assert h.counters["groups_generated"] == 1


def test_an_invalid_submit_sent_again_counts_once() -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    for _ in range(2):
        assert h.submit("actor1", lease, versions=9).code == "invalid"
    assert h.counters["attempts_failed"] == h.counters["submits_refused"] == 1


def test_an_undelivered_lease_goes_back_at_once_and_unharmed() -> None:
    h = Harness()
    h.lease("actor1", wait_s=30)
    h.lease("actor2", wait_s=30)
    h.add("t1")
    (reply,) = h.mail
    (second,) = h.state.undelivered(reply, h.now)
    assert isinstance(second.header, m.Lease)
    assert (second.peer, second.header.task_id, second.header.attempt) == (b"actor2", "t1", 0)
    assert h.state.undelivered(reply, h.now) == []
    assert h.state.undelivered(Reply(b"x", "actor", m.NoWork()), h.now) == []
    assert isinstance(h.submit("actor2", second.header), m.Ack)


class CountedLine(dict[RequestKey, Waiter]):
    """A line of waiting requests that counts how many of them were looked at."""

    num_looked_at = 0

    def values(self) -> Any:
        return CountedValues(self)


class CountedValues:
    def __init__(self, line: CountedLine) -> None:
        self._line = line

    def __iter__(self) -> Iterator[Waiter]:
        for key in self._line:
            self._line.num_looked_at += 1
            yield self._line[key]

    def __reversed__(self) -> Iterator[Waiter]:
        return (self._line[key] for key in reversed(self._line))


def test_who_waits_costs_nothing_when_another_is_served() -> None:
    """One actor that vanished with its thousands of requests waiting: its lease finds nobody that often."""
    h = Harness()
    line = h.state.core.waiting.lines["generate"] = CountedLine()
    for _ in range(500):
        h.lease("actor1", wait_s=30)
    h.lease("actor2", wait_s=30)
    h.add("t1")
    replies = h.mail[-1:]
    while replies[-1].peer == b"actor1":
        replies = h.state.undelivered(replies[-1], h.now)
    assert [(reply.peer, type(reply.header)) for reply in replies] == [(b"actor2", m.Lease)]
    assert line.num_looked_at <= 2 * 501


def test_alarms_of_what_has_ended_are_forgotten_and_the_others_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a lease and returns it, over and over, leaves two each time: at 1,000 a second for a minute."""
    monkeypatch.setattr(core_module, "SPARE_ALARMS", 50)
    h = Harness()
    h.add("t1")
    h.add("t2")
    kept = h.lease("actor2")
    assert h.lease("evaluator1", wait_s=5.0) is h.lease("evaluator2", wait_s=60.0) is None
    deadlines = h.state.core.deadlines
    for _ in range(300):
        h.give_back("actor1", h.lease("actor1", wait_s=60.0), failed=False)
        h.advance(0.001)
        assert len(deadlines) <= 60
    assert [type(reply.header) for reply in h.advance(5.0)] == [m.NoWork]
    assert kept.lease_id in h.state.core.leases.active
    h.advance(5.0)
    assert kept.lease_id not in h.state.core.leases.active

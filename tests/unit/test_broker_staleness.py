"""The staleness gates of the broker: stale actors, sweeps under mask and drop, holding back under pace, restarts."""

from __future__ import annotations

import pytest
from broker_harness import VOCAB, Harness, make_config

from broker.staleness import PaceWindow, cancels_lease, too_old
from common import messages as m


def restart(h: Harness, version: int | None, incarnation: str = "second") -> None:
    """A new incarnation of the learner, over a new socket."""
    h.learner = incarnation.encode()
    header = m.Hello(role="learner", name="learner", incarnation=incarnation, vocab_size=VOCAB, version=version)
    h.ask(h.learner, "learner", header)


@pytest.mark.parametrize(
    ("policy", "oldest", "newest", "expected"),
    [
        ("mask", 0, 2, True),
        ("mask", 0, 3, False),
        ("mask", 3, 3, False),
        ("drop", 2, 5, True),
        ("drop", 3, 5, False),
        ("pace", 0, 0, False),
    ],
)
def test_too_old_at_version_5_with_eta_2(policy: str, oldest: int, newest: int, expected: bool) -> None:
    assert too_old(policy, oldest=oldest, newest=newest, version=5, max_staleness=2) is expected  # type: ignore[arg-type]


def test_only_drop_cancels_leases() -> None:
    for policy, lease_version, expected in [
        ("mask", 0, False),
        ("pace", 0, False),
        ("drop", 2, True),
        ("drop", 3, False),
    ]:
        answer = cancels_lease(policy, lease_version=lease_version, version=5, max_staleness=2)  # type: ignore[arg-type]
        assert answer is expected, (policy, lease_version)


def test_a_stale_actor_may_not_sample_and_one_ahead_may() -> None:
    h = Harness()  # eta 1
    h.add("t1")
    h.add("t2")
    for version in (1, 2, 3):
        h.publish(version)
    assert h.lease("actor1", version=1).code == "version"
    assert h.lease("actor1", version=5).code == "version"
    assert isinstance(h.lease("actor1", version=2), m.Lease)
    assert isinstance(h.lease("actor1", version=4), m.Lease)
    reply = h.send(b"actor1", "actor", m.LeaseWork(kind="generate"))
    assert reply is not None
    assert reply.header.code == "version"  # type: ignore[attr-defined]


def test_an_actor_that_becomes_stale_while_waiting_is_told_so() -> None:
    h = Harness()
    assert h.lease("actor1", version=0, wait_s=100, request_id=60) is None
    h.publish(1)
    assert h.mail == []
    h.publish(2)
    (reply,) = h.mail
    assert isinstance(reply.header, m.Refused)
    assert (reply.header.request_id, reply.header.code) == (60, "version")
    h.add("t1")
    assert h.status()["queues"]["generate"] == 1


def test_mask_sweeps_groups_only_when_every_token_is_too_old() -> None:
    h = Harness(make_config(groups_per_step=4))
    for name in ("old", "mixed", "graded", "grading"):
        h.add(name)
    h.complete(0)  # old: all tokens 0, ready
    h.publish(1)
    h.complete([0, 0, 1, 0, 1, 1], lease_version=0)
    h.generate(0, lease_version=0)  # graded: all tokens 0, but still in the grade queue
    h.generate(0, lease_version=0)
    assert h.lease("evaluator1").task_id == "graded"
    grading = h.lease("evaluator1")
    h.publish(2)
    assert h.counters["groups_swept"] == 3
    assert h.counters["leases_cancelled"] == 2
    assert h.counters["attempts_failed"] == 0
    assert h.grade("evaluator1", grading).code == "cancelled"
    assert h.taken_id() == "mixed"
    assert [h.lease("actor1", version=2).task_id for _ in range(3)] == ["old", "graded", "grading"]


def test_mask_never_cancels_a_running_lease_but_refuses_what_is_all_too_old() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    first, second = h.lease("actor1"), h.lease("actor1")
    for version in (1, 2, 3):
        h.publish(version)
    assert isinstance(h.submit("actor1", first, [0, 0, 0, 1, 2, 3]), m.Ack)
    for _ in range(2):
        assert h.submit("actor1", second, [0, 0, 0, 1, 1, 1]).code == "stale"
    assert h.counters["groups_swept"] == 1
    assert h.counters["attempts_failed"] == 0
    assert h.lease("actor1", version=3).task_id == "t2"


def test_drop_sweeps_groups_with_any_old_token_and_cancels_old_leases() -> None:
    h = Harness(make_config(groups_per_step=3, staleness_policy="drop"))
    for name in ("mixed", "fresh", "running"):
        h.add(name)
    h.publish(1)
    h.complete([0, 0, 1, 1, 1, 1], lease_version=0)
    h.complete(1)
    running = h.lease("actor1", version=0)
    h.publish(2)
    assert h.counters["groups_swept"] == 1
    assert h.counters["leases_cancelled"] == 1
    assert h.taken_id() == "fresh"
    assert h.taken_id() is None
    assert h.renew("actor1", running, 5).code == "cancelled"
    assert h.submit("actor1", running).code == "cancelled"
    assert {h.lease("actor1", version=2).task_id for _ in range(2)} == {"mixed", "running"}


def test_evaluation_is_never_swept_or_cancelled() -> None:
    h = Harness(make_config(staleness_policy="drop"))
    h.add("e1", "eval")
    h.add("e2", "eval")
    h.complete(0)
    running = h.lease("actor1")
    for version in (1, 2, 3, 4):
        h.publish(version)
    assert h.taken_id("eval") == "e1"
    assert isinstance(h.submit("actor1", running), m.Ack)


def test_groups_that_the_learner_holds_are_not_swept() -> None:
    h = Harness()
    h.add("t1")
    h.complete(0)
    assert h.taken_id() == "t1"
    h.publish(1)
    h.publish(2)
    assert h.counters["groups_swept"] == 0
    assert not h.release("t1").duplicate


def test_oldest_group_first_then_order_of_completion() -> None:
    h = Harness(make_config(groups_per_step=4, max_staleness=3))
    for name in ("a", "b", "c", "d"):
        h.add(name)
    h.publish(1)
    h.publish(2)
    for versions in (2, 1, [2, 2, 2, 1, 2, 2], 0):
        h.complete(versions, lease_version=0)
    assert [h.taken_id() for _ in range(4)] == ["d", "b", "c", "a"]


# ------------------------------------------------------------------ pace


def test_pace_reserves_slots_for_tasks_that_are_due() -> None:
    h = Harness(make_config(groups_per_step=2, max_staleness=1, staleness_policy="pace"))
    for name in ("a", "b", "c", "d"):
        h.add(name)
    slow = h.lease("actor1", version=0)
    h.complete(0)
    h.complete(0)
    for _ in range(2):
        h.release(str(h.taken_id()))
    h.publish(1)
    h.complete(1)  # d, fresh
    h.add("e")
    h.complete(1)
    # version 1, eta 1: `a` began at 0 and must be trained in this window; one of two slots is its.
    assert h.taken_id() == "d"
    assert h.taken_id() is None
    assert h.take(wait_s=50, request_id=70) is None
    h.submit("actor1", slow)
    h.grade("evaluator1", h.lease("evaluator1"))
    (reply,) = [r for r in h.mail if r.header.request_id == 70]
    assert isinstance(reply.header, m.Group)
    assert reply.header.task_id == "a"


def test_pace_looks_further_than_the_current_window() -> None:
    """eta 2, one group per publish: at version 1, two unfinished tasks are due by version 2. They fill the windows of
    versions 1 and 2, so a younger group may not have the slot of window 1."""
    h = Harness(make_config(groups_per_step=1, max_staleness=2, staleness_policy="pace"))
    for name in ("a", "b", "c"):
        h.add(name)
    h.complete(0)
    slow = [h.lease("actor1", version=0) for _ in range(2)]
    h.release(str(h.taken_id()))
    h.publish(1)
    h.add("d")
    h.complete(1)
    assert h.taken_id() is None
    h.give_back("actor1", slow[0], failed=False)  # it will start anew, later
    assert h.taken_id() == "d"


def test_pace_gives_no_more_groups_than_a_publish_trains_on() -> None:
    h = Harness(make_config(groups_per_step=2, max_staleness=1, staleness_policy="pace"))
    for name in ("a", "b", "c"):
        h.add(name)
        h.complete(0)
    assert [h.taken_id() for _ in range(3)] == ["a", "b", None]
    h.release("a", outcome="retry")
    assert h.taken_id() == "c"
    assert h.taken_id() is None
    h.publish(1)
    h.complete(1)
    assert h.taken_id() == "a"


def test_pace_does_not_start_work_with_old_weights_that_could_not_be_trained_on_in_time() -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=1, staleness_policy="pace"))
    h.add("a")
    h.add("b")
    h.publish(1)
    assert isinstance(h.lease("actor1", version=0), m.Lease)  # due now, and there is one slot
    assert isinstance(h.lease("actor2", version=0), m.NoWork)
    h.add("e1", "eval")
    assert h.lease("actor2", version=0).task_id == "e1"
    assert h.lease("actor3", version=1).task_id == "b"


def test_pace_serves_a_current_actor_past_one_that_is_behind() -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=1, staleness_policy="pace"))
    h.add("a")
    h.publish(1)
    h.lease("actor1", version=0)
    assert h.lease("actor2", version=0, wait_s=50) is None
    assert h.lease("actor3", version=1, wait_s=50) is None
    h.add("b")
    assert [r.peer for r in h.mail] == [b"actor3"]


def test_pace_window_arithmetic() -> None:
    window = PaceWindow(groups_per_publish=2, max_staleness=2)
    window.starts.update({3: 1, 4: 3})
    assert window.may_take(3, 5)  # due first: nothing is older
    assert window.may_take(4, 5)  # one other is due now, and a slot stays for it
    assert not window.may_take(5, 5)  # four tasks are due by the next window, three slots would be left
    window.num_taken = 1
    assert not window.may_take(4, 5)
    assert window.may_take(3, 5)
    window.num_taken = 2
    assert not window.may_take(3, 5)


# ------------------------------------------------------------------ restart of the learner


def test_a_restarted_learner_finds_what_the_old_one_took() -> None:
    h = Harness()
    for name in ("t1", "t2"):
        h.add(name)
        h.complete()
    h.add("e1", "eval")
    h.complete()
    assert (h.taken_id(), h.taken_id("eval")) == ("t1", "e1")
    assert h.send(b"learner", "learner", m.Take(purpose="eval", wait_s=50), request_id=80) is None
    restart(h, 0)
    (told,) = h.mail
    assert told.header.code == "stale"  # type: ignore[attr-defined]
    assert h.status()["taken"] == 0
    assert (h.taken_id(), h.taken_id(), h.taken_id("eval")) == ("t2", "t1", "e1")
    assert h.ask(b"learner", "learner", m.Take(purpose="train")).code == "unknown_peer"
    zombie = m.Hello(role="learner", name="learner", incarnation="learner-inc", version=9)
    assert h.ask(b"learner", "learner", zombie).code == "stale"
    assert h.status()["version"] == 0


def test_hello_again_of_the_same_learner_changes_nothing() -> None:
    h = Harness()
    h.add("t1")
    h.complete()
    h.publish(1)
    assert h.taken_id() == "t1"
    welcome = h.hello("learner", version=0, vocab_size=VOCAB)
    assert welcome.version == 1
    assert h.status()["taken"] == 1


def test_a_learner_that_starts_from_an_older_version_loses_what_came_after() -> None:
    h = Harness(make_config(groups_per_step=4, max_staleness=3))
    for name in ("kept", "lost", "new", "old"):
        h.add(name)
    h.complete(0)
    h.taken_id()
    h.release("kept")
    h.publish(1)
    h.complete(1)
    h.taken_id()
    h.release("lost")
    h.publish(2)
    h.complete(2)  # new: from weights that will not have been
    h.complete(1)  # old
    h.add("running")
    running = h.lease("actor1", version=1)
    restart(h, 1)
    assert h.status()["version"] == 1
    assert h.add("kept").duplicate  # trained into version 1
    assert not h.add("lost").duplicate  # trained into version 2, which is gone
    assert h.counters["groups_swept"] == 1
    assert h.taken_id() == "old"
    assert h.taken_id() is None
    assert h.submit("actor1", running, 1).code == "cancelled"
    # Version 2 will be another one than the actor's own version 2, even once it is current again.
    for version in (1, 2):
        refused = h.lease("actor1", version=version)
        assert refused.code == "version"
        assert "of another learner's history; say hello, join anew" in refused.detail
    assert h.hello("actor1").learner == h.state.core.peers.learner
    assert {h.lease("actor1", version=1).task_id for _ in range(3)} == {"new", "running", "lost"}


def test_actors_that_wait_for_work_when_a_learner_goes_back_are_told() -> None:
    h = Harness(make_config(groups_per_step=4, max_staleness=3))
    h.publish(1)
    h.publish(2)
    assert h.lease("actor1", version=2, wait_s=30.0) is None
    restart(h, 1)
    assert [reply.header.code for reply in h.mail if reply.role == "actor"] == ["version"]


def test_a_restart_at_the_same_version_keeps_running_leases() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    running, ahead = h.lease("actor1", version=0), h.lease("actor2", version=1)
    restart(h, 0)
    assert isinstance(h.submit("actor1", running), m.Ack)
    assert h.submit("actor2", ahead).code == "cancelled"


@pytest.mark.parametrize("broker", ["lives on", "is new"])
def test_one_version_ahead_of_a_learner_that_has_just_started_is_another_ones(broker: str) -> None:
    """It was sent to actors and not announced, or this broker has not seen the learner that went back."""
    h = Harness(hello=broker == "lives on")
    h.hello("actor1", version=1)
    if broker == "lives on":
        restart(h, 0)
    else:
        h.hello("learner", version=0, vocab_size=100)
    h.add("t1")
    ask = m.LeaseWork(kind="generate", version=1)
    refused = h.ask(b"actor1", "actor", ask)
    assert "of another learner's history; say hello" in refused.detail
    h.hello("actor1")
    assert h.ask(b"actor1", "actor", ask).task_id == "t1"  # it has heard who the learner is, and joined that one


def test_a_restart_frees_credit_and_the_window_and_forgets_evaluation() -> None:
    h = Harness(make_config(groups_per_step=1, max_staleness=0, staleness_policy="pace"))
    h.add("t1")
    h.complete()
    h.release(str(h.taken_id()))
    h.add("e1", "eval")
    h.complete()
    h.release(str(h.taken_id("eval")))
    assert h.add("t2").code == "no_credit"
    restart(h, 0)
    h.hello("actor1")
    assert not h.add("t2").duplicate
    assert not h.add("e1", "eval").duplicate
    h.complete()
    h.complete()
    assert h.taken_id() == "t2"


def test_a_restart_at_a_later_version_sweeps_like_a_publish() -> None:
    h = Harness(make_config(staleness_policy="drop"))
    for name in ("t1", "t2", "t3"):
        h.add(name)
    h.complete(0)
    h.complete(0)
    assert h.taken_id() == "t1"
    h.lease("actor1", version=0)
    restart(h, 2)
    assert h.counters["groups_swept"] == 2
    assert h.counters["leases_cancelled"] == 1


def test_a_swept_task_starts_with_all_its_attempts() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    for _ in range(2):
        h.give_back("evaluator1", h.lease("evaluator1"), failed=True)
    h.publish(1)
    h.publish(2)
    lease = h.lease("actor1", version=2)
    assert lease.attempt == 0
    h.give_back("actor1", lease, failed=True)
    assert h.counters["dead_lettered"] == 0

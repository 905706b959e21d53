"""What the broker does for an autoscaler: draining processes, and telling what the learner waits for."""

from __future__ import annotations

import pytest

from common import messages as m
from common.wire import encode
from tests.unit.broker_harness import Harness


def drain(h: Harness, *names: str, for_s: float = 60.0) -> None:
    for role in ("actor", "evaluator"):
        of_role = [name for name in names if name.startswith("evaluator") == (role == "evaluator")]
        if of_role:
            drained = m.Drain(role=role, names=of_role, for_s=for_s)  # type: ignore[arg-type]
            assert isinstance(h.ask(b"monitor", "monitor", drained), m.Ack)


# ------------------------------------------------------------------ draining


def test_a_drained_process_keeps_its_lease_and_gets_no_other() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    lease = h.lease("actor1")
    assert isinstance(lease, m.Lease)
    drain(h, "actor1")
    assert isinstance(h.lease("actor1"), m.NoWork)
    assert h.lease("actor1", wait_s=5.0) is None
    assert isinstance(h.lease("actor2"), m.Lease)  # somebody else does, though asking later
    assert isinstance(h.submit("actor1", lease), m.Ack)
    held = {peer["name"]: peer["leases"] for peer in h.status()["peers"] if peer["role"] == "actor"}
    assert held == {"actor1": 0, "actor2": 1}


def test_a_drain_covers_grading_too() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    h.hello("evaluator1")
    drain(h, "evaluator1")
    assert isinstance(h.lease("evaluator1"), m.NoWork)
    assert isinstance(h.lease("evaluator2"), m.Lease)


def test_a_drain_ends_by_itself() -> None:
    h = Harness()
    h.add("t1")
    h.hello("actor1")
    drain(h, "actor1", for_s=10.0)
    assert h.status()["draining"] == {"actor1": 10.0}
    assert h.lease("actor1", wait_s=60.0) is None
    h.advance(9.9)
    assert not h.mail
    h.advance(0.2)
    assert [reply.header.type for reply in h.mail] == ["lease"]  # type: ignore[attr-defined]
    assert h.status()["draining"] == {}


def test_a_drain_can_be_called_off() -> None:
    h = Harness()
    h.add("t1")
    h.hello("actor1")
    drain(h, "actor1")
    assert isinstance(h.lease("actor1"), m.NoWork)
    drain(h, "actor1", for_s=0.0)
    assert isinstance(h.lease("actor1"), m.Lease)


def test_a_new_process_of_that_name_is_not_the_one_to_go() -> None:
    h = Harness()
    h.add("t1")
    h.hello("actor1")
    drain(h, "actor1")
    h.hello("actor1")  # the same incarnation over a new connection
    assert isinstance(h.lease("actor1"), m.NoWork)
    h.hello("actor1", incarnation="another")
    assert isinstance(h.lease("actor1"), m.Lease)


def test_a_drain_ends_by_a_process_of_its_role_alone() -> None:
    """Whoever may say hello to the broker chooses its name: an evaluator could be called as the actor that is to go."""
    h = Harness()
    h.add("t1")
    h.hello("actor1")
    drain(h, "actor1")
    h.hello("actor1", "evaluator", incarnation="another")
    assert isinstance(h.lease("actor1"), m.NoWork)
    assert h.status()["draining"] == {"actor1": 60.0}


def test_a_drain_is_no_affair_of_a_namesake_in_another_role() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    h.hello("actor1", "evaluator")
    drain(h, "actor1")
    assert isinstance(h.ask(b"actor1", "evaluator", m.LeaseWork(kind="grade")), m.Lease)


@pytest.mark.parametrize("role", ["actor", "evaluator", "learner"])
def test_only_monitors_may_drain(role: m.Role) -> None:
    h = Harness()
    peer = b"learner" if role == "learner" else f"{role}1".encode()
    if role != "learner":
        h.hello(f"{role}1")
    refused = h.ask(peer, role, m.Drain(role="actor", names=["actor9"], for_s=5.0))
    assert isinstance(refused, m.Refused)
    assert refused.code == "wrong_role"


def test_names_of_drained_processes_are_bounded() -> None:
    h = Harness()
    for batch in range(5):
        drain(h, *(f"actor-{batch}-{i}" for i in range(100)))
    assert len(h.status()["draining"]) <= 128


# ------------------------------------------------------------------ what the learner waits for


def waited(h: Harness) -> dict[str, float]:
    return {cause: seconds for cause, seconds in h.status()["learner_waiting_s"].items() if seconds}


def wait(h: Harness, seconds: float) -> None:
    """The learner waits for a group for so long."""
    if not h.status()["waiting"]["train"]:
        assert h.take(wait_s=300.0) is None
    h.advance(seconds)


def test_a_learner_that_does_not_wait_is_not_starved() -> None:
    h = Harness()
    h.add("t1")
    h.advance(100.0)
    assert waited(h) == {}


def test_it_waits_for_actors_while_tasks_wait_for_one() -> None:
    h = Harness()
    h.add("t1")
    wait(h, 10.0)
    assert waited(h) == {"actors": 10.0}


def test_it_waits_for_actors_while_all_of_them_are_at_work() -> None:
    h = Harness()
    h.add("t1")
    h.lease("actor1")
    wait(h, 10.0)
    assert waited(h) == {"actors": 10.0}


def test_idle_actors_are_not_to_blame() -> None:
    h = Harness()
    h.add("t1")
    h.lease("actor1")
    h.lease("actor2", wait_s=100.0)
    wait(h, 10.0)
    assert waited(h) == {"other": 10.0}


def test_a_drained_actor_is_not_idle() -> None:
    h = Harness()
    h.add("t1")
    h.lease("actor1")
    h.lease("actor2", wait_s=100.0)
    drain(h, "actor2")
    wait(h, 10.0)
    assert waited(h) == {"actors": 10.0}


def test_it_waits_for_grading_while_groups_wait_for_an_evaluator() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    h.generate()
    wait(h, 10.0)
    assert waited(h) == {"grading": 10.0}
    assert isinstance(h.lease("evaluator1"), m.Lease)
    h.advance(5.0)
    assert waited(h) == {"grading": 10.0, "actors": 5.0}


def test_without_tasks_it_is_the_feed() -> None:
    h = Harness()
    wait(h, 10.0)
    assert waited(h) == {"other": 10.0}


# ------------------------------------------------------------------ service times


def test_service_times_and_ages() -> None:
    h = Harness()
    h.add("t1")
    h.add("t2")
    h.advance(2.0)
    lease = h.lease("actor1")
    h.advance(3.0)
    h.submit("actor1", lease)
    second = h.lease("actor1")
    h.advance(4.0)
    status = h.status()
    assert status["service"]["generate"] == {"leases": 1, "seconds": 3.0, "running_s": 4.0}
    assert status["service"]["grade"] == {"leases": 0, "seconds": 0.0, "running_s": None}
    assert status["oldest_waiting_s"] == {"generate": 0.0, "grade": 4.0}
    h.give_back("actor1", second, failed=False)
    assert h.status()["service"]["generate"]["leases"] == 1  # work that was given back says nothing


def test_staleness_of_what_the_learner_took() -> None:
    h = Harness()
    h.add("t1")
    h.complete(0)
    h.publish(1)
    assert h.taken_id() == "t1"
    assert h.status()["staleness"] == {"groups": 1, "sum": 1}


# ------------------------------------------------------------------ a status that does not mislead


def test_who_is_drained_or_holds_leases_is_listed_before_the_idle() -> None:
    """What is not listed seems to hold no lease, and would be stopped."""
    h = Harness()
    h.add("t1")
    h.add("t2")
    assert isinstance(h.lease("actor1"), m.Lease)
    assert isinstance(h.lease("actor2"), m.Lease)
    drain(h, "actor2")
    for i in range(3, 103):
        h.hello(f"actor{i}-{'x' * 80}", "actor")
    listed = [(peer["name"], peer["leases"]) for peer in h.status()["peers"]]
    assert listed[:2] == [("actor2", 1), ("actor1", 1)]
    assert len(listed) < 102


def test_a_status_fits_a_header_whoever_is_drained() -> None:
    h = Harness()
    drain(h, *("😀" * 125 + f"{i:03d}" for i in range(128)))
    encode(h.ask(b"monitor", "monitor", m.GetStatus()))

"""Deciding, draining and scaling, step by step, without clock and sockets."""

from __future__ import annotations

from typing import Any

import pytest

from common.config import RunConfig
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.departures import GRACE_S, Departure
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.pool import Fleet, choose_leaving
from launcher.autoscaler.scaler import Autoscaler, leases_of
from tests.unit.autoscaler_inputs import MemoryPool, make_config, status


class Rig:
    """An autoscaler of evaluators over a MemoryPool, and what it told the broker and us."""

    def __init__(self, count: int, config: RunConfig | None = None, **kwargs: Any) -> None:
        self.pool = MemoryPool(evaluator=count)
        self.drained: list[tuple[list[str], float]] = []
        self.told: list[tuple[Decision, bool]] = []
        self.now = 0.0
        self.autoscaler = Autoscaler(
            config or make_config(),
            self.pool,
            lambda role, names, for_s: self.drained.append((names, for_s)),
            roles=("evaluator",),
            tell=lambda decision, done: self.told.append((decision, done)),
            **kwargs,
        )

    def steps(self, num: int, **report: Any) -> None:
        """One second and one status after another."""
        for _ in range(num):
            self.autoscaler.step(self.now, status(**report))
            self.now += 1.0

    def busy(self, num: int, **more: Any) -> None:
        """Enough backlog for 4 evaluators: 40 groups of 1 s each, in 10 s."""
        self.steps(num, queues__grade=40, service__grade__running_s=4.0, **more)

    def idle(self, num: int, **held: int) -> None:
        """Nothing to do, but for the leases named."""
        graded = {"service__grade__leases": 1, "service__grade__seconds": 4.0}
        self.steps(num, peers=[{"name": name.replace("_", "-"), "leases": n} for name, n in held.items()], **graded)


def test_more_at_once() -> None:
    rig = Rig(1)
    rig.busy(3)
    assert rig.pool.calls == [("evaluator", 4, ())]
    assert [done for _, done in rig.told] == [False, True]


def test_fewer_only_after_those_that_go_have_finished() -> None:
    rig = Rig(3)
    rig.idle(7, evaluator_0=1, evaluator_1=4, evaluator_2=2)
    # the two with the fewest leases are drained; nobody is stopped while one of them holds a lease
    assert [sorted(names) for names, _ in rig.drained] == [["evaluator-0", "evaluator-2"]]
    assert rig.drained[0][1] == 60.0 + GRACE_S
    rig.idle(5, evaluator_0=0, evaluator_1=4, evaluator_2=1)
    assert rig.pool.calls == []
    rig.idle(1, evaluator_1=4)
    assert [(role, count, sorted(names)) for role, count, names in rig.pool.calls] == [
        ("evaluator", 1, ["evaluator-0", "evaluator-2"])
    ]
    assert rig.pool.members["evaluator"] == ["evaluator-1"]


@pytest.mark.parametrize("role", ["actor", "evaluator"])
def test_those_who_go_are_drained_as_what_they_are(role: ScaleRole) -> None:
    told: list[tuple[ScaleRole, list[str], float]] = []
    decision = Decision(role, 2, 1, "surplus", "")
    departure = Departure.begin(decision, 2, ["x-1"], lambda *drain: told.append(drain), now=0.0, drain_s=60.0)
    assert departure.again({}, lambda *drain: told.append(drain), now=10.0)
    departure.call_off(lambda *drain: told.append(drain))
    assert told == [(role, ["x-1"], 90.0), (role, ["x-1"], 80.0), (role, ["x-1"], 0.0)]


def test_who_does_not_finish_in_time_is_stopped_all_the_same() -> None:
    rig = Rig(2, make_config(drain_s=5.0))
    rig.idle(11, evaluator_0=1, evaluator_1=1)
    assert rig.pool.calls == []
    rig.idle(1, evaluator_0=1, evaluator_1=1)
    assert rig.pool.calls == [("evaluator", 1, ("evaluator-1",))]


def test_nobody_is_stopped_on_a_status_from_before_the_drain() -> None:
    rig = Rig(2)
    rig.idle(7)
    assert rig.drained
    assert rig.pool.calls == []  # the broker may have given it a lease right before it heard of the drain
    rig.idle(1)
    assert rig.pool.calls


def test_a_change_of_mind_calls_the_departure_off() -> None:
    rig = Rig(2)
    rig.idle(7, evaluator_0=1, evaluator_1=1)
    assert rig.autoscaler.leaving == {"evaluator": ("evaluator-1",)}
    rig.busy(3, peers=[{"name": "evaluator-1", "leases": 1}])
    assert rig.drained[-1] == (["evaluator-1"], 0.0)
    assert rig.pool.calls == [("evaluator", 4, ())]
    assert rig.pool.members["evaluator"][:2] == ["evaluator-0", "evaluator-1"]


def test_somebody_elses_hand_calls_the_departure_off() -> None:
    rig = Rig(2)
    rig.idle(7, evaluator_0=1, evaluator_1=1)
    rig.pool.members["evaluator"] += ["evaluator-2", "evaluator-3"]  # kubectl scale, say
    rig.idle(1, evaluator_0=1, evaluator_1=1)
    assert rig.drained[-1] == (["evaluator-1"], 0.0)
    assert rig.autoscaler.leaving == {}
    assert rig.pool.calls == []


def test_nothing_is_decided_without_a_status() -> None:
    rig = Rig(1)
    for at in range(20):
        assert rig.autoscaler.step(float(at), None) == []
    assert rig.pool.calls == []


def test_a_hole_in_what_was_seen_starts_the_waiting_anew() -> None:
    rig = Rig(1)
    rig.busy(2)
    rig.now += 60.0
    rig.busy(2)
    assert rig.pool.calls == []
    rig.busy(1)
    assert rig.pool.calls == [("evaluator", 4, ())]


def test_dry_run_tells_and_does_nothing() -> None:
    rig = Rig(1, dry_run=True)
    rig.busy(3)
    assert [(decision.after, done) for decision, done in rig.told] == [(4, False)]
    assert rig.pool.calls == []
    rig = Rig(2, dry_run=True)
    rig.idle(8)
    assert rig.told
    assert rig.drained == []


def test_who_may_not_act_does_not() -> None:
    rig = Rig(1, may_act=lambda: False)
    rig.busy(3)
    assert rig.pool.calls == []


@pytest.mark.parametrize(("count", "after", "reason"), [(0, 1, "floor"), (9, 8, "ceiling")])
def test_floor_and_ceiling_at_once(count: int, after: int, reason: str) -> None:
    rig = Rig(count)
    rig.steps(2)
    assert (rig.told[0][0].after, rig.told[0][0].reason) == (after, reason)
    assert rig.pool.calls[0][:2] == ("evaluator", after)


def test_actors_are_scaled_by_starvation() -> None:
    pool = MemoryPool(actor=1)
    autoscaler = Autoscaler(make_config(), pool, lambda role, names, for_s: None, roles=("actor",))
    for at in range(6):
        report = status(
            learner_waiting_s__actors=0.5 * at, staleness__groups=16 * at, counters__groups_generated=16 * at
        )
        autoscaler.step(float(at), report)
    assert pool.calls == [("actor", 2, ())]


def test_who_goes_first() -> None:
    fleet = Fleet(4, 3, ("oldest", "middle", "youngest", "not-ready"))
    assert choose_leaving(fleet, {}, 2) == ["not-ready", "youngest"]
    assert choose_leaving(fleet, {"not-ready": 1, "youngest": 2, "middle": 1}, 2) == ["oldest", "not-ready"]
    assert choose_leaving(fleet, {}, 4) == []


def test_leases_by_name_count_the_incarnation_that_holds_some() -> None:
    report = status(peers=[{"name": "a", "leases": 2}, {"name": "a", "leases": 0}, {"name": "b", "leases": 1}])
    assert leases_of(report) == {"a": 2, "b": 1}

"""The policy in a closed loop with a simple river, over simulated hours: it settles, and it does not flap.

The river is a fluid one, in steps of a second: actors make groups as long as there is credit, evaluators grade them,
the learner takes a publish's worth at a time. Processes that are added work only after a while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.config import RunConfig
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.pool import Fleet
from launcher.autoscaler.scaler import Autoscaler
from tests.unit.autoscaler_inputs import status

START_S = {"evaluator": 10.0, "actor": 90.0}
SLOTS = 4


def make_config(**learner: Any) -> RunConfig:
    """The shipped autoscaler's defaults."""
    return RunConfig.model_validate(
        {
            "model": "tiny",
            "data": {"train": "x.jsonl"},
            "learner": {"groups_per_step": 16, "max_staleness": 2, **learner},
            "evaluator": {"max_concurrent_groups": SLOTS},
        }
    )


@dataclass
class River:
    """`actor_s`, `grade_s`: seconds of one actor or evaluator for a group. `step_s`: of the learner for a step."""

    actor_s: float
    grade_s: float
    step_s: float
    config: RunConfig = field(default_factory=make_config)
    now: float = 0.0
    started: dict[str, list[float]] = field(default_factory=lambda: {"evaluator": [-999.0], "actor": [-999.0]})
    grading: float = 0.0
    ready: float = 0.0
    taken: int = 0
    generated: float = 0.0
    graded: float = 0.0
    busy_until: float = 0.0
    learning: int = 0
    waited: dict[str, float] = field(default_factory=lambda: {"actors": 0.0, "grading": 0.0, "other": 0.0})
    decisions: list[tuple[float, Decision]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.autoscaler = Autoscaler(
            self.config, self, lambda role, names, for_s: None, tell=lambda decision, done: self._tell(decision, done)
        )

    def _tell(self, decision: Decision, done: bool) -> None:
        if done:
            self.decisions.append((self.now, decision))

    def fleet(self, role: ScaleRole) -> Fleet:
        return Fleet(len(self.started[role]), self.at_work(role), tuple(f"{role}-{at}" for at in self.started[role]))

    def scale(self, role: ScaleRole, count: int, leaving: Sequence[str]) -> None:
        started = self.started[role][:count]
        self.started[role] = started + [self.now] * (count - len(started))

    def at_work(self, role: str) -> int:
        return sum(self.now - at >= START_S[role] for at in self.started[role])

    def second(self) -> None:
        """What happens in a second, then what the autoscaler makes of it."""
        per_step = self.config.learner.groups_per_step
        credit = self.config.credit_limit - self.learning - self.ready - self.grading
        made = min(self.at_work("actor") / self.actor_s, credit)
        self.grading += made
        self.generated += made
        done = min(self.at_work("evaluator") / self.grade_s, self.grading)
        self.grading -= done
        self.graded += done
        self.ready += done
        if self.learning and self.now >= self.busy_until:
            self.learning = 0
        if not self.learning:
            if self.ready >= per_step:
                self.ready -= per_step
                self.taken += per_step
                self.learning, self.busy_until = per_step, self.now + self.step_s
            elif self.grading >= 1:
                self.waited["grading"] += 1
            else:
                self.waited["actors" if credit > made else "other"] += 1
        self.now += 1.0
        self.autoscaler.step(self.now, self._status())

    def _status(self) -> dict[str, Any]:
        report = status(counters__groups_generated=int(self.generated), learner_waiting_s=dict(self.waited))
        report["queues"] |= {"grade": int(self.grading), "ready_train": int(self.ready)}
        leases = int(self.graded)
        report["service"]["grade"] |= {"leases": leases, "seconds": leases * self.grade_s * SLOTS}
        report["staleness"] = {"groups": self.taken, "sum": self.taken}
        return report

    def run(self, seconds: float, each: Callable[[], None] = lambda: None) -> list[Decision]:
        """The decisions of so much time."""
        begin, before = self.now, len(self.decisions)
        while self.now - begin < seconds:
            self.second()
            each()
        return [decision for _, decision in self.decisions[before:]]

    def num(self, role: ScaleRole) -> int:
        return len(self.started[role])


@pytest.mark.parametrize(
    ("actor_s", "step_s", "expected"),
    [
        (1.0, 32.0, 1),  # one actor makes 1 group/s, 0.5 are needed
        (4.0, 32.0, 2),  # 0.25 each: two are busy all the time
        (5.0, 32.0, 3),  # 0.2 each: two and a half
        (7.0, 32.0, 4),  # three and a half
        (50.0, 320.0, 3),  # publishes of five minutes, longer than any window of the configuration: two and a half
    ],
)
def test_actors_settle_and_stay(actor_s: float, step_s: float, expected: int) -> None:
    river = River(actor_s=actor_s, grade_s=0.1, step_s=step_s)
    river.run(1800 if step_s < 100 else 5400)
    assert river.num("actor") == expected
    later = [decision for decision in river.run(3 * 3600) if decision.role == "actor"]
    # an hour after it last starved the fleet may find out what an actor can do by now: one less, one more again
    assert len(later) <= 6, later
    assert {decision.before for decision in later} <= {expected, expected - 1}


def test_a_learner_that_needs_less_gets_fewer_actors() -> None:
    river = River(actor_s=5.0, grade_s=0.1, step_s=32.0)
    river.run(1800)
    assert river.num("actor") >= 2
    river.step_s = 200.0
    river.run(3600)
    assert river.num("actor") == 1


def test_no_actors_are_added_for_a_learner_that_waits_for_grading() -> None:
    river = River(actor_s=1.0, grade_s=40.0, step_s=5.0, config=make_config())
    river.run(3600)
    assert river.num("actor") == 1
    assert river.num("evaluator") == 8  # the ceiling


@pytest.mark.parametrize("grade_s", [0.5, 2.0, 4.5])
def test_evaluators_keep_up_with_bursts_and_do_not_flap(grade_s: float) -> None:
    """The learner takes 16 groups at once and credit comes back with it: work comes in bursts."""
    river = River(actor_s=0.5, grade_s=grade_s, step_s=16.0)
    river.run(900)
    backlogs: list[float] = []
    decisions = river.run(3600, each=lambda: backlogs.append(river.grading))
    assert [decision for decision in decisions if decision.role == "evaluator"] == []
    assert max(backlogs) * grade_s / river.num("evaluator") <= 2 * river.config.autoscaler.grading_target_s


def test_ten_times_the_work_and_back() -> None:
    river = River(actor_s=0.5, grade_s=0.3, step_s=16.0)
    river.run(600)
    assert river.num("evaluator") == 1
    river.grade_s = 3.0
    begin = river.now
    river.run(600)
    assert 3 <= river.num("evaluator") <= 5
    first = next(at for at, decision in river.decisions if at > begin and decision.role == "evaluator")
    assert first - begin <= 30  # three looks, and 5 s that the need must last
    river.grade_s = 0.3
    river.run(600)
    assert river.num("evaluator") == 1

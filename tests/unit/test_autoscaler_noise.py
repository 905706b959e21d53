"""A load that is steady but for chance: groups arrive and are graded at random times, evaluators must not come and go.

With a scale-down after one minute, as it once was, some were added 3 to 8 times an hour here, and taken away as often:
ZeroqAutoscalerFlapping was on all the time.
"""

from __future__ import annotations

import random
from statistics import mean

import pytest

from common.config import RunConfig
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.scaler import Autoscaler
from tests.unit.autoscaler_inputs import MemoryPool, make_config, status

SLOTS = 4
HOUR_S = 3600


class Chance:
    """A Poisson stream of groups whose grading takes exponentially long, and an autoscaler with the defaults."""

    def __init__(self, seed: int, rate: float, grading_s: float) -> None:
        tree = make_config().model_dump(mode="json")
        tree["autoscaler"] = {"evaluators": {"max": 32}}
        config = RunConfig.model_validate(tree)
        assert config.evaluator.max_concurrent_groups == SLOTS
        self._random, self._rate, self._grading_s = random.Random(seed), rate, grading_s
        self.pool, self.decisions = MemoryPool(evaluator=1), list[Decision]()
        self._autoscaler = Autoscaler(
            config, self.pool, lambda role, names, for_s: None, roles=("evaluator",), tell=self._tell
        )

    def _tell(self, decision: Decision, done: bool) -> None:
        if done:
            self.decisions.append(decision)

    def run(self, seconds: int) -> None:
        waiting, came, graded, spent, next_at = 0, 0, 0, 0.0, 0.0
        running: list[tuple[float, float]] = []
        for now in range(seconds):
            while next_at <= now:
                next_at += self._random.expovariate(self._rate)
                waiting, came = waiting + 1, came + 1
            ended = [span for span in running if span[1] <= now]
            running = [span for span in running if span[1] > now]
            graded, spent = graded + len(ended), spent + sum(end - begin for begin, end in ended)
            while waiting and len(running) < SLOTS * len(self.pool.members["evaluator"]):
                waiting -= 1
                running.append((now, now + self._random.expovariate(1 / self._grading_s)))
            report = status(queues__grade=waiting, counters__groups_generated=came)
            age = mean(now - begin for begin, _ in running) if running else None
            report["service"]["grade"] = {"leases": graded, "seconds": spent, "running_s": age}
            self._autoscaler.step(float(now), report)


@pytest.mark.parametrize(("rate", "grading_s"), [(1.0, 8.0), (2.0, 8.0), (4.0, 8.0), (4.0, 2.0)])
def test_chance_alone_does_not_make_it_flap(rate: float, grading_s: float) -> None:
    chance = Chance(1, rate, grading_s)
    chance.run(HOUR_S // 2)
    settled = len(chance.decisions)
    assert len(chance.pool.members["evaluator"]) >= rate * grading_s / SLOTS
    chance.run(2 * HOUR_S)
    ups = [decision for decision in chance.decisions[settled:] if decision.direction == "up"]
    assert len(ups) <= 3  # the alert allows as many in one hour

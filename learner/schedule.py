"""Owns what task number i is: which problem of which prepared file, and how long its completions may be.

    number --groups_per_step--> step --general.last_steps--> train.jsonl | general.jsonl --seeded shuffles--> line
                                    --max_tokens_schedule--> max_tokens

All of it follows from the number and the configuration alone, so that a resumed run needs to know nothing but numbers.
A task's step is the optimizer step that would train on it if no task failed: number // groups_per_step. Tasks are
admitted up to max_staleness + 1 publishes ahead, which changes when a task is made, never what it is.

In the last `general.last_steps` steps of `learner.max_steps`, the share `general.share` of the tasks are general
problems (R1's RL for all scenarios: "the final 400 steps"), spread evenly: task j of that phase is general exactly when
floor((j + 1) share) > floor(j share).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.config import RunConfig

Part = Literal["train", "general"]
_STREAMS: dict[Part, int] = {"train": 1, "general": 2}
"""Shuffles of the two files come from different streams of the run's seed."""


class TaskSchedule:
    """Maps task numbers (from 0) to problems and token limits."""

    def __init__(self, config: RunConfig, num_train: int, num_general: int = 0) -> None:
        """`num_train`, `num_general`: problems in the two files. ValueError when the configuration asks for general
        problems and there are none."""
        self._config, self._sizes = config, {"train": num_train, "general": num_general}
        self._orders: dict[tuple[Part, int], NDArray[np.int64]] = {}
        general, learner = config.data.general, config.learner
        self._share = Fraction(0) if general is None else Fraction(str(general.share))
        last_steps = 0 if general is None else general.last_steps
        if general is not None and not num_general:
            raise ValueError("data.general is configured and no general problem was prepared")
        self.first_general = max(0, learner.max_steps - last_steps) * learner.groups_per_step
        """Number of the first task that may be general."""

    def step(self, number: int) -> int:
        """Optimizer step (from 0) that task `number` is for."""
        return number // self._config.learner.groups_per_step

    def part(self, number: int) -> Part:
        """Which file task `number` comes from."""
        return "general" if self._num_general(number + 1) > self._num_general(number) else "train"

    def problem(self, number: int) -> tuple[Part, int]:
        """File and line of task `number`: each pass over a file is a shuffle seeded by run, file and pass."""
        part, before = self.part(number), self._num_general(number)
        epoch, position = divmod(before if part == "general" else number - before, self._sizes[part])
        if (part, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != part}
            rng = np.random.default_rng([self._config.seed, _STREAMS[part], epoch])
            self._orders[part, epoch] = rng.permutation(self._sizes[part])
        return part, int(self._orders[part, epoch][position])

    def max_tokens(self, number: int) -> int:
        """Longest completion of task `number`, tokens."""
        return self._config.rollout.max_tokens_at(self.step(number))

    def _num_general(self, number: int) -> int:
        """General tasks among those below `number`."""
        return int(max(0, number - self.first_general) * self._share)

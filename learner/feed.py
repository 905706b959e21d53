"""Owns the task feed: training problems from DIR/data/train.jsonl into the broker, as credit allows.

    train.jsonl --seeded shuffle, epoch by epoch--> task 0, 1, 2, ... --AddTask--> broker

Task number i always stands for the same problem, so a cursor (the next number) and the set of outstanding numbers say
everything that a resumed run must know. No more tasks are admitted than the run can still train on.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.client import BrokerClient
from common.config import RunConfig
from common.errors import RunFailure, UserError
from common.messages import Ack, AddTask, Purpose, Refused, Sampling
from common.wire import Array

log = logging.getLogger(__name__)

REPLY_TIMEOUT_S = 90.0


class ProblemFile:
    """A prepared JSON-lines file, read line by line when asked: `file[i]` is the i-th problem."""

    def __init__(self, path: Path) -> None:
        """Index the lines; UserError when there are none."""
        self.path = path
        starts, position = [], 0
        try:
            with path.open("rb") as file:
                for line in file:
                    if line.strip():
                        starts.append(position)
                    position += len(line)
        except OSError as error:
            raise UserError(f"{path}: cannot read the prepared problems: {error}") from None
        if not starts:
            raise UserError(f"{path}: no problems")
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            problem: dict[str, Any] = json.loads(file.readline())
        return problem


def task_payload(problem: dict[str, Any]) -> dict[str, Array | bytes]:
    """Frames of an AddTask."""
    return {
        "prompt_ids": np.asarray(problem["prompt_ids"], dtype=np.int32),
        "prompt": problem["prompt"].encode("utf-8"),
        "spec": json.dumps(problem["spec"], ensure_ascii=False).encode("utf-8"),
    }


class TaskFeed:
    """Admits training tasks and remembers which are outstanding. Rank 0 only; thread-safe."""

    purpose: Purpose = "train"

    def __init__(
        self,
        client: BrokerClient,
        config: RunConfig,
        problems: ProblemFile,
        *,
        cursor: int = 0,
        outstanding: Iterable[int] = (),
    ) -> None:
        """`cursor` and `outstanding` as in the checkpoint; what was outstanding is admitted again first."""
        self.client, self.config, self.problems = client, config, problems
        self.cursor = cursor
        self.outstanding: set[int] = set()
        self._backlog = sorted(outstanding)
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._lock = threading.RLock()
        self.sampling = Sampling(
            max_tokens=config.rollout.max_tokens,
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
        )

    @staticmethod
    def task_id(number: int) -> str:
        """Id of task `number`."""
        return f"train-{number}"

    @staticmethod
    def number(task_id: str) -> int:
        """Number of a training task's id."""
        return int(task_id.removeprefix("train-"))

    def problem_index(self, number: int) -> int:
        """Which line of the file task `number` is: each epoch is a shuffle seeded by run and epoch."""
        epoch, position = divmod(number, len(self.problems))
        if epoch not in self._orders:
            rng = np.random.default_rng([self.config.seed, 1, epoch])
            self._orders = {epoch: rng.permutation(len(self.problems))}
        return int(self._orders[epoch][position])

    @property
    def unfinished(self) -> list[int]:
        """Numbers admitted (now or before a resume) and neither trained nor given up, for the checkpoint."""
        with self._lock:
            return sorted({*self.outstanding, *self._backlog})

    def top_up(self, wanted: int) -> int:
        """Admit tasks until `wanted` are outstanding or credit runs out; returns how many were admitted.

        RunFailure when the broker finds a task invalid.
        """
        with self._lock:
            return self._top_up(wanted)

    def _top_up(self, wanted: int) -> int:
        room = min(wanted, self.config.credit_limit) - len(self.outstanding)
        numbers = [self._next_number() for _ in range(max(0, room))]
        replies = [(number, self._add(number)) for number in numbers]
        admitted, refused = 0, []
        for number, reply in replies:
            header = reply.result(REPLY_TIMEOUT_S).header
            if isinstance(header, Ack):
                self.outstanding.add(number)
                admitted += 1
            elif isinstance(header, Refused) and header.code == "no_credit":
                refused.append(number)
            else:
                raise RunFailure(f"the broker refused task {self.task_id(number)}: {header!r}")
        self._backlog = sorted([*self._backlog, *refused])
        return admitted

    def finished(self, task_ids: Iterable[str]) -> None:
        """These tasks are trained or dead-lettered; nothing more will come of them."""
        with self._lock:
            self.outstanding.difference_update(self.number(task_id) for task_id in task_ids)

    def is_outstanding(self, task_id: str) -> bool:
        """Is a group of this task still to be trained?"""
        with self._lock:
            return self.number(task_id) in self.outstanding

    def _next_number(self) -> int:
        if self._backlog:
            return self._backlog.pop(0)
        self.cursor += 1
        return self.cursor - 1

    def _add(self, number: int) -> Any:
        problem = self.problems[self.problem_index(number)]
        header = AddTask(
            task_id=self.task_id(number),
            purpose="train",
            group_size=self.config.rollout.group_size,
            sampling=self.sampling,
        )
        return self.client.call(header, task_payload(problem))

"""Owns the task feed: training problems from DIR/data/*.jsonl into the broker, as credit allows.

    train.jsonl, general.jsonl --TaskSchedule--> task 0, 1, 2, ... --AddTask--> broker

Task number i always stands for the same problem (learner/schedule.py), so a cursor (the next number) and the set of
outstanding numbers say everything that a resumed run must know. No more tasks are admitted than the run can still train
on.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.client import BrokerClient
from common.config import RunConfig
from common.errors import RunFailure, UserError
from common.messages import Ack, AddTask, Purpose, Refused, Sampling
from common.wire import Array
from learner.schedule import Part, TaskSchedule

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


def source_label(problem: dict[str, Any]) -> str | None:
    """Short name of a problem's origin: its reasoning-gym dataset, or the last part of its `source` (a name or URL)."""
    spec = problem["spec"]
    generated = spec.get("reasoning_gym")
    source = generated["dataset"] if generated else (spec.get("columns") or {}).get("source")
    if not isinstance(source, str):
        return None
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", source.rstrip("/").rpartition("/")[2])[:40].strip("_") or None


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
        general: ProblemFile | None = None,
    ) -> None:
        """`cursor` and `outstanding` as in the checkpoint; what was outstanding is admitted again first. `general`:
        the general problems, if `data.general` asks for them."""
        self.client, self.config = client, config
        self.files: dict[Part, ProblemFile] = {"train": problems}
        if general is not None:
            self.files["general"] = general
        self.schedule = TaskSchedule(config, len(problems), 0 if general is None else len(general))
        self.cursor = cursor
        self.outstanding: set[int] = set()
        self._backlog = sorted(outstanding)
        self._sources: dict[int, str | None] = {}
        self._lock = threading.RLock()

    @staticmethod
    def task_id(number: int) -> str:
        """Id of task `number`."""
        return f"train-{number}"

    @staticmethod
    def number(task_id: str) -> int:
        """Number of a training task's id."""
        return int(task_id.removeprefix("train-"))

    def problem(self, number: int) -> dict[str, Any]:
        """The problem that task `number` is."""
        part, index = self.schedule.problem(number)
        return self.files[part][index]

    def sampling(self, number: int) -> Sampling:
        """How the completions of task `number` are sampled."""
        rollout = self.config.rollout
        return Sampling(
            max_tokens=self.schedule.max_tokens(number),
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
        )

    def source(self, task_id: str) -> str | None:
        """Where a task's problem is from, for figures by source; None when it does not say."""
        number = self.number(task_id)
        with self._lock:
            if number not in self._sources:
                self._remember(number, self.problem(number))
            return self._sources[number]

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
                raise RunFailure(f"the broker refused task {self.task_id(number)}: {header}")
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

    def adopt(self, task_id: str) -> bool:
        """Make a task outstanding that the broker holds, admitted by an earlier incarnation and not (yet) by this one.
        False when its number is behind us: it is trained or given up."""
        number = self.number(task_id)
        with self._lock:
            while self.cursor <= number:
                self._backlog.append(self.cursor)
                self.cursor += 1
            if number not in self._backlog:
                return False
            self._backlog.remove(number)
            self.outstanding.add(number)
            return True

    def _next_number(self) -> int:
        if self._backlog:
            return self._backlog.pop(0)
        self.cursor += 1
        return self.cursor - 1

    def _add(self, number: int) -> Any:
        problem = self.problem(number)
        self._remember(number, problem)
        header = AddTask(
            task_id=self.task_id(number),
            purpose="train",
            group_size=self.config.rollout.group_size,
            sampling=self.sampling(number),
        )
        return self.client.call(header, task_payload(problem))

    def _remember(self, number: int, problem: dict[str, Any]) -> None:
        """Keep the source of the latest tasks: reading a problem again for one word would parse all its tests."""
        self._sources[number] = source_label(problem)
        while len(self._sources) > 2 * self.config.credit_limit:
            self._sources.pop(next(iter(self._sources)))

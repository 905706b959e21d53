"""The broker's containers: work waiting for a lease, groups waiting for the learner, and the next deadline."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal

from broker.records import RequestKey, Task

DeadlineKey = tuple[Literal["lease"], str] | tuple[Literal["waiter"], RequestKey]


class WorkQueue:
    """Tasks waiting for a lease of one kind: evaluation before training, each first in, first out; O(1)."""

    def __init__(self) -> None:
        self._eval: deque[str] = deque()
        self._train: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._eval) + len(self._train)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self._eval, self._train)

    def push(self, task: Task, *, front: bool = False) -> None:
        """Append; work that comes back goes to the front."""
        lane = self._eval if task.purpose == "eval" else self._train
        (lane.appendleft if front else lane.append)(task.task_id)

    def pop(self, *, train: bool = True) -> str | None:
        """The next task, or None; with `train` false only evaluation tasks."""
        if self._eval:
            return self._eval.popleft()
        return self._train.popleft() if train and self._train else None

    def remove(self, task_ids: set[str]) -> None:
        """Take tasks out of the middle (sweeps; linear)."""
        if task_ids:
            self._eval = deque(t for t in self._eval if t not in task_ids)
            self._train = deque(t for t in self._train if t not in task_ids)


class ReadyQueue:
    """Complete groups: lowest key first, then in order of completion; O(log n)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[str]:
        return (task_id for _, _, task_id in self._heap)

    def push(self, key: int, task_id: str) -> None:
        """Add a group that has just become complete."""
        heapq.heappush(self._heap, (key, next(self._sequence), task_id))

    def peek(self) -> str | None:
        """The next group without taking it."""
        return self._heap[0][2] if self._heap else None

    def pop(self) -> str:
        """Take the next group; IndexError when empty."""
        return heapq.heappop(self._heap)[2]

    def remove(self, task_ids: set[str]) -> None:
        """Take groups out of the middle (sweeps; linear)."""
        if task_ids:
            self._heap = [entry for entry in self._heap if entry[2] not in task_ids]
            heapq.heapify(self._heap)


class Deadlines:
    """Alarm times. An entry may be outdated (renewed or ended meanwhile): whoever gets it looks at the thing itself."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, DeadlineKey]] = []
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, key: DeadlineKey) -> None:
        """Ring at `at`."""
        heapq.heappush(self._heap, (at, next(self._sequence), key))

    def replace(self, alarms: Iterable[tuple[float, DeadlineKey]]) -> None:
        """Forget all alarms but these."""
        self._heap = [(at, next(self._sequence), key) for at, key in alarms]
        heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Earliest alarm."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterable[DeadlineKey]:
        """Remove and yield all alarms up to `now`."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

"""A queue that serves groups in turn, so that one group of slow comparisons cannot starve the leases of the others."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Unbounded, thread-safe; first in first out within a group, round robin between groups."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, deque[T]] = OrderedDict()
        self._ready = threading.Condition()
        self._closed = False

    def put(self, group: str, item: T) -> None:
        """Append an item to its group; ValueError once closed."""
        with self._ready:
            if self._closed:
                raise ValueError("the queue is closed")
            self._groups.setdefault(group, deque()).append(item)
            self._ready.notify()

    def get(self) -> T | None:
        """Next item, waiting for one; None once the queue is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._closed or bool(self._groups))
            if self._closed:
                return None
            group, items = self._groups.popitem(last=False)
            item = items.popleft()
            if items:
                self._groups[group] = items  # to the end of the round
            return item

    def close(self) -> list[T]:
        """Wake every waiting `get`; returns what was never served."""
        with self._ready:
            self._closed = True
            left = [item for items in self._groups.values() for item in items]
            self._groups.clear()
            self._ready.notify_all()
            return left

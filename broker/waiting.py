"""Long polls: requests for work that stay with the broker until there is some or their time is up."""

from __future__ import annotations

import itertools

from broker.queues import Deadlines
from broker.records import Request, RequestKey, Waiter
from common.messages import LeaseKind, Purpose

MAX_WAITERS = 16_384  # in each line, so that nobody can fill that of another role


class WaitingRoom:
    """Waiting requests by what they wait for, each line first come, first served.

    A repeated request (same incarnation and request id) takes the place of its predecessor, whose socket is gone.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.lines: dict[LeaseKind | Purpose, dict[RequestKey, Waiter]] = {
            "generate": {},
            "grade": {},
            "train": {},
            "eval": {},
        }
        self._deadlines = deadlines
        self._anonymous = itertools.count(1)

    def join(self, line: LeaseKind | Purpose, request: Request, wait_s: float, version: int = 0) -> None:
        """Queue a request. Requests without an id (0) are all different ones."""
        key = request.key if request.request_id else (request.key[0], -next(self._anonymous))
        self.lines[line].pop(key, None)  # then it joins last, where the dispatcher looks for those that do not wait
        if len(self.lines[line]) >= MAX_WAITERS:
            wait_s = 0.0
        waiter = Waiter(
            key, request.peer, request.role, request.name, request.request_id, request.now + wait_s, version
        )
        self.lines[line][key] = waiter
        if wait_s > 0:
            self._deadlines.add(waiter.deadline, ("waiter", key))

    def overdue(self, key: RequestKey, now: float) -> Waiter | None:
        """Remove and return the waiter behind a ringing alarm if its time is up."""
        for line in self.lines.values():
            waiter = line.get(key)
            if waiter is not None and waiter.deadline <= now:
                return line.pop(key)
        return None

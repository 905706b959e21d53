"""Leases: rights to work on a task, with a deadline, a fencing token and progress-carrying renewals.

One primitive serves generation and grading. A lease ends exactly once (submitted, returned, expired, cancelled, found
invalid or stale, or never delivered) and how it ended is remembered for a while, so that a repeated or late message
about it gets the same answer as the first, or is told what happened. Work done under a lease that has ended is never
accepted: somebody else may have the task by now.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from broker.queues import Deadlines
from broker.records import EndedLease, Lease, LeaseOutcome, Refusal, Request, RequestKey, Task, Waiter
from common.histogram import Tally
from common.messages import LeaseKind, RefusalCode

MAX_REMEMBERED = 100_000
WORK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Buckets of the time to grade (from milliseconds) and to generate (to most of an hour, for long completions)."""

_CODES: dict[str, RefusalCode] = {"cancelled": "cancelled", "invalid": "invalid", "stale": "stale"}


class LeaseBook:
    """All running leases, and how the last 100,000 ended."""

    def __init__(self, incarnation: str, durations_s: dict[LeaseKind, float], deadlines: Deadlines) -> None:
        self.active: dict[str, Lease] = {}
        self.ended: OrderedDict[str, EndedLease] = OrderedDict()
        self.by_request: dict[RequestKey, str] = {}
        self.num_active: dict[LeaseKind, int] = {"generate": 0, "grade": 0}
        self.num_granted: dict[LeaseKind, int] = {"generate": 0, "grade": 0}
        self.num_ended: Counter[tuple[LeaseKind, LeaseOutcome]] = Counter()
        self.seconds: dict[LeaseKind, Tally] = {"generate": Tally(WORK_SECONDS), "grade": Tally(WORK_SECONDS)}
        self._prefix = incarnation[:8]
        self._durations_s = durations_s
        self._deadlines = deadlines
        self._token = 0

    def grant(self, task: Task, kind: LeaseKind, waiter: Waiter, now: float) -> Lease:
        """A new lease on `task`; its token is higher than any before."""
        self._token += 1
        duration_s = self._durations_s[kind]
        lease = Lease(
            lease_id=f"{self._prefix}-{self._token:x}",
            token=self._token,
            kind=kind,
            task_id=task.task_id,
            holder=waiter.name,
            request=waiter.key,
            duration_s=duration_s,
            deadline=now + duration_s,
            granted_at=now,
            version=waiter.version,
        )
        self.active[lease.lease_id] = lease
        self.by_request[waiter.key] = lease.lease_id
        self.num_active[kind] += 1
        self.num_granted[kind] += 1
        self._deadlines.add(lease.deadline, ("lease", lease.lease_id))
        return lease

    def find(self, lease_id: str, token: int, kind: LeaseKind) -> Lease | EndedLease | None:
        """The lease of that id, token and kind, running or ended; None if there is no such lease (any more)."""
        lease = self.active.get(lease_id) or self.ended.get(lease_id)
        return lease if lease is not None and lease.token == token and lease.kind == kind else None

    def require(self, lease: Lease | EndedLease | None, lease_id: str, token: int, request: Request) -> Lease:
        """`lease` if it is running; otherwise Refusal with what became of it."""
        if isinstance(lease, Lease):
            return lease
        if lease is None:
            raise Refusal(
                "lease_lost",
                f"no lease {lease_id} with token {token} of this role is known; the work of {request.name} is "
                "discarded, ask for another lease",
            )
        ago = request.now - lease.at
        raise Refusal(
            _CODES.get(lease.outcome, "lease_lost"),
            f"lease {lease_id} on task {lease.task_id} {lease.outcome} {ago:.1f} s before this message "
            f"({lease.holder}): {lease.detail}; the work is discarded, ask for another lease",
        )

    def renew(self, lease: Lease, progress: int, request: Request) -> bool:
        """Move the deadline, if `progress` has grown; False for a repeated renewal, which moves nothing."""
        if request.request_id and lease.renewed_by == request.key:
            return False
        if progress <= lease.progress:
            raise Refusal(
                "no_progress",
                f"lease {lease.lease_id} ({lease.holder}): progress {progress} is not above {lease.progress}; the "
                f"lease ends in {lease.deadline - request.now:.1f} s unless progress grows",
            )
        lease.progress = progress
        lease.renewed_by = request.key
        lease.deadline = request.now + lease.duration_s
        return True

    def end(self, lease: Lease, outcome: LeaseOutcome, now: float, detail: str) -> None:
        """Take `lease` out of service and remember how it ended."""
        del self.active[lease.lease_id]
        self.by_request.pop(lease.request, None)
        self.num_active[lease.kind] -= 1
        self.num_ended[lease.kind, outcome] += 1
        if outcome == "submitted":
            self.seconds[lease.kind].add(now - lease.granted_at)
        ended = EndedLease(lease.kind, lease.token, lease.task_id, lease.holder, outcome, now, detail)
        self.ended[lease.lease_id] = ended
        if len(self.ended) > MAX_REMEMBERED:
            self.ended.popitem(last=False)

    def overdue(self, lease_id: str, now: float) -> Lease | None:
        """The lease behind a ringing alarm if its time is up; sets the alarm anew if it was renewed meanwhile."""
        lease = self.active.get(lease_id)
        if lease is None:
            return None
        if lease.deadline > now:
            self._deadlines.add(lease.deadline, ("lease", lease_id))
            return None
        return lease

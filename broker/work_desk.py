"""Requests of those who work under leases (actors and evaluators): asking, renewing, submitting, giving back."""

from __future__ import annotations

from broker import grants
from broker.core import Core
from broker.records import Lease, Refusal, Reply, Request, Waiter
from broker.validate import check_group, check_verdicts
from common import messages as m
from common.messages import Header, LeaseKind, Role

KIND_OF_ROLE: dict[Role, LeaseKind] = {"actor": "generate", "evaluator": "grade"}


class WorkDesk:
    """Handlers of the actors' and the evaluators' sockets; each returns its answer, or None when the request waits."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def lease_work(self, header: m.LeaseWork, request: Request) -> Reply | None:
        """Wait for a lease; if this very request already got one, whose reply was lost, the same again."""
        core = self._core
        if header.kind != KIND_OF_ROLE[request.role]:
            raise Refusal("wrong_role", f"{request.name}: {request.role}s have no {header.kind} leases; wrong socket")
        held = core.leases.by_request.get(request.key) if request.request_id else None
        if held is not None:
            return grants.lease_reply(core, core.leases.active[held], request, request.now)
        version = 0
        if header.kind == "generate":
            version = self._check_version(header.version, request.name, request.peer)
            core.peers.note_version(request, version)
        core.waiting.join(header.kind, request, header.wait_s, version)
        return None

    def refuse_stale(self, replies: list[Reply]) -> None:
        """After a publish: actors that wait for work with weights that have become too old are told so."""
        line = self._core.waiting.lines["generate"]
        for waiter in list(line.values()):
            try:
                self._check_version(waiter.version, waiter.name, waiter.peer)
            except Refusal as refusal:
                del line[waiter.key]
                self._core.num_refused[refusal.code] += 1
                replies.append(_refused(waiter, refusal))

    def renew(self, header: m.Renew, request: Request) -> Header:
        """Move a lease's deadline if there was progress."""
        lease = self._running(header.lease_id, header.token, request)
        moved = self._core.leases.renew(lease, header.progress, request)
        return m.Ack(duplicate=not moved, deadline_s=max(0.0, lease.deadline - request.now))

    def submit_group(self, header: m.SubmitGroup, request: Request) -> Header:
        """Accept a generated group. One that breaks a bound is a failed attempt; one that is too old is not."""
        core = self._core
        if self._was_submitted(header.lease_id, header.token, header.task_id, request):
            core.ledger.counters["groups_duplicated"] += 1
            return m.Ack(duplicate=True)
        lease = self._running(header.lease_id, header.token, request)
        task = core.ledger.tasks[lease.task_id]
        try:
            group = check_group(
                header,
                request.payload,
                task,
                vocab_size=core.vocab_size,
                version=core.version,
                holder=lease.holder,
            )
        except Refusal as refusal:
            self._reject(lease, request, refusal)
            raise
        if core.too_old(task, group):
            detail = f"its tokens are of versions {group.oldest}..{group.newest}, too old at version {core.version}"
            core.ledger.counters["groups_swept"] += 1
            core.give_up(lease, "stale", request.now, detail)
            raise Refusal("stale", f"group of task {task.task_id} from {lease.holder}: {detail}; discarded")
        core.leases.end(lease, "submitted", request.now, "a group was accepted")
        core.ledger.generated(task, group)
        return m.Ack()

    def submit_verdicts(self, header: m.SubmitVerdicts, request: Request) -> Header:
        """Accept verdicts on a group; what breaks a bound is a failed attempt."""
        core = self._core
        if self._was_submitted(header.lease_id, header.token, header.task_id, request):
            return m.Ack(duplicate=True)
        lease = self._running(header.lease_id, header.token, request)
        task = core.ledger.tasks[lease.task_id]
        try:
            verdicts = check_verdicts(header, task, lease.holder)
        except Refusal as refusal:
            self._reject(lease, request, refusal)
            raise
        core.leases.end(lease, "submitted", request.now, "verdicts were accepted")
        core.ledger.graded(task, verdicts, request.now)
        return m.Ack()

    def return_lease(self, header: m.ReturnLease, request: Request) -> Header:
        """Work comes back undone: politely, or as a failed attempt."""
        core = self._core
        found = core.leases.find(header.lease_id, header.token, KIND_OF_ROLE[request.role])
        if found is not None and not isinstance(found, Lease) and found.outcome == "returned":
            return m.Ack(duplicate=True)
        lease = self._running(header.lease_id, header.token, request)
        end = core.fail if header.failed else core.give_up
        end(lease, "returned", request.now, header.reason)
        return m.Ack()

    def drain(self, header: m.Drain, request: Request) -> Header:
        """No new leases for the processes named, for a while."""
        self._core.drains.begin(header.role, header.names, request.now + header.for_s, request.now)
        return m.Ack()

    def expire(self, lease: Lease, now: float) -> None:
        """A lease whose time is up is a failed attempt: its holder died, hung or was cut off."""
        self._core.ledger.counters["leases_expired"] += 1
        detail = f"no progress within {lease.duration_s:g} s (last reported: {lease.progress})"
        self._core.fail(lease, "expired", now, detail)

    def _running(self, lease_id: str, token: int, request: Request) -> Lease:
        found = self._core.leases.find(lease_id, token, KIND_OF_ROLE[request.role])
        return self._core.leases.require(found, lease_id, token, request)

    def _was_submitted(self, lease_id: str, token: int, task_id: str, request: Request) -> bool:
        found = self._core.leases.find(lease_id, token, KIND_OF_ROLE[request.role])
        return (
            found is not None
            and not isinstance(found, Lease)
            and found.outcome == "submitted"
            and found.task_id == task_id
        )

    def _reject(self, lease: Lease, request: Request, refusal: Refusal) -> None:
        self._core.ledger.counters["submits_refused"] += 1
        self._core.fail(lease, "invalid", request.now, refusal.detail)

    def _check_version(self, version: int | None, name: str, peer: bytes) -> int:
        """An actor samples with weights at most eta publishes old. One version ahead is normal: the learner tells the
        broker of a version just after the actors have committed it."""
        current, oldest = self._core.version, self._core.version - self._core.max_staleness
        if version is None:
            raise Refusal("version", f"{name} holds no weights; an actor without a version may not sample")
        if not self._core.peers.in_history("actor", peer):
            detail = f"{name} holds version {version} of another learner's history; say hello, join anew"
            raise Refusal("version", detail)
        if version < oldest:
            raise Refusal("version", f"{name} holds version {version}, older than {oldest}; update the weights first")
        if version > current + 1:
            raise Refusal("version", f"{name} holds version {version}, current is {current}; join the learner anew")
        return version


def _refused(waiter: Waiter, refusal: Refusal) -> Reply:
    header = m.Refused(request_id=waiter.request_id, code=refusal.code, detail=refusal.detail)
    return Reply(waiter.peer, waiter.role, header)

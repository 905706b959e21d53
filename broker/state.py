"""The broker as a state machine: requests and the time go in, replies come out. No socket, clock, disk or randomness.

    replies = state.handle(peer, role, envelope, now)    one request, and what it makes possible for waiting ones
    replies = state.tick(now)                            leases and long polls whose time is up
    replies = state.undelivered(reply, now)              a reply found nobody: its lease goes back at once

`now` is any monotone clock in seconds. Every request gets exactly one reply, now or (LeaseWork, Take) later. Requests
are idempotent: whoever repeats one after a lost reply is told the same, and nothing happens twice.

Only `tick` expires leases. A message that comes after its lease's deadline but before the tick is still accepted:
nobody else has been given the work, and a broker that was itself held up must not punish its peers for it.

A learner that comes back as a new incarnation says from which version it starts. What the old one took and did not
release is ready again. Groups with tokens of later versions belong to a history that no longer exists and are generated
again, as are running leases if versions were rolled back. What was trained after that version may be admitted again
(Ledger.learner_restarted). The old incarnation is refused from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker import grants
from broker.core import Core
from broker.learner_desk import LearnerDesk
from broker.records import Refusal, Reply, Request
from broker.status import report
from broker.validate import check_no_frames
from broker.work_desk import WorkDesk
from common import messages as m
from common.config import RunConfig
from common.messages import Header, Role
from common.wire import Envelope

RIGHTS: dict[type[Header], frozenset[Role]] = {
    m.Hello: frozenset({"learner", "actor", "evaluator", "monitor"}),
    m.AddTask: frozenset({"learner"}),
    m.Take: frozenset({"learner"}),
    m.Release: frozenset({"learner"}),
    m.Publish: frozenset({"learner"}),
    m.LeaseWork: frozenset({"actor", "evaluator"}),
    m.Renew: frozenset({"actor", "evaluator"}),
    m.ReturnLease: frozenset({"actor", "evaluator"}),
    m.SubmitGroup: frozenset({"actor"}),
    m.SubmitVerdicts: frozenset({"evaluator"}),
    m.GetStatus: frozenset({"monitor", "learner"}),
    m.Drain: frozenset({"monitor"}),
}
"""Which message type may come in on which sockets."""

Handler = Callable[[Any, Request], Header | Reply | None]


class State:
    """Everything the broker decides. `history=True` keeps each task's story for broken invariants (tests)."""

    def __init__(self, config: RunConfig, *, incarnation: str, now: float, history: bool = False) -> None:
        self.core = Core(config, incarnation=incarnation, now=now, history=history)
        self._learner = learner = LearnerDesk(self.core)
        self._work = work = WorkDesk(self.core)
        self._handlers: dict[type[Header], Handler] = {
            m.Hello: self._hello,
            m.AddTask: learner.add_task,
            m.Take: learner.take,
            m.Release: learner.release,
            m.Publish: learner.publish,
            m.LeaseWork: work.lease_work,
            m.Renew: work.renew,
            m.ReturnLease: work.return_lease,
            m.SubmitGroup: work.submit_group,
            m.SubmitVerdicts: work.submit_verdicts,
            m.GetStatus: self._get_status,
            m.Drain: work.drain,
        }

    def handle(self, peer: bytes, role: Role, envelope: Envelope, now: float) -> list[Reply]:
        """One request of `peer` on the socket of `role`; its own reply comes first if it is answered at once."""
        header = envelope.header
        self.core.advance(now)
        before = self.core.version, self.core.peers.learner
        replies: list[Reply] = []
        answer: Header | Reply | None
        try:
            request = self._introduce(peer, role, envelope, now)
            answer = self._handlers[type(header)](header, request)
        except Refusal as refusal:
            self.core.num_refused[refusal.code] += 1
            answer = m.Refused(code=refusal.code, detail=refusal.detail)
        if isinstance(answer, Reply):
            replies.append(answer)
        elif answer is not None:
            replies.append(Reply(peer, role, answer.model_copy(update={"request_id": header.request_id})))
        if before != (self.core.version, self.core.peers.learner):
            self._learner.dismiss_replaced(replies)
            self._work.refuse_stale(replies)
        grants.dispatch(self.core, now, replies)
        return replies

    def tick(self, now: float) -> list[Reply]:
        """Expire leases (a failed attempt each) and answer long polls whose time is up."""
        self.core.advance(now)
        replies: list[Reply] = []
        for key in self.core.deadlines.due(now):
            if key[0] == "lease":
                lease = self.core.leases.overdue(key[1], now)
                if lease is not None:
                    self._work.expire(lease, now)
            else:
                waiter = self.core.waiting.overdue(key[1], now)
                if waiter is not None:
                    replies.append(Reply(waiter.peer, waiter.role, m.NoWork(request_id=waiter.request_id)))
        self.core.forget_outdated_alarms()
        grants.dispatch(self.core, now, replies)
        return replies

    def next_deadline(self, now: float) -> float | None:
        """Seconds from `now` until `tick` should be called at the latest; None while nothing runs."""
        at = self.core.deadlines.next()
        return None if at is None else max(0.0, at - now)

    def undelivered(self, reply: Reply, now: float) -> list[Reply]:
        """`reply` could not be sent. A lease goes back unharmed; anything else waits to be asked for again."""
        self.core.advance(now)
        replies: list[Reply] = []
        if isinstance(reply.header, m.Lease):
            lease = self.core.leases.active.get(reply.header.lease_id)
            if lease is not None:
                self.core.give_up(lease, "undelivered", now, "its holder could not be reached")
                grants.dispatch(self.core, now, replies)
        return replies

    def status(self, now: float) -> dict[str, Any]:
        """What GetStatus and Publish report."""
        return report(self.core, now)

    def _introduce(self, peer: bytes, role: Role, envelope: Envelope, now: float) -> Request:
        """Who asks, and may they? Refusal for a type of another role's socket, and for strangers."""
        header = envelope.header
        kind = str(getattr(header, "type", "?"))
        allowed = RIGHTS.get(type(header), frozenset())
        if role not in allowed:
            where = " and ".join(sorted(allowed)) or "no"
            raise Refusal("wrong_role", f"{kind} came in on the {role} socket; it belongs to {where} sockets")
        known = self.core.peers.seen(role, peer, now)
        if isinstance(header, m.Hello):
            name, incarnation = header.name, header.incarnation
        elif known is not None:
            name, incarnation = known.name, known.incarnation
        elif role == "monitor":
            name, incarnation = "monitor", peer.hex()
        else:
            raise Refusal("unknown_peer", f"{kind} from an unknown {role}: say hello first on this connection")
        if not isinstance(header, m.AddTask | m.SubmitGroup):
            check_no_frames(envelope.payload, f"{kind} from {name}")
        return Request(peer, role, name, incarnation, header.request_id, envelope.payload, now)

    def _hello(self, header: m.Hello, request: Request) -> Header:
        core = self.core
        if header.role != request.role:
            raise Refusal("wrong_role", f"{header.name} says hello as {header.role} on the {request.role} socket")
        if not core.peers.knows(request.role, header.incarnation):
            core.drains.end(request.role, header.name)
        again = core.peers.learner is not None
        if core.peers.introduce(request.role, request.peer, header, request.now):
            self._learner.start(header, again=again, now=request.now)
        return m.Welcome(
            broker_incarnation=core.incarnation,
            version=core.version,
            weights_endpoint=core.weights_endpoint,
            learner=core.peers.learner,
        )

    def _get_status(self, header: m.GetStatus, request: Request) -> Header:
        return m.StatusReport(status=report(self.core, request.now, dead_after=header.dead_after))

"""Requests of the learner: adding tasks, taking and releasing groups, publishing, and starting over."""

from __future__ import annotations

from collections import OrderedDict

from broker import grants
from broker.core import Core
from broker.records import Refusal, Reply, Request, RequestKey
from broker.status import report
from broker.validate import check_task
from common import messages as m
from common.messages import Header

MAX_REMEMBERED_RELEASES = 10_000


class LearnerDesk:
    """Handlers of the learner's socket; each returns its answer, or None when the request waits."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._released: OrderedDict[RequestKey, None] = OrderedDict()

    def start(self, header: m.Hello, *, again: bool, now: float) -> None:
        """A new incarnation of the learner begins at `header.version`; `again` if there was one before."""
        core = self._core
        core.num_learner_starts += 1
        core.vocab_size = header.vocab_size
        core.weights_endpoint = header.weights_endpoint
        version = core.version if header.version is None else header.version
        rolled_back = version < core.version
        core.version = version
        core.peers.history += 1
        if not again:
            return
        why = f"the learner starts over from version {version}"
        core.ledger.learner_restarted(version)
        self._apply_gate(now)
        running = [lease for lease in core.leases.active.values() if lease.kind == "generate"]
        core.cancel_leases([lease for lease in running if rolled_back or lease.version > version], now, why)
        tasks = core.ledger.tasks.values()
        lost = [task for task in tasks if task.group is not None and task.group.newest > version]
        core.sweep(lost, now, f"swept: tokens after version {version}, and {why}")

    def add_task(self, header: m.AddTask, request: Request) -> Header:
        """Admit a task, once."""
        ledger = self._core.ledger
        if header.task_id in ledger.tasks or header.task_id in ledger.finished:
            return m.Ack(duplicate=True)
        check_task(header, request.payload, self._core.vocab_size)
        ledger.admit(header, request.payload)
        return m.Ack()

    def take(self, header: m.Take, request: Request) -> Reply | None:
        """Wait for a group; if this very request already got one, whose reply was lost, the same again."""
        ledger = self._core.ledger
        taken = ledger.takes.get(request.key) if request.request_id else None
        if taken is not None:
            return grants.group_reply(ledger.tasks[taken], request, request.now)
        self._core.waiting.join(header.purpose, request, header.wait_s)
        return None

    def release(self, header: m.Release, request: Request) -> Header:
        """The learner is done with groups, all or none of those named."""
        if request.request_id and request.key in self._released:
            return m.Ack(duplicate=True)
        ledger = self._core.ledger
        taken, stray = [], []
        for task_id in dict.fromkeys(header.task_ids):
            task = ledger.tasks.get(task_id)
            if task is not None and task.taken_by is not None:
                taken.append(task)
            elif task_id not in ledger.finished and (task is None or header.outcome == "trained"):
                stray.append(task_id)
        if stray:
            raise Refusal("unknown_task", f"{request.name} has not taken {', '.join(stray[:5])}; nothing was released")
        for task in taken:
            if header.outcome == "trained":
                ledger.trained(task, self._core.version)
            else:
                ledger.retry(task, self._core.version)
        if request.request_id:
            self._released[request.key] = None
            if len(self._released) > MAX_REMEMBERED_RELEASES:
                self._released.popitem(last=False)
        return m.Ack(duplicate=not taken)

    def publish(self, header: m.Publish, request: Request) -> Header:
        """The next version is current: credit comes back, what is too old goes. Repeated publishes change nothing."""
        core = self._core
        if header.version > core.version + 1:
            raise Refusal(
                "version",
                f"{request.name} publishes version {header.version} after {core.version}; versions rise by one, and a "
                "restarted learner names its first version in hello",
            )
        if header.version == core.version + 1:
            core.version = header.version
            core.ledger.published()
            self._apply_gate(request.now)
        return m.StatusReport(status=report(core, request.now))

    def dismiss_replaced(self, replies: list[Reply]) -> None:
        """A replaced learner's waiting requests must not get groups any more."""
        core = self._core
        for line in (core.waiting.lines["train"], core.waiting.lines["eval"]):
            for waiter in [waiter for waiter in line.values() if waiter.key[0] != f"learner {core.peers.learner}"]:
                del line[waiter.key]
                header = m.Refused(
                    request_id=waiter.request_id, code="stale", detail=f"{waiter.name} was replaced by a newer learner"
                )
                replies.append(Reply(waiter.peer, waiter.role, header))

    def _apply_gate(self, now: float) -> None:
        """Gate 2: cancel leases and discard groups (not those that the learner holds) that have become too old."""
        core = self._core
        why = f"too old at version {core.version}"
        core.cancel_leases([lease for lease in core.leases.active.values() if core.cancels(lease)], now, why)
        tasks = core.ledger.tasks.values()
        old = [t for t in tasks if t.group is not None and t.taken_by is None and core.too_old(t, t.group)]
        core.sweep(old, now, f"swept: {why}")

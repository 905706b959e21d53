"""What all parts of the state machine share: the current version, the ledger, leases, peers and waiting requests."""

from __future__ import annotations

from collections import Counter, deque

from broker.drains import Drains
from broker.leases import LeaseBook
from broker.ledger import Ledger
from broker.meter import Meter, WaitCause
from broker.peers import Peers
from broker.queues import DeadlineKey, Deadlines
from broker.records import Generated, Lease, LeaseOutcome, Task
from broker.staleness import cancels_lease, too_old
from broker.waiting import WaitingRoom
from common.config import RunConfig
from common.messages import RefusalCode

MAX_FAILURES_KEPT = 100
SPARE_ALARMS = 1000
_MAX_FAILURE_TEXT = 600


class Core:
    """Shared state of one broker incarnation; `version` is the policy version that was published last."""

    def __init__(self, config: RunConfig, *, incarnation: str, now: float, history: bool) -> None:
        self.incarnation = incarnation
        self.started = now
        self.version = 0
        self.policy = config.learner.staleness_policy
        self.max_staleness = config.learner.max_staleness
        self.vocab_size: int | None = None
        self.weights_endpoint: str | None = None
        self.deadlines = Deadlines()
        self.ledger = Ledger(config, history=history)
        self.leases = LeaseBook(
            incarnation,
            {"generate": config.broker.generate_lease_s, "grade": config.broker.grade_lease_s},
            self.deadlines,
        )
        self.waiting = WaitingRoom(self.deadlines)
        self.peers = Peers()
        self.drains = Drains()
        self.meter = Meter(now)
        self.num_learner_starts = 0
        self.num_refused: Counter[RefusalCode] = Counter()
        self.failures: deque[str] = deque(maxlen=MAX_FAILURES_KEPT)  # a line each; the server's loop logs them

    def advance(self, now: float) -> None:
        """The time is `now`; called before each event is looked at."""
        self.meter.advance(self.learner_waits_for(now), now)
        self.ledger.now = now

    def forget_outdated_alarms(self) -> None:
        """Once most alarms are for what has ended: leases that are taken and returned, and polls that are answered, as
        fast as a peer can, leave one each for minutes. As cheap as adding them was."""
        lines = self.waiting.lines.values()
        if len(self.deadlines) <= 2 * (len(self.leases.active) + sum(map(len, lines))) + SPARE_ALARMS:
            return
        alarms: list[tuple[float, DeadlineKey]] = []
        alarms += ((lease.deadline, ("lease", lease_id)) for lease_id, lease in self.leases.active.items())
        alarms += ((waiter.deadline, ("waiter", key)) for line in lines for key, waiter in line.items())
        self.deadlines.replace(alarms)

    def learner_waits_for(self, now: float) -> WaitCause | None:
        """Why there is no group for a learner that waits for one; None while it does not."""
        if not self.waiting.lines["train"]:
            return None
        if self.ledger.queues["grade"]:
            return "grading"
        waiters = self.waiting.lines["generate"].values()
        idle = any(not self.drains.holds(waiter.role, waiter.name, now) for waiter in waiters)
        in_work = bool(self.ledger.queues["generate"]) or self.leases.num_active["generate"] > 0
        return "actors" if in_work and not idle else "other"

    @property
    def paced(self) -> bool:
        """Does the `pace` policy hold groups back?"""
        return self.policy == "pace"

    def too_old(self, task: Task, group: Generated) -> bool:
        """Gate 2 on a group. Evaluation is not training: its groups never get too old."""
        return task.purpose == "train" and too_old(
            self.policy,
            oldest=group.oldest,
            newest=group.newest,
            version=self.version,
            max_staleness=self.max_staleness,
        )

    def cancels(self, lease: Lease) -> bool:
        """Gate 2 on a running lease."""
        return (
            lease.kind == "generate"
            and self.ledger.tasks[lease.task_id].purpose == "train"
            and cancels_lease(
                self.policy, lease_version=lease.version, version=self.version, max_staleness=self.max_staleness
            )
        )

    def give_up(self, lease: Lease, outcome: LeaseOutcome, now: float, detail: str) -> None:
        """End `lease` without blame: its task goes back to the front of the queue it came from."""
        self.leases.end(lease, outcome, now, detail)
        self.ledger.requeue(self.ledger.tasks[lease.task_id])

    def fail(self, lease: Lease, outcome: LeaseOutcome, now: float, detail: str) -> None:
        """End `lease` as a failed attempt: its task goes back to its queue, or becomes a dead letter."""
        self.leases.end(lease, outcome, now, detail)
        task, reason = self.ledger.tasks[lease.task_id], f"{lease.kind} by {lease.holder} {outcome}: {detail}"
        self.ledger.fail(task, reason)
        end = "given up" if task.attempts >= self.ledger.max_attempts else "done again"
        text = f"task {task.task_id}, attempt {task.attempts} of {self.ledger.max_attempts}, {end}: {reason}"
        self.failures.append(" ".join(text.split())[:_MAX_FAILURE_TEXT])  # peers have a say in it: one short line

    def cancel_leases(self, leases: list[Lease], now: float, why: str) -> None:
        """Take running leases away; their holders learn it at their next renewal or submit."""
        for lease in reversed(leases):
            self.give_up(lease, "cancelled", now, why)
        self.ledger.counters["leases_cancelled"] += len(leases)

    def sweep(self, tasks: list[Task], now: float, why: str) -> None:
        """Discard the groups of `tasks`, cancelling what evaluators do with them, and have them generated again."""
        for task in tasks:
            if task.lease_id is not None:
                self.leases.end(self.leases.active[task.lease_id], "cancelled", now, why)
                self.ledger.counters["leases_cancelled"] += 1
        self.ledger.counters["groups_swept"] += len(tasks)
        self.ledger.regenerate(tasks, why)

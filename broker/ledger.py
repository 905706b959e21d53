"""The ledger: every admitted task in exactly one place, from admission to its end.

    admit -> generate queue -> generating -> grade queue -> grading -> ready -> taken -> trained | evaluated
                  ^                |             ^             |         |        |
                  |<-- failed -----+             +<-- failed --+         |        |
                  |<------------------- swept (too old) -----------------+        |
                  |<------------------- retry ------------------------------------+
    too many failed attempts of one phase -> dead letter

Credit (gate 1): a train task is outstanding from its admission until it is dead-lettered or, if trained, until the
first publish after it was taken; so Publish and Release may come in either order. Finished ids are remembered so that
a repeated AddTask or Release changes nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from broker.queues import ReadyQueue, WorkQueue
from broker.records import DeadLetter, Generated, Lease, Place, Refusal, RequestKey, Task, payload_bytes
from broker.staleness import PaceWindow
from common.config import RunConfig
from common.histogram import Tally
from common.messages import AddTask, LeaseKind, Purpose, Verdict
from common.wire import Payload

MAX_FINISHED = 100_000
MAX_EVAL_TASKS = 10_000
MAX_DEAD_LETTERS = 20_000  # all that can be outstanding, so that a learner that was busy misses none
MAX_STORY = 64
MAX_REASON = 200

QueueName = Literal["generate", "grade", "ready_train", "ready_eval"]
QUEUES: tuple[QueueName, ...] = ("generate", "grade", "ready_train", "ready_eval")
WAIT_SECONDS = (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)

COUNTERS = (
    *("tasks_admitted", "groups_generated", "groups_graded", "groups_taken", "groups_trained", "groups_evaluated"),
    *("groups_duplicated", "groups_swept", "groups_retried", "leases_granted", "leases_expired", "leases_cancelled"),
    *("attempts_failed", "dead_lettered", "tokens_generated", "submits_refused"),
)


@dataclass(slots=True, frozen=True)
class Finished:
    """How a task ended. `version`: the first version whose training includes it (trained tasks)."""

    outcome: str
    version: int


class Ledger:
    """Tasks, the queues they are in, and what is counted about them. The only place that moves a task."""

    def __init__(self, config: RunConfig, *, history: bool) -> None:
        self.credit_limit = config.credit_limit
        self.max_attempts = config.broker.max_attempts
        self.tasks: dict[str, Task] = {}
        self.queues: dict[LeaseKind, WorkQueue] = {"generate": WorkQueue(), "grade": WorkQueue()}
        self.ready: dict[Purpose, ReadyQueue] = {"train": ReadyQueue(), "eval": ReadyQueue()}
        self.takes: dict[RequestKey, str] = {}
        self.finished: OrderedDict[str, Finished] = OrderedDict()
        self.dead_letters: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self.num_tasks: dict[Purpose, int] = {"train": 0, "eval": 0}
        self.num_awaiting_publish = 0
        self.pace = PaceWindow(config.groups_per_publish, config.learner.max_staleness)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.staleness_taken: Counter[int] = Counter()
        self.now = 0.0  # of the event under way
        self.queue_wait: dict[QueueName, Tally] = {name: Tally(WAIT_SECONDS) for name in QUEUES}
        self.stories: OrderedDict[str, deque[str]] | None = OrderedDict() if history else None

    def outstanding(self, purpose: Purpose) -> int:
        """Tasks of that purpose that are not finished, and trained ones whose credit has not come back."""
        return self.num_tasks[purpose] + (self.num_awaiting_publish if purpose == "train" else 0)

    def waiting(self) -> dict[QueueName, Iterable[str]]:
        """The tasks in each queue, those of the ready queues in no order."""
        work, ready = self.queues, self.ready
        return {
            "generate": work["generate"],
            "grade": work["grade"],
            "ready_train": ready["train"],
            "ready_eval": ready["eval"],
        }

    def tell(self, task_id: str, event: str) -> None:
        """Add a line to the task's story (kept in tests, printed when an invariant breaks)."""
        if self.stories is not None:
            self.stories.setdefault(task_id, deque(maxlen=MAX_STORY)).append(event)
            if len(self.stories) > MAX_FINISHED:
                self.stories.popitem(last=False)

    # -------------------------------------------------------------- the way of a task, forwards

    def admit(self, header: AddTask, payload: Payload) -> None:
        """Take in a new task; Refusal("no_credit") when too many are outstanding."""
        limit = self.credit_limit if header.purpose == "train" else MAX_EVAL_TASKS
        if self.outstanding(header.purpose) >= limit:
            raise Refusal(
                "no_credit",
                f"task {header.task_id}: {limit} {header.purpose} tasks are outstanding, the limit; "
                "release groups and publish before adding more",
            )
        task = Task(header.task_id, header.purpose, header.group_size, header.sampling, payload)
        task.size_bytes, task.queued_at = payload_bytes(payload), self.now
        self.tasks[task.task_id] = task
        self.num_tasks[task.purpose] += 1
        self.queues["generate"].push(task)
        self.counters["tasks_admitted"] += 1
        self.tell(task.task_id, "admitted")

    def leased(self, task: Task, lease: Lease) -> None:
        """`task` has been popped from its queue and is worked on under `lease`."""
        task.lease_id = lease.lease_id
        self.queue_wait[lease.kind].add(self.now - task.queued_at)
        task.place = Place.GENERATING if lease.kind == "generate" else Place.GRADING
        if lease.kind == "generate":
            self._set_start(task, lease.version)
        self.counters["leases_granted"] += 1
        self.tell(task.task_id, f"leased {lease.lease_id} to {lease.holder} to {lease.kind} at version {lease.version}")

    def generated(self, task: Task, group: Generated) -> None:
        """The group of `task` has arrived; it waits for an evaluator."""
        task.lease_id, task.attempts, task.group = None, 0, group
        task.place, task.queued_at = Place.GRADE_QUEUE, self.now
        task.size_bytes += payload_bytes(group.payload)
        self._set_start(task, group.oldest)
        self.queues["grade"].push(task)
        self.counters["groups_generated"] += 1
        self.counters["tokens_generated"] += group.num_tokens
        self.tell(task.task_id, f"generated, token versions {group.oldest}..{group.newest}")

    def graded(self, task: Task, verdicts: list[Verdict], now: float) -> None:
        """The group of `task` is complete; it waits for the learner."""
        assert task.group is not None
        task.lease_id, task.attempts = None, 0
        task.group.verdicts, task.group.ready_at = verdicts, now
        self._make_ready(task)
        self.counters["groups_graded"] += 1
        self.tell(task.task_id, "graded")

    def next_ready(self, purpose: Purpose, version: int, *, paced: bool) -> Task | None:
        """The group to hand out next, still in the ready queue; None when there is none or `pace` holds it back."""
        task_id = self.ready[purpose].peek()
        if task_id is None:
            return None
        task = self.tasks[task_id]
        if paced and purpose == "train":
            assert task.group is not None
            return task if self.pace.may_take(task.group.oldest, version) else None
        return task

    def take(self, task: Task, key: RequestKey, version: int) -> None:
        """Hand the group that `next_ready` named to the learner."""
        assert task.group is not None
        popped = self.ready[task.purpose].pop()
        assert popped == task.task_id, f"next was task {popped}, not {task.task_id}"
        task.place, task.taken_version, task.taken_by = Place.TAKEN, version, key
        self.takes[key] = task.task_id
        self.queue_wait[_ready_name(task)].add(self.now - task.queued_at)
        self._set_start(task, None)
        self.counters["groups_taken"] += 1
        if task.purpose == "train":
            self.pace.num_taken += 1
            self.staleness_taken[max(0, version - task.group.oldest)] += 1
        self.tell(task.task_id, f"taken at version {version}")

    def trained(self, task: Task, version: int) -> None:
        """The learner is done with a group it took."""
        self._untake(task)
        if task.purpose == "train":
            self.num_awaiting_publish += task.taken_version == version
            self.counters["groups_trained"] += 1
        else:
            self.counters["groups_evaluated"] += 1
        self._finish(task, "trained" if task.purpose == "train" else "evaluated", task.taken_version + 1)

    # -------------------------------------------------------------- and backwards

    def requeue(self, task: Task) -> None:
        """Work under a lease was given up: back to the front of the queue it came from."""
        task.lease_id, task.queued_at = None, self.now
        if task.group is None:
            task.place = Place.GENERATE_QUEUE
            self._set_start(task, None)
            self.queues["generate"].push(task, front=True)
        else:
            task.place = Place.GRADE_QUEUE
            self.queues["grade"].push(task, front=True)
        self.tell(task.task_id, f"back in the {task.place}")

    def fail(self, task: Task, reason: str) -> None:
        """An attempt under a lease failed: back to its queue, or dead-lettered after `max_attempts` of one phase."""
        task.attempts += 1
        self.counters["attempts_failed"] += 1
        self.tell(task.task_id, f"attempt {task.attempts} failed: {reason}")
        if task.attempts < self.max_attempts:
            self.requeue(task)
            return
        self.counters["dead_lettered"] += 1
        number = self.counters["dead_lettered"]
        self.dead_letters.append(DeadLetter(number, task.task_id, task.attempts, reason[:MAX_REASON]))
        self._set_start(task, None)
        self._finish(task, "dead-lettered", 0)

    def regenerate(self, tasks: list[Task], why: str) -> None:
        """Discard the groups, wherever they are by now; the tasks go back to the front of the generate queue."""
        self.queues["grade"].remove({t.task_id for t in tasks if t.place is Place.GRADE_QUEUE})
        for purpose, queue in self.ready.items():
            queue.remove({t.task_id for t in tasks if t.place is Place.READY and t.purpose == purpose})
        for task in reversed(tasks):
            if task.place is Place.TAKEN:
                self._untake(task)
            self.tell(task.task_id, why)
            task.group, task.attempts, task.size_bytes = None, 0, payload_bytes(task.payload)
            self.requeue(task)

    def retry(self, task: Task, version: int) -> None:
        """The learner gives a group back untrained; its slot in this publish window is free again."""
        if task.purpose == "train" and task.taken_version == version and self.pace.num_taken:
            self.pace.num_taken -= 1
        self.counters["groups_retried"] += 1
        self.regenerate([task], "retry asked for by the learner")

    def published(self) -> None:
        """A publish: credit of trained tasks comes back, and a new window of slots begins."""
        self.num_awaiting_publish = 0
        self.pace.restart()

    def learner_restarted(self, version: int) -> None:
        """A learner starts over from `version`: what it took and did not release is ready again, and whatever ended
        outside its surviving history (trained after `version`, evaluated, dead-lettered) may be admitted again."""
        for task in [self.tasks[task_id] for task_id in self.takes.values()]:
            self._untake(task)
            assert task.group is not None
            self._set_start(task, task.group.oldest)
            self._make_ready(task)
            self.tell(task.task_id, "ready again after a restart of the learner")
        kept = [(k, f) for k, f in self.finished.items() if f.outcome == "trained" and f.version <= version]
        self.finished = OrderedDict(kept)
        self.published()

    # -------------------------------------------------------------- bookkeeping

    def _make_ready(self, task: Task) -> None:
        assert task.group is not None
        task.place, task.queued_at = Place.READY, self.now
        self.ready[task.purpose].push(task.group.oldest if task.purpose == "train" else 0, task.task_id)

    def _untake(self, task: Task) -> None:
        assert task.taken_by is not None
        del self.takes[task.taken_by]
        task.taken_by = None

    def _finish(self, task: Task, outcome: str, version: int) -> None:
        del self.tasks[task.task_id]
        self.num_tasks[task.purpose] -= 1
        assert task.task_id not in self.finished, f"task {task.task_id} ends twice"
        self.finished[task.task_id] = Finished(outcome, version)
        if len(self.finished) > MAX_FINISHED:
            self.finished.popitem(last=False)
        self.tell(task.task_id, outcome)

    def _set_start(self, task: Task, start: int | None) -> None:
        if task.purpose == "train":
            starts = self.pace.starts
            if task.start is not None:
                starts[task.start] -= 1
                if not starts[task.start]:
                    del starts[task.start]
            if start is not None:
                starts[start] += 1
        task.start = start


def _ready_name(task: Task) -> QueueName:
    return "ready_train" if task.purpose == "train" else "ready_eval"

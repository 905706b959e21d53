"""What must hold after every event. Tests call `check` after each; a violation prints the story of the task.

The checks recompute everything from the tasks themselves, so they are linear in the number of tasks and not meant for
the running broker.
"""

from __future__ import annotations

from collections import Counter

from broker.core import Core
from broker.ledger import MAX_FINISHED, Ledger
from broker.records import Place, Task
from common.messages import Purpose

_PURPOSES: tuple[Purpose, ...] = ("train", "eval")


def check(core: Core) -> None:
    """Raise AssertionError, naming what is broken, unless every invariant holds."""
    ledger = core.ledger
    _check_places(core)
    for task in ledger.tasks.values():
        _check_task(core, task)
    _check_leases(core)
    _check_counts(core)
    _check_credit(ledger)


def story(ledger: Ledger, task_id: str) -> str:
    """What has happened to a task, oldest first (kept with `State(history=True)`)."""
    events = None if ledger.stories is None else ledger.stories.get(task_id)
    return f"task {task_id}: " + (" -> ".join(events) if events else "no story kept")


def _fail(ledger: Ledger, task_id: str, problem: str) -> None:
    raise AssertionError(f"{problem}\n  {story(ledger, task_id)}")


def _check_places(core: Core) -> None:
    """Each task is in exactly one container, the one that its `place` names."""
    ledger = core.ledger
    found: dict[str, list[Place]] = {task_id: [] for task_id in ledger.tasks}
    containers = [
        *((task_id, Place.GENERATE_QUEUE) for task_id in ledger.queues["generate"]),
        *((task_id, Place.GRADE_QUEUE) for task_id in ledger.queues["grade"]),
        *((task_id, Place.READY) for purpose in _PURPOSES for task_id in ledger.ready[purpose]),
        *((task_id, Place.TAKEN) for task_id in ledger.takes.values()),
        *(
            (lease.task_id, Place.GENERATING if lease.kind == "generate" else Place.GRADING)
            for lease in core.leases.active.values()
        ),
    ]
    for task_id, place in containers:
        if task_id not in found:
            _fail(ledger, task_id, f"{place} holds a task that is finished or was never admitted")
        found[task_id].append(place)
    for task_id, places in found.items():
        if places != [ledger.tasks[task_id].place]:
            _fail(ledger, task_id, f"task should be in {ledger.tasks[task_id].place}, is in {places or 'no place'}")


def _check_task(core: Core, task: Task) -> None:
    ledger = core.ledger
    leased = task.place in (Place.GENERATING, Place.GRADING)
    if leased != (task.lease_id is not None):
        _fail(ledger, task.task_id, f"lease {task.lease_id} on a task in the {task.place}")
    if leased and core.leases.active[str(task.lease_id)].task_id != task.task_id:
        _fail(ledger, task.task_id, f"lease {task.lease_id} is on another task")
    has_group = task.place not in (Place.GENERATE_QUEUE, Place.GENERATING)
    if has_group != (task.group is not None):
        _fail(ledger, task.task_id, f"{task.place} with{'out' if has_group else ''} a group")
    if task.group is not None and bool(task.group.verdicts) != (task.place in (Place.READY, Place.TAKEN)):
        _fail(ledger, task.task_id, f"{len(task.group.verdicts)} verdicts in the {task.place}")
    if task.attempts >= ledger.max_attempts:
        _fail(ledger, task.task_id, f"{task.attempts} failed attempts and no dead letter")
    if task.task_id in ledger.finished:
        _fail(ledger, task.task_id, "task is both finished and alive")
    if task.group is not None and task.place is not Place.TAKEN and core.too_old(task, task.group):
        _fail(ledger, task.task_id, f"group of {task.group.oldest}..{task.group.newest} kept at {core.version}")


def _check_leases(core: Core) -> None:
    tokens = [lease.token for lease in core.leases.active.values()]
    tokens += [ended.token for ended in core.leases.ended.values()]
    assert len(set(tokens)) == len(tokens), "two leases share a fencing token"
    for lease in core.leases.active.values():
        if core.ledger.tasks[lease.task_id].lease_id != lease.lease_id:
            _fail(core.ledger, lease.task_id, f"lease {lease.lease_id} is not the one the task knows")
        assert core.leases.by_request.get(lease.request) == lease.lease_id, f"lease {lease.lease_id} cannot be repeated"
        assert lease.lease_id not in core.leases.ended, f"lease {lease.lease_id} both runs and has ended"
        if core.cancels(lease):
            _fail(core.ledger, lease.task_id, f"lease of version {lease.version} still runs at {core.version}")
    kinds = Counter(lease.kind for lease in core.leases.active.values())
    assert core.leases.num_active == {"generate": kinds["generate"], "grade": kinds["grade"]}, "lease counts disagree"
    assert len(core.leases.by_request) == len(core.leases.active), "requests of leases that have ended are kept"


def _check_counts(core: Core) -> None:
    """Every admitted task is alive, trained, evaluated or a dead letter; nothing is lost and nothing ends twice."""
    ledger, counters = core.ledger, core.ledger.counters
    ended = counters["groups_trained"] + counters["groups_evaluated"] + counters["dead_lettered"]
    assert counters["tasks_admitted"] == len(ledger.tasks) + ended, (
        f"{counters['tasks_admitted']} tasks admitted, {len(ledger.tasks)} alive and {ended} ended"
    )
    purposes = Counter(task.purpose for task in ledger.tasks.values())
    assert ledger.num_tasks == {"train": purposes["train"], "eval": purposes["eval"]}, "task counts disagree"
    assert all(ledger.tasks[t].taken_by == key for key, t in ledger.takes.items()), "takes and tasks disagree"
    assert len(ledger.finished) <= MAX_FINISHED
    starts = Counter(t.start for t in ledger.tasks.values() if t.purpose == "train" and t.start is not None)
    assert starts == ledger.pace.starts, f"started tasks by version {starts}, counted {ledger.pace.starts}"
    for task in ledger.tasks.values():
        started = task.place not in (Place.GENERATE_QUEUE, Place.TAKEN)
        if started != (task.start is not None):
            _fail(ledger, task.task_id, f"start {task.start} in the {task.place}")


def _check_credit(ledger: Ledger) -> None:
    assert 0 <= ledger.outstanding("train") <= ledger.credit_limit, (
        f"{ledger.outstanding('train')} train tasks are outstanding, credit is {ledger.credit_limit}"
    )

"""Handing out: matches waiting requests with work after every event, and words the replies that carry payload."""

from __future__ import annotations

from broker.core import Core
from broker.records import Lease, Place, Reply, Request, RequestKey, Task, Waiter
from common import messages as m
from common.messages import LeaseKind, Purpose

_KINDS: tuple[LeaseKind, ...] = ("generate", "grade")
_PURPOSES: tuple[Purpose, ...] = ("train", "eval")


def dispatch(core: Core, now: float, replies: list[Reply]) -> None:
    """Serve waiting requests while there is something for them, then answer those that do not wait any longer."""
    for kind in _KINDS:
        _grant_leases(core, kind, now, replies)
    for purpose in _PURPOSES:
        _hand_out_groups(core, purpose, now, replies)


def lease_reply(core: Core, lease: Lease, waiter: Waiter | Request, now: float) -> Reply:
    """The Lease message: prompt tokens alone for actors; prompt, texts and specification for evaluators."""
    task = core.ledger.tasks[lease.task_id]
    header = m.Lease(
        request_id=waiter.request_id,
        kind=lease.kind,
        lease_id=lease.lease_id,
        token=lease.token,
        task_id=task.task_id,
        purpose=task.purpose,
        deadline_s=max(0.0, lease.deadline - now),
        group_size=task.group_size,
        attempt=task.attempts,
        sampling=task.sampling if lease.kind == "generate" else None,
        text_bytes=[] if task.group is None else [r.text_bytes for r in task.group.rollouts],
    )
    if lease.kind == "generate":
        payload = {"prompt_ids": task.payload["prompt_ids"]}
    else:
        assert task.group is not None
        payload = {"prompt": task.payload["prompt"], "texts": task.group.payload["texts"], "spec": task.payload["spec"]}
    return Reply(waiter.peer, waiter.role, header, payload)


def group_reply(task: Task, waiter: Waiter | Request, now: float) -> Reply:
    """The Group message: everything the learner needs of a complete group."""
    group = task.group
    assert group is not None
    assert task.place is Place.TAKEN
    header = m.Group(
        request_id=waiter.request_id,
        task_id=task.task_id,
        purpose=task.purpose,
        rollouts=group.rollouts,
        verdicts=group.verdicts,
        queued_s=max(0.0, now - group.ready_at),
    )
    payload = {"prompt_ids": task.payload["prompt_ids"], **group.payload, "prompt": task.payload["prompt"]}
    return Reply(waiter.peer, waiter.role, header, payload)


def _grant_leases(core: Core, kind: LeaseKind, now: float, replies: list[Reply]) -> None:
    line, queue = core.waiting.lines[kind], core.ledger.queues[kind]
    served: list[RequestKey] = []  # no copy of the line: thousands may wait, and most often one is served
    for waiter in line.values() if queue else ():
        if core.drains.holds(waiter.role, waiter.name, now):
            continue
        train = kind == "grade" or not core.paced or core.ledger.pace.may_start(waiter.version, core.version)
        task_id = queue.pop(train=train)
        if task_id is not None:
            served.append(waiter.key)
            lease = core.leases.grant(core.ledger.tasks[task_id], kind, waiter, now)
            core.ledger.leased(core.ledger.tasks[task_id], lease)
            replies.append(lease_reply(core, lease, waiter, now))
        if not queue:
            break
    for key in served:
        del line[key]
    _dismiss_impatient(line, now, replies)


def _hand_out_groups(core: Core, purpose: Purpose, now: float, replies: list[Reply]) -> None:
    line = core.waiting.lines[purpose]
    while line:
        task = core.ledger.next_ready(purpose, core.version, paced=core.paced)
        if task is None:
            break
        waiter = line.pop(next(iter(line)))
        core.ledger.take(task, waiter.key, core.version)
        replies.append(group_reply(task, waiter, now))
    _dismiss_impatient(line, now, replies)


def _dismiss_impatient(line: dict[RequestKey, Waiter], now: float, replies: list[Reply]) -> None:
    """A request with `wait_s` 0 that was not served gets NoWork at once; it can only be the last in line."""
    if line:
        waiter = next(reversed(line.values()))
        if waiter.deadline <= now:
            del line[waiter.key]
            replies.append(Reply(waiter.peer, waiter.role, m.NoWork(request_id=waiter.request_id)))

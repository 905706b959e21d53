"""The status report: gauges and counters of the broker, small enough for one message header."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict
from itertools import islice
from typing import Any

from broker.core import Core
from broker.records import DeadLetter, Peer
from common.messages import LeaseKind

MAX_LISTED_DEAD_LETTERS = 20
MAX_PEER_LIST_BYTES = 24_000
MAX_DRAIN_LIST_BYTES = 8_000
_KINDS: tuple[LeaseKind, ...] = ("generate", "grade")


def report(core: Core, now: float, *, dead_after: int | None = None) -> dict[str, Any]:
    """JSON-able status. `*_s` and `seconds` are seconds; what is cumulative counts from the broker's start.

    `service`: by kind, leases that ended with an accepted submit, their `seconds` from grant to submit, and the mean
    age of those that run (`running_s`; null: none runs). `oldest_waiting_s`: of the tasks that wait for a lease.
    `learner_waiting_s`: by cause (broker/meter.py). `staleness`: of train groups handed out, in publishes. `draining`:
    seconds left, by name. What is listed is cut where it would not fit: of the peers, those that are drained come
    first, then those that hold leases, so that whoever waits for them to finish is not misled.
    """
    ledger = core.ledger
    return {
        "incarnation": core.incarnation,
        "version": core.version,
        "policy": core.policy,
        "credit_limit": ledger.credit_limit,
        "outstanding_train": ledger.outstanding("train"),
        "outstanding_eval": ledger.outstanding("eval"),
        "queues": {
            "generate": len(ledger.queues["generate"]),
            "grade": len(ledger.queues["grade"]),
            "ready_train": len(ledger.ready["train"]),
            "ready_eval": len(ledger.ready["eval"]),
        },
        "leases": dict(core.leases.num_active),
        "waiting": {line: len(waiters) for line, waiters in core.waiting.lines.items()},
        "taken": len(ledger.takes),
        "service": {kind: _service(core, kind, now) for kind in _KINDS},
        "oldest_waiting_s": {kind: _oldest_waiting_s(core, kind, now) for kind in _KINDS},
        "learner_waiting_s": dict(core.meter.learner_waiting_s),
        "staleness": {
            "groups": sum(ledger.staleness_taken.values()),
            "sum": sum(staleness * groups for staleness, groups in ledger.staleness_taken.items()),
        },
        "draining": _draining(core, now),
        "counters": dict(ledger.counters),
        "dead_letters": [asdict(letter) for letter in _dead_letters(ledger.dead_letters, dead_after)],
        "peers": _peers(core, now),
        "uptime_s": now - core.started,
    }


def _service(core: Core, kind: LeaseKind, now: float) -> dict[str, Any]:
    tally = core.leases.seconds[kind]
    ages = [now - lease.granted_at for lease in core.leases.active.values() if lease.kind == kind]
    return {
        "leases": sum(tally.counts),
        "seconds": tally.sum,
        "running_s": sum(ages) / len(ages) if ages else None,
    }


def _oldest_waiting_s(core: Core, kind: LeaseKind, now: float) -> float:
    tasks = core.ledger.tasks
    return max((now - tasks[task_id].queued_at for task_id in core.ledger.queues[kind]), default=0.0)


def _dead_letters(letters: deque[DeadLetter], after: int | None) -> list[DeadLetter]:
    if after is None:
        return list(letters)[-MAX_LISTED_DEAD_LETTERS:]
    later = (letter for letter in letters if letter.number > after)
    return list(islice(later, MAX_LISTED_DEAD_LETTERS))


def _peers(core: Core, now: float) -> list[dict[str, Any]]:
    """As many as fit: first those that are drained, then by leases held, then the most recently seen."""
    listed, size = [], 0
    held = Counter((lease.kind, lease.holder) for lease in core.leases.active.values())

    def precedence(peer: Peer) -> tuple[bool, int]:
        return not core.drains.holds(peer.role, peer.name, now), -_held(held, peer)

    for peer in sorted(core.peers.recent(), key=precedence):
        size += 96 + 4 * (len(peer.name) + len(peer.incarnation))
        if size > MAX_PEER_LIST_BYTES:
            break
        listed.append(
            {
                "role": peer.role,
                "name": peer.name,
                "incarnation": peer.incarnation,
                "idle_s": now - peer.last_seen,
                "version": peer.version,
                "leases": _held(held, peer),
            }
        )
    return listed


def _held(held: Counter[tuple[LeaseKind, str]], peer: Peer) -> int:
    return held["generate" if peer.role == "actor" else "grade", peer.name]


def _draining(core: Core, now: float) -> dict[str, float]:
    listed, size = {}, 0
    for name, left_s in core.drains.remaining(now).items():
        size += 16 + len(name.encode())
        if size > MAX_DRAIN_LIST_BYTES:
            break
        listed[name] = left_s
    return listed

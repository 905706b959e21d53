"""The status report: gauges and counters of the broker, small enough for one message header."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from broker.core import Core

MAX_LISTED_DEAD_LETTERS = 20
MAX_PEER_LIST_BYTES = 24_000


def report(core: Core, now: float) -> dict[str, Any]:
    """JSON-able status; keys as in docs (version, policy, credit, queues, leases, counters, dead letters, peers)."""
    ledger = core.ledger
    return {
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
        "counters": dict(ledger.counters),
        "dead_letters": [asdict(letter) for letter in list(ledger.dead_letters)[-MAX_LISTED_DEAD_LETTERS:]],
        "peers": _peers(core, now),
        "uptime_s": now - core.started,
    }


def _peers(core: Core, now: float) -> list[dict[str, Any]]:
    """Most recently seen first, as many as fit."""
    listed, size = [], 0
    for peer in core.peers.recent():
        size += 80 + 4 * (len(peer.name) + len(peer.incarnation))
        if size > MAX_PEER_LIST_BYTES:
            break
        listed.append(
            {
                "role": peer.role,
                "name": peer.name,
                "incarnation": peer.incarnation,
                "idle_s": now - peer.last_seen,
                "version": peer.version,
            }
        )
    return listed

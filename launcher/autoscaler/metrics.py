"""Metrics of the autoscaler (`zeroq_autoscaler_*`), served by common.metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from common.metrics import REGISTRY

DESIRED = Gauge("zeroq_autoscaler_desired", "Processes that the autoscaler wants to have.", ["role"], registry=REGISTRY)
FLOOR = Gauge("zeroq_autoscaler_floor", "Never fewer than these: `autoscaler.ROLE.min`.", ["role"], registry=REGISTRY)
ACTUAL = Gauge("zeroq_autoscaler_actual", "Processes at work.", ["role"], registry=REGISTRY)
DECISIONS = Counter(
    "zeroq_autoscaler_decisions",
    "Changes decided upon, by role, direction (up, down) and reason.",
    ["role", "direction", "reason"],
    registry=REGISTRY,
)
LEADER = Gauge("zeroq_autoscaler_leader", "1 on the autoscaler that acts, 0 on those that stand by.", registry=REGISTRY)
FORESEEN: dict[str, tuple[tuple[str, str], ...]] = {
    "evaluator": (("up", "backlog"), ("up", "floor"), ("down", "surplus"), ("down", "ceiling")),
    "actor": (("up", "starved"), ("up", "floor"), ("down", "ahead"), ("down", "stale"), ("down", "ceiling")),
}
"""Every (direction, reason) that a decision on a role can have: counted from 0 on."""
CAUSES = ("forbidden", "missing", "rejected", "conflict", "unavailable", "broker")

ERRORS = Counter(
    "zeroq_autoscaler_errors",
    "Rounds given up, by cause; they are tried again.",
    ["cause"],
    registry=REGISTRY,
)
for _cause in CAUSES:
    ERRORS.labels(_cause)

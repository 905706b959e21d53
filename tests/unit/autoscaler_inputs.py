"""What the autoscaler's tests share: configurations, observations, statuses, and a pool that remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.config import RunConfig
from launcher.autoscaler.observation import Observation
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.pool import Fleet

QUICK = {"scale_up_after_s": 2.0, "scale_down_after_s": 6.0, "max_step": 4}


def make_config(**autoscaler: Any) -> RunConfig:
    """16 groups a publish, staleness at most 2, 4 groups at once for each evaluator; decides every second."""
    section = {"every_s": 1.0, "evaluators": {"max": 8, **QUICK}, "actors": {"max": 4, **QUICK, "max_step": 1}}
    return RunConfig.model_validate(
        {
            "model": "tiny",
            "data": {"train": "x.jsonl"},
            "learner": {"groups_per_step": 16, "max_staleness": 2},
            "evaluator": {"max_concurrent_groups": 4},
            "broker": {"address": "b", "ports": {"learner": 1, "actor": 2, "evaluator": 3, "monitor": 4}},
            "autoscaler": {**section, **autoscaler},
        }
    )


def observed(at: float, **changes: Any) -> Observation:
    """Nothing going on."""
    fields: dict[str, Any] = dict.fromkeys(Observation.__dataclass_fields__, 0)
    return Observation(**{**fields, "at": at, "broker": "b", "grading_running_s": None, **changes})


def status(**changes: Any) -> dict[str, Any]:
    """A broker's report; dotted keys change what lies deeper."""
    report: dict[str, Any] = {
        "incarnation": "b",
        "counters": {"groups_generated": 0, "groups_swept": 0},
        "queues": {"grade": 0, "generate": 0, "ready_train": 0, "ready_eval": 0},
        "service": {"grade": {"leases": 0, "seconds": 0.0, "running_s": None}},
        "learner_waiting_s": {"actors": 0.0, "grading": 0.0, "other": 0.0},
        "staleness": {"groups": 0, "sum": 0},
        "peers": [],
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = report
        for parent in parents:
            node = node[parent]
        node[last] = value
    return report


class MemoryPool:
    """A ReplicaPool whose processes exist at once."""

    def __init__(self, **counts: int) -> None:
        self.members = {role: [f"{role}-{i}" for i in range(count)] for role, count in counts.items()}
        self.calls: list[tuple[str, int, tuple[str, ...]]] = []

    def fleet(self, role: ScaleRole) -> Fleet:
        members = self.members[role]
        return Fleet(len(members), len(members), tuple(members))

    def scale(self, role: ScaleRole, count: int, leaving: Sequence[str]) -> None:
        self.calls.append((role, count, tuple(leaving)))
        members = [name for name in self.members[role] if name not in leaving]
        self.members[role] = members[:count] + [f"{role}-{10 + i}" for i in range(count - len(members))]

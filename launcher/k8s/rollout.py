"""Which processes have to start anew when which keys of the configuration change, and what survives that. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.config import RunConfig
from launcher.k8s.names import WORKLOADS

EVERYBODY: tuple[str, ...] = tuple(workload.role for workload in WORKLOADS)
_GRADERS = ("evaluator", "evaluator-models")

READERS: dict[str, tuple[str, ...]] = {
    "model": ("learner", "actor"),
    "seed": ("learner", "actor"),
    "resume": ("learner",),
    "run": ("learner",),
    "logging": ("learner",),
    "hub": (),  # checkpoints are pushed by the launcher of a local run
    "data": ("learner",),
    "rollout": ("learner", "actor"),
    "reward": ("learner", *_GRADERS, "autoscaler"),
    "cold_start": ("learner",),
    "learner": ("learner",),
    "learner.max_staleness": ("broker", "autoscaler"),
    "learner.staleness_policy": ("broker",),
    "learner.groups_per_step": ("broker", "autoscaler"),
    "learner.steps_per_publish": ("broker", "autoscaler"),
    "actor": ("actor",),
    "actor.dtype": ("learner",),
    "actor.model_from": ("learner",),
    "actor.startup_timeout_s": ("learner",),
    "evaluator": _GRADERS,
    "evaluator.max_concurrent_groups": ("autoscaler",),
    "broker": EVERYBODY,
    "weights": ("learner", "actor"),
    "eval": ("learner",),
    "security": EVERYBODY,
    "metrics": EVERYBODY,
    "autoscaler": ("autoscaler",),
}
"""Who reads a section, and who else reads one of its keys."""

KEPT: dict[str, str] = {
    "broker": "its queues, which are in memory: the learner feeds the tasks in work again",
    "learner": "goes on from the last checkpoint on its volume, with optimizer, cursor and random state",
    "actor": "leases are finished or returned first; weights come from the learner",
    "evaluator": "leases are finished or returned first",
    "evaluator-models": "leases are finished or returned first",
    "autoscaler": "the other replica, or the next one, takes the Lease over",
}
"""What becomes of the state of a role that restarts."""


def changed_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted keys whose values differ, defaults included; a list counts as one value."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return sorted(key for key in before.keys() | after.keys() if before.get(key, _ABSENT) != after.get(key, _ABSENT))


def restarts(keys: list[str]) -> dict[str, list[str]]:
    """Roles that have to start anew, in that order, each with the keys that it reads."""
    wanted: dict[str, list[str]] = {role: [] for role in EVERYBODY}
    for key in keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            for role in READERS.get(".".join(parts[:length]), ()):
                if key not in wanted[role]:
                    wanted[role].append(key)
    return {role: keys for role, keys in wanted.items() if keys}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


_ABSENT = object()

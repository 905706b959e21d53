"""Names of the objects in deploy/k8s: where commands look for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["deployment", "statefulset", "leaderworkerset"]

NAMESPACE = "zeroq"
CONFIG_MAP = "zeroq-config"
CONFIG_KEY = "config.yaml"
LEASE = "zeroq-autoscaler"
METRICS_PORT = 9400
COMPONENT_LABEL = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of=zeroq"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs the pods of a role: an object of this kind, or of another `instead`."""

    role: str
    kind: Kind
    optional: bool = False
    instead: Kind | None = None

    @property
    def name(self) -> str:
        """The object's name."""
        return f"zeroq-{self.role}"


WORKLOADS: tuple[Workload, ...] = (
    Workload("broker", "statefulset"),
    Workload("learner", "statefulset", instead="leaderworkerset"),
    Workload("actor", "deployment"),
    Workload("evaluator", "deployment"),
    Workload("evaluator-models", "deployment", optional=True),
    Workload("autoscaler", "deployment", optional=True),
)
"""In the order in which they are restarted: who is waited for comes first."""

LOGGING_ROLES: tuple[str, ...] = (*(workload.role for workload in WORKLOADS), "prometheus", "grafana")

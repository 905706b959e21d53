"""The pool on Kubernetes: Deployments, whose number of replicas is changed through their scale and nothing else.

A ReplicaSet that shrinks chooses its victims itself; the annotation `controller.kubernetes.io/pod-deletion-cost` tells
it which. It is set on the drained pods right before the scale changes, and the change is refused (Conflict) if
somebody else changed the scale since it was read. Before each request that changes something `may_act` is asked:
several of them may take longer than what is left of the Lease.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.config import RunConfig
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.pool import Fleet
from launcher.k8s.client import Cluster, Object
from launcher.k8s.errors import Conflict, Missing
from launcher.k8s.names import DELETION_COST

FIRST_TO_GO = "-1000"


def deployments(config: RunConfig) -> dict[ScaleRole, str]:
    """Which Deployment is scaled for each role. Groups that need a reward model are graded by evaluators of their
    own; whether a function of the user's calls a judge, only `autoscaler.evaluator_role` can say."""
    models = any(component.kind == "reward_model" for component in config.reward.components)
    role = config.autoscaler.evaluator_role or ("evaluator-models" if models else "evaluator")
    return {"evaluator": f"zeroq-{role}", "actor": "zeroq-actor"}


class KubernetesPool:
    """ReplicaPool over Deployments of one namespace. Every method may raise a ClusterError."""

    def __init__(
        self, cluster: Cluster, names: Mapping[ScaleRole, str], may_act: Callable[[], bool] = lambda: True
    ) -> None:
        self._cluster, self._names, self._may_act = cluster, dict(names), may_act
        self._scales: dict[ScaleRole, Object] = {}
        self._marked: dict[ScaleRole, list[str]] = {}

    def fleet(self, role: ScaleRole) -> Fleet:
        """The scale of the role's Deployment, and its pods: ready ones first, older ones first."""
        scale = self._scales[role] = self._cluster.scale(self._names[role])
        selector = str((scale.get("status") or {}).get("selector") or "")
        pods = [pod for pod in self._cluster.pods(selector) if _stays(pod)] if selector else []
        pods.sort(key=lambda pod: (not is_ready(pod), str(pod["metadata"].get("creationTimestamp") or "")))
        self._marked[role] = [
            str(pod["metadata"]["name"]) for pod in pods if DELETION_COST in (pod["metadata"].get("annotations") or {})
        ]
        ready = sum(map(is_ready, pods))
        return Fleet(wanted_replicas(scale), ready, tuple(str(pod["metadata"]["name"]) for pod in pods))

    def scale(self, role: ScaleRole, count: int, leaving: Sequence[str]) -> None:
        """Mark those that leave, then change the number, if it is still what `fleet` found. Repeatable."""
        scale = self._scales.pop(role, None) or self._cluster.scale(self._names[role])
        if wanted_replicas(scale) == count:
            return
        if count < wanted_replicas(scale):
            for pod in self._marked.pop(role, []):  # those that an earlier change, which failed, would have had go
                if pod not in leaving:
                    self._mark(pod, None)
            for pod in leaving:
                self._mark(pod, FIRST_TO_GO)
        self._check_lease()
        version = scale["metadata"].get("resourceVersion")
        self._cluster.patch_scale(
            self._names[role], {"metadata": {"resourceVersion": version}, "spec": {"replicas": count}}
        )

    def _check_lease(self) -> None:
        if not self._may_act():
            raise Conflict("the Lease could not be renewed in time: another autoscaler may act by now")

    def _mark(self, pod: str, cost: str | None) -> None:
        self._check_lease()
        with contextlib.suppress(Missing):  # it is gone already
            self._cluster.patch_pod(pod, {"metadata": {"annotations": {DELETION_COST: cost}}})


def wanted_replicas(scale: Object) -> int:
    """`spec.replicas`; the API leaves it out when it is 0."""
    return int((scale.get("spec") or {}).get("replicas") or 0)


def is_ready(pod: Object) -> bool:
    """The pod's Ready condition."""
    conditions: list[dict[str, Any]] = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _stays(pod: Object) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")

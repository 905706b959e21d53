"""The objects that run the pods of a role, whatever their kind: their pod templates, and how these start anew.

deployment, statefulset   spec.template; merged by the API server, containers by name
leaderworkerset           spec.leaderWorkerTemplate.leaderTemplate and .workerTemplate; of custom resources the API
                          server merges no lists, so containers are sent whole, for the version that was read
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.k8s.client import Cluster, Object
from launcher.k8s.errors import Conflict, Forbidden, Missing
from launcher.k8s.names import Kind, Workload

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_GROUP_TEMPLATES = ("leaderTemplate", "workerTemplate")


@dataclass(frozen=True)
class Found:
    """A role's workload as it is in the cluster."""

    workload: Workload
    kind: Kind
    body: Object

    @property
    def name(self) -> str:
        """The object's name."""
        return self.workload.name

    @property
    def role(self) -> str:
        """The role of its pods."""
        return self.workload.role

    @property
    def replicas(self) -> int | None:
        """Pods that are wanted; None where somebody else says how many."""
        replicas = (self.body.get("spec") or {}).get("replicas")
        return None if replicas is None else int(replicas) * self.pods_each

    @property
    def pods_each(self) -> int:
        """Pods that each of the object's replicas stands for: those of a gang."""
        if self.kind != "leaderworkerset":
            return 1
        return int(self.body["spec"]["leaderWorkerTemplate"].get("size") or 1)

    @property
    def templates(self) -> list[Object]:
        """Its pod templates, that of a gang's leader first."""
        spec = self.body["spec"]
        if self.kind != "leaderworkerset":
            return [spec["template"]]
        return [spec["leaderWorkerTemplate"][part] for part in _GROUP_TEMPLATES if part in spec["leaderWorkerTemplate"]]

    @property
    def containers(self) -> list[Object]:
        """All containers of all pods, init containers first."""
        pods = [template["spec"] for template in self.templates]
        return [c for pod in pods for part in ("initContainers", "containers") for c in pod.get(part) or []]

    @property
    def grace_s(self) -> float:
        """How long its pods have to end, seconds."""
        given = [template["spec"].get("terminationGracePeriodSeconds") for template in self.templates]
        return min(30.0 if seconds is None else float(seconds) for seconds in given)

    def restart_patch(self, moment: str, image_of: Callable[[Object], str]) -> Object:
        """What to merge into it, so that its pods start anew, at `moment`, each container with `image_of` it."""
        if self.kind != "leaderworkerset":
            return {"spec": {"template": _changed(self.templates[0], moment, image_of, whole=False)}}
        group = self.body["spec"]["leaderWorkerTemplate"]
        parts = {p: _changed(group[p], moment, image_of, whole=True) for p in _GROUP_TEMPLATES if p in group}
        patch: Object = {"spec": {"leaderWorkerTemplate": parts}}
        if any("spec" in part for part in parts.values()):
            patch["metadata"] = {"resourceVersion": self.body["metadata"].get("resourceVersion")}
        return patch


def find(cluster: Cluster, workload: Workload) -> Found:
    """What runs its pods: the object of the usual kind, or the one that may stand in its place. Missing if neither.

    A LeaderWorkerSet's controller makes a StatefulSet of the same name for the leaders, and undoes what others change
    about it.
    """
    usual: Object | None = None
    missing: Missing | None = None
    try:
        usual = cluster.workload(workload.kind, workload.name)
    except Missing as error:
        missing = error
    if workload.instead is not None and (usual is None or _is_owned(usual, workload.instead)):
        try:
            return Found(workload, workload.instead, cluster.workload(workload.instead, workload.name))
        except Missing:
            pass
        except Forbidden as error:
            if missing is None:
                raise
            raise Missing(f"{missing} (nor may you look for a {workload.instead} in its place: {error})") from None
    if usual is None:
        assert missing is not None
        raise missing
    return Found(workload, workload.kind, usual)


def start_anew(cluster: Cluster, found: Found, moment: str, image_of: Callable[[Object], str]) -> None:
    """Have its pods start anew, each container with `image_of` it. Conflict if what is wanted of them was changed since
    it was found: another status alone, such as that of a gang whose broker restarts, is none."""
    try:
        cluster.patch_workload(found.kind, found.name, found.restart_patch(moment, image_of))
    except Conflict:
        now = Found(found.workload, found.kind, cluster.workload(found.kind, found.name))
        if now.body["metadata"].get("generation") != found.body["metadata"].get("generation"):
            raise
        cluster.patch_workload(now.kind, now.name, now.restart_patch(moment, image_of))


def _is_owned(body: Object, kind: Kind) -> bool:
    owners = body["metadata"].get("ownerReferences") or []
    return any(str(owner.get("kind")).lower() == kind for owner in owners)


def _changed(template: Object, moment: str, image_of: Callable[[Object], str], *, whole: bool) -> Object:
    """The part of a pod template that changes; `whole`: with the containers that do not."""
    changed: Object = {"metadata": {"annotations": {RESTARTED_AT: moment}}}
    pod: dict[str, Any] = {}
    for part in ("containers", "initContainers"):
        containers = template["spec"].get(part) or []
        others = [{"name": c["name"], "image": image_of(c)} for c in containers if image_of(c) != c["image"]]
        if others:
            pod[part] = [{**copy.deepcopy(c), "image": image_of(c)} for c in containers] if whole else others
    return {**changed, "spec": pod} if pod else changed

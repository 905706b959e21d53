"""Owns `zeroq status --k8s`: the roles' pods, what is wrong with them, and the broker's queues."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, UserError
from launcher.k8s.client import Cluster, Object
from launcher.k8s.errors import ClusterError, Missing
from launcher.k8s.forward import get
from launcher.k8s.names import COMPONENT_LABEL, LEASE, METRICS_PORT, PART_OF, WORKLOADS
from launcher.k8s.workloads import Found, find

NOT_THERE = "missing; kubectl apply -f deploy/k8s"
_MAX_TROUBLES = 10
_FIGURES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("policy version", "zeroq_broker_policy_version", {}),
    ("waiting for an actor", "zeroq_broker_queue_depth", {"queue": "generate"}),
    ("being generated", "zeroq_broker_leases_active", {"kind": "generate"}),
    ("waiting for an evaluator", "zeroq_broker_queue_depth", {"queue": "grade"}),
    ("being graded", "zeroq_broker_leases_active", {"kind": "grade"}),
    ("ready for the learner", "zeroq_broker_queue_depth", {"queue": "ready_train"}),
    ("held by the learner", "zeroq_broker_groups_held", {}),
    ("groups trained on", "zeroq_broker_groups_total", {"stage": "trained"}),
    ("dead letters", "zeroq_broker_tasks_dead_lettered_total", {}),
    ("actors with current weights", "zeroq_broker_actors", {"state": "current"}),
    ("actors with stale weights", "zeroq_broker_actors", {"state": "stale"}),
)
"""Rows of the second table: what, the broker's metric, its labels."""


@dataclass(frozen=True)
class RoleRow:
    """One line of the first table."""

    name: str
    wanted: int
    ready: int
    current: int
    images: str
    restarts: int
    note: str


def print_status(cluster: Cluster, console: Console) -> int:
    """Print it; returns the exit code. UserError when nothing of ours is there, ClusterError when the workloads cannot
    be read; the rest is optional."""
    pods = cluster.pods(PART_OF)
    table = Table("role", "ready", "up to date", "image", "restarts", "note")
    found = rows(cluster, pods)
    if not pods and all(row.note == NOT_THERE for row in found):
        raise UserError(
            f"namespace {cluster.namespace} of {cluster.server} has nothing of zeroq; kubectl apply -f deploy/k8s "
            "makes it, --namespace and --context name another place"
        )
    for row in found:
        cells = (row.name, f"{row.ready}/{row.wanted}", str(row.current), row.images, str(row.restarts), row.note)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for line in [*troubles(pods), *mixed_images(found)]:
        _say(console, line)
    _say(console, scaler_line(cluster))
    _print_queues(cluster, pods, console)
    return EXIT_OK


def mixed_images(found: list[RoleRow]) -> list[str]:
    """A line when roles that run do so from images of different tags, such as after half an upgrade."""
    roles: dict[str, list[str]] = {}
    for row in found:
        if row.wanted:
            roles.setdefault(row.images, []).append(row.name)
    if len(roles) < 2:
        return []
    told = "; ".join(f"{tag}: {', '.join(names)}" for tag, names in roles.items())
    return [f"images: not all of one tag ({told}): zeroq submit CONFIG --image-tag TAG"]


def rows(cluster: Cluster, pods: list[Object]) -> list[RoleRow]:
    """A row for each role that the cluster has."""
    found = []
    for workload in WORKLOADS:
        try:
            there = find(cluster, workload)
        except Missing:
            if not workload.optional:
                found.append(RoleRow(workload.role, 0, 0, 0, "-", 0, NOT_THERE))
            continue
        own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == workload.role]
        status = there.body.get("status") or {}
        wanted = there.replicas
        restarts = sum(int(c.get("restartCount") or 0) for pod in own for c in _containers(pod))
        found.append(
            RoleRow(
                workload.role,
                1 if wanted is None else wanted,
                int(status.get("readyReplicas") or 0) * there.pods_each,
                int(status.get("updatedReplicas") or 0) * there.pods_each,
                images(there, own),
                restarts,
                _note(there),
            )
        )
    return found


def images(workload: Found, pods: list[Object]) -> str:
    """The tag that is asked for, and others that still run."""
    wanted = [_tag(c["image"]) for c in workload.templates[0]["spec"].get("containers") or []][:1]
    running = Counter(_tag(c["image"]) for pod in pods for c in (pod["spec"].get("containers") or [])[:1])
    others = [f"{tag} ({num} pods)" for tag, num in sorted(running.items()) if tag not in wanted]
    return ", ".join([*wanted, *others]) or "-"


def troubles(pods: list[Object]) -> list[str]:
    """Lines for pods that do not get on: why they wait, or cannot be placed."""
    lines = []
    for pod in pods:
        reasons = [
            f"{waiting['reason']}: {waiting.get('message') or ''}".strip().rstrip(":")
            for container in _containers(pod)
            if (waiting := (container.get("state") or {}).get("waiting")) and waiting.get("reason")
        ]
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                reasons.append(f"cannot be placed: {condition.get('message') or condition.get('reason')}")
        lines += [f"{pod['metadata']['name']}: {' '.join(reason.split())[:300]}" for reason in reasons]
    more = len(lines) - _MAX_TROUBLES
    return lines[:_MAX_TROUBLES] + ([f"and {more} more"] if more > 0 else [])


def scaler_line(cluster: Cluster) -> str:
    """Which autoscaler acts."""
    try:
        spec = cluster.lease(LEASE).get("spec") or {}
    except ClusterError as error:
        return f"autoscaler: {error}"
    holder = spec.get("holderIdentity")
    return f"autoscaler: {holder} acts, last heard {spec.get('renewTime')}" if holder else "autoscaler: none acts"


def read_figures(text: str) -> dict[str, float]:
    """The rows of the second table from the broker's metrics; those it does not export are left out."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    keys = {what: (name, frozenset(labels.items())) for what, name, labels in _FIGURES}
    return {what: samples[key] for what, key in keys.items() if key in samples}


def _print_queues(cluster: Cluster, pods: list[Object], console: Console) -> None:
    brokers = [p for p in pods if (p["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == "broker"]
    running = [p["metadata"]["name"] for p in brokers if (p.get("status") or {}).get("phase") == "Running"]
    if not running:
        _say(console, "queues: no broker is running")
        return
    try:
        figures = read_figures(get(cluster, running[0], METRICS_PORT, "/metrics"))
    except ClusterError as error:
        _say(console, f"queues: {error}")
        return
    except ValueError as error:
        said = " ".join(str(error).split())[:100]
        _say(console, f"queues: pod {running[0]}, port {METRICS_PORT}: no metrics: {said}")
        return
    table = Table("groups and versions", "now")
    for what, value in figures.items():
        table.add_row(what, f"{value:.0f}")
    console.print(table)


def _say(console: Console, line: str) -> None:
    """A line as it is: its brackets are no markup."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _note(found: Found) -> str:
    gang = found.kind == "leaderworkerset"
    status = found.body.get("status") or {}
    seen = status.get("observedGeneration")  # LeaderWorkerSet has it from release 0.8 on
    generation = int((found.body.get("metadata") or {}).get("generation") or 0)
    if generation > int(seen or 0) and not (gang and seen is None):
        return "not looked at yet"
    for condition in status.get("conditions") or []:
        told = " ".join(str(condition.get("message") or "").split())[:120]
        match condition["type"], condition["status"]:
            case "Progressing", "False" if not gang:  # a gang that is there makes no progress
                return str(condition.get("reason") or "")
            case ("ReplicaFailure", "True") | ("UpdateInProgress", "True"):
                return told
    return ""


def _containers(pod: Object) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _tag(image: str) -> str:
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2] or "latest"

"""Owns `zeroq submit`: verify, write the ConfigMap, restart who reads what has changed.

    read CONFIG ── verify ── compare with the ConfigMap ── plan ──> [patch ConfigMap] ──> [patch pod templates] ──> done

Interrupted at any point, the same command finishes the job: the ConfigMap carries the names of those that still have to
restart, in an annotation that is written together with the configuration.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_file import read_tree, validate
from common.errors import EXIT_OK, UserError
from launcher.autoscaler.kubernetes import deployments
from launcher.k8s.client import Cluster, Object
from launcher.k8s.cluster_config import SHIPPED, check_leases, dump, parse, read_for_cluster
from launcher.k8s.errors import Conflict, Missing
from launcher.k8s.names import CONFIG_KEY, CONFIG_MAP, WORKLOADS
from launcher.k8s.rollout import EVERYBODY, KEPT, changed_keys, restarts
from launcher.k8s.workloads import Found, find, start_anew

PENDING = "zeroq/restart-pending"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ROOMS = {"control", "actor", "learner", "evaluator"}
_CONTAINERS = {"broker", "learner", "prepare", "actor", "evaluator", "autoscaler"}
_SHOWN_KEYS = 4


@dataclass(frozen=True)
class Restart:
    """One workload that starts anew, and why."""

    found: Found
    reasons: list[str]


@dataclass(frozen=True)
class Present:
    """What the cluster has: the ConfigMap (None: not yet), its configuration (None: cannot be read), the workloads."""

    config_map: Object | None
    tree: dict[str, Any]
    config: RunConfig | None
    workloads: list[Found]

    @property
    def text(self) -> str | None:
        """The configuration as it is written there."""
        return None if self.config_map is None else (self.config_map.get("data") or {}).get(CONFIG_KEY)

    @property
    def pending(self) -> list[str]:
        """Roles whose restart an earlier submit did not get to."""
        annotations = ((self.config_map or {}).get("metadata") or {}).get("annotations") or {}
        return [role for role in str(annotations.get(PENDING) or "").split(",") if role in EVERYBODY]


def submit(
    cluster: Cluster, path: Path, overrides: list[str], *, dry_run: bool = False, image_tag: str | None = None
) -> int:
    """Run a configuration; returns the exit code. UserError before anything is changed; ClusterError at any time."""
    if image_tag is not None and _TAG.fullmatch(image_tag) is None:
        raise UserError(f"--image-tag {image_tag}: not an image tag (letters, digits, _ . - and at most 128)")
    read_tree(path, overrides)  # whoever mistypes a file's name should not hear of the cluster first
    present = look(cluster)
    config = read_for_cluster(path, overrides, present.tree)
    check_leases(config, {found.role: found.grace_s for found in present.workloads})
    notes = about_graders(config, present.workloads, cluster.namespace)
    notes += about_images(present.workloads) if image_tag is not None else []
    keys = changed_keys(present.config, config) if present.config is not None else None
    plan = make_plan(present, keys, image_tag)
    print(f"namespace {cluster.namespace} of {cluster.server}")
    tell(present, keys, plan)
    for note in notes:
        print(f"note: {note}")
    if dry_run:
        print("dry run: nothing was changed" if plan or keys != [] else "dry run: there is nothing to change")
        return EXIT_OK
    if keys != [] or plan:
        carry_out(cluster, present, dump(config) if keys != [] else None, plan, image_tag)
        print("done; see zeroq status --k8s")
    return EXIT_OK


def look(cluster: Cluster) -> Present:
    """Read what is there. A configuration there that is no longer valid counts as none: everything restarts."""
    config_map: Object | None
    try:
        config_map = cluster.config_map(CONFIG_MAP)
    except Missing:
        config_map = None
    text = None if config_map is None else (config_map.get("data") or {}).get(CONFIG_KEY)
    tree = parse(text) if text else parse(SHIPPED.read_text(encoding="utf-8"), str(SHIPPED))
    config: RunConfig | None = None
    if text:
        try:
            config = validate(RunConfig, tree, f"ConfigMap {CONFIG_MAP}")
        except UserError as error:
            print(f"note: {error}; all roles restart")
    workloads: list[Found] = []
    for workload in WORKLOADS:
        try:
            workloads.append(find(cluster, workload))
        except Missing:
            if not workload.optional:
                raise
    return Present(config_map, tree, config, workloads)


def about_graders(config: RunConfig, workloads: list[Found], namespace: str) -> list[str]:
    """What to say about the two kinds of evaluators; UserError if those that the reward needs are not there.

    Any evaluator may be handed any group: those of the other kind would fail at it, or grade by the configuration that
    they started with.
    """
    wanted = deployments(config)["evaluator"]
    replicas = {found.name: found.replicas for found in workloads}
    if wanted not in replicas:
        raise UserError(f"{wanted} is to grade (reward, autoscaler.evaluator_role), and is not there; kubectl apply it")
    apply = ", or apply overlays/reward-models with the rest" if wanted == "zeroq-evaluator-models" else ""
    return [
        f"{wanted} is to grade, but {name} runs, too, and is handed groups as well; "
        f"kubectl -n {namespace} scale deployment {name} --replicas=0{apply}"
        for name in ("zeroq-evaluator", "zeroq-evaluator-models")
        if name != wanted and name in replicas and replicas[name] != 0
    ]


def make_plan(present: Present, keys: list[str] | None, image_tag: str | None) -> list[Restart]:
    """Who restarts, in order. `keys` None: everybody.

    A broker that starts anew has lost the learner's tasks: the learner then starts again from its checkpoint, too.
    """
    because = {role: ["(all of it)"] for role in EVERYBODY} if keys is None else restarts(keys)
    for role in present.pending:
        because.setdefault(role, ["(an earlier submit did not get to it)"])
    plan: list[Restart] = []
    for found in present.workloads:
        reasons = list(because.get(found.role, []))
        if any(image_of(container, image_tag) != container["image"] for container in found.containers):
            reasons.append(f"image tag {image_tag}")
        if not reasons and found.role == "learner" and any(restart.found.role == "broker" for restart in plan):
            reasons.append("(the broker restarts)")
        if reasons:
            plan.append(Restart(found, reasons))
    return plan


def tell(present: Present, keys: list[str] | None, plan: list[Restart]) -> None:
    """Say what changes, who restarts, and what is kept."""
    if keys is None:
        print("configuration: new" if present.text is None else "configuration: replaces one that cannot be read")
    elif keys:
        print(f"configuration: {len(keys)} key(s) change: {_shown(keys)}")
    else:
        print("configuration: unchanged")
    if keys and "model" in keys:
        print("note: the model changes; the learner refuses checkpoints of another one: give it a new volume claim")
    restarting = {restart.found.role for restart in plan}
    for restart in plan:
        print(f"  restarts {restart.found.name}: {_shown(restart.reasons)}; {KEPT[restart.found.role]}")
    staying = [found.name for found in present.workloads if found.role not in restarting]
    if staying:
        print(f"  goes on as it is: {', '.join(staying)}")


def carry_out(
    cluster: Cluster, present: Present, text: str | None, plan: list[Restart], image_tag: str | None = None
) -> None:
    """Write the configuration (None: as it is) with the list of restarts, restart (with our images of another tag, if
    one is given), clear the list.

    What changes was found out against `present`: Conflict if somebody else has written the ConfigMap since.
    """
    roles = ",".join(restart.found.role for restart in plan)
    body: Object = {"metadata": {"annotations": {PENDING: roles or None}}}
    if text is not None:
        body["data"] = {CONFIG_KEY: text}
    if present.config_map is None:
        labels = {"app.kubernetes.io/name": "zeroq", "app.kubernetes.io/part-of": "zeroq"}
        metadata = {"name": CONFIG_MAP, "labels": labels, "annotations": {PENDING: roles} if roles else {}}
        written = cluster.create_config_map({"apiVersion": "v1", "kind": "ConfigMap", **body, "metadata": metadata})
    else:
        body["metadata"]["resourceVersion"] = present.config_map["metadata"].get("resourceVersion")
        written = cluster.patch_config_map(CONFIG_MAP, body)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for restart in plan:
        start_anew(cluster, restart.found, moment, lambda container: image_of(container, image_tag))
        print(f"restarting {restart.found.name}", flush=True)
    if plan:
        version = (written.get("metadata") or {}).get("resourceVersion")
        with contextlib.suppress(Conflict):  # a later submit has written its own list
            cluster.patch_config_map(
                CONFIG_MAP, {"metadata": {"annotations": {PENDING: None}, "resourceVersion": version}}
            )


def with_tag(image: str, tag: str) -> str:
    """`image` with another tag; a digest, which would win over the tag, goes."""
    bare = image.partition("@")[0]
    head, _, last = bare.rpartition("/")
    return f"{head}/{last.partition(':')[0]}:{tag}" if head else f"{last.partition(':')[0]}:{tag}"


def is_ours(image: str) -> bool:
    """Whether it is called as deploy/docker calls one of zeroq's images (actor, actor-cpu, zeroq-evaluator-models), in
    whatever registry and folder."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return not _ROOMS.isdisjoint(name.split("-"))


def image_of(container: Object, tag: str | None) -> str:
    """A container's image under another tag (None: the same); containers of others, such as a mesh's, keep theirs."""
    image = str(container["image"])
    ours = container["name"] in _CONTAINERS and is_ours(image)
    return with_tag(image, tag) if ours and tag is not None else image


def about_images(workloads: list[Found]) -> list[str]:
    """What to say about images that another tag is not given to, because they are not called like zeroq's."""
    told = (
        f"{found.name}, container {c['name']}: {c['image']} is not called like one of zeroq's images and stays as it is"
        for found in workloads
        for c in found.containers
        if c["name"] in _CONTAINERS and not is_ours(c["image"])
    )
    return list(dict.fromkeys(told))


def _shown(keys: list[str]) -> str:
    more = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")

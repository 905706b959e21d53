"""The manifests of deploy/k8s as data, for the tests on them: plain files, and what kustomize makes of sub-folders."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "deploy" / "k8s"
Manifest = dict[str, Any]

BUILDS = [
    str(path.parent.relative_to(PLAIN))
    for path in sorted(PLAIN.rglob("kustomization.yaml"))
    if "kind: Component" not in path.read_text(encoding="utf-8")
]
"""Every folder that `kubectl apply -k` takes."""

WITH_CUSTOM_RESOURCES = {"keda", "kueue", "leaderworkerset", "prometheus-operator", "overlays/combined"}

PARTS = {"model-fetch", "prometheus-operator", "dcgm", "overlays/base", "overlays/gvisor/runtime-class"}
"""Folders that are applied beside the plain files or a whole overlay, or are built into one."""


def load_all(text: str) -> list[Manifest]:
    """The objects of a YAML stream."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, Loader=loader) if document]


@functools.cache
def _plain() -> tuple[Manifest, ...]:
    return tuple(m for path in sorted(PLAIN.glob("*.yaml")) for m in load_all(path.read_text(encoding="utf-8")))


@functools.cache
def _built(folder: Path) -> tuple[Manifest, ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed here, so no kustomization can be built")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecations
    return tuple(load_all(done.stdout))


def plain() -> list[Manifest]:
    """What `kubectl apply -f deploy/k8s` applies, in its order; the caller's own copy."""
    return copy.deepcopy(list(_plain()))


def built(folder: str | Path) -> list[Manifest]:
    """What `kubectl apply -k deploy/k8s/FOLDER` applies; skips the test where there is no kubectl."""
    return copy.deepcopy(list(_built(PLAIN / folder)))


def objects(source: str) -> list[Manifest]:
    """`plain`, or the name of a folder to build."""
    return plain() if source == "plain" else built(source)


SOURCES = ["plain", *BUILDS]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """All objects of these kinds."""
    return [m for m in manifests if m["kind"] in kinds]


@dataclass(frozen=True)
class PodTemplate:
    """A pod template and the object that it stands in. `place` tells apart the templates of one object."""

    owner: Manifest
    place: str
    template: Manifest

    @property
    def name(self) -> str:
        return str(self.owner["metadata"]["name"]) + self.place

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[Manifest]:
        """Init containers first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def claims(self) -> list[Manifest]:
        """Claim templates of a StatefulSet."""
        return list(self.owner["spec"].get("volumeClaimTemplates", []))

    @property
    def ours(self) -> bool:
        """Whether it runs zeroq's own code."""
        return self.component not in ("prometheus", "grafana")


def pod_templates(manifests: list[Manifest]) -> Iterator[PodTemplate]:
    """Every pod template, those of custom resources too."""
    for manifest in manifests:
        match manifest["kind"]:
            case "Deployment" | "StatefulSet" | "Job":
                yield PodTemplate(manifest, "", manifest["spec"]["template"])
            case "LeaderWorkerSet":
                group = manifest["spec"]["leaderWorkerTemplate"]
                yield PodTemplate(manifest, ".leader", group["leaderTemplate"])
                yield PodTemplate(manifest, ".worker", group["workerTemplate"])
            case "Pod" | "DaemonSet" | "CronJob" | "ReplicaSet":
                raise AssertionError(f"{manifest['kind']}: teach pod_templates about it")


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) selects these labels; an empty one selects all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        match expression["operator"]:
            case "In":
                if value not in expression["values"]:
                    return False
            case "NotIn":
                if value in expression["values"]:
                    return False
            case "Exists":
                if value is None:
                    return False
            case other:
                raise AssertionError(f"operator {other}: teach matches about it")
    return True


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number: cores, bytes, pieces."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    text = str(text)
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * units[unit]
    return float(text)

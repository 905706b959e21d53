"""Components for kustomize go together: two of them change what each one changes, and nothing else."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import PLAIN, Manifest, built, named, of_kind, plain, pod_templates

ORDER = [
    "overlays/cpu",
    "leaderworkerset",
    "kueue",
    "keda",
    "overlays/gvisor",
    "overlays/models",
    "overlays/reward-models",
]
"""In which they stand under `components`, as the README's table has it."""

APART = {("overlays/cpu", "leaderworkerset")}
"""The gang of the second asks for GPUs."""

FETCH = ("Job", "zeroq-model-fetch")
LEARNER = {("StatefulSet", "zeroq-learner"), ("LeaderWorkerSet", "zeroq-learner"), ("Service", "zeroq-learner")}
Key = tuple[str, str]
Leaves = dict[tuple[str, ...], Any]


def leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar and where it stands; parts of a list by their names where they have any."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*at, str(key)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            name = part.get("name", number) if isinstance(part, dict) else part
            yield from leaves(part, (*at, str(name)))
    else:
        yield at, value


def by_key(manifests: list[Manifest]) -> dict[Key, Leaves]:
    return {(m["kind"], m["metadata"]["name"]): dict(leaves(m)) for m in manifests}


def after(start: Leaves, changed: Leaves, base: Leaves) -> Leaves:
    """`start` with what has been changed from `base` to `changed`."""
    result = {path: value for path, value in start.items() if path in changed or path not in base}
    return result | {path: value for path, value in changed.items() if path not in base or base[path] != value}


def together(tmp_path: Path, folders: tuple[str, ...]) -> list[Manifest]:
    """What a user's kustomization of these components builds, beside a copy of ours."""
    copy = tmp_path / "k8s"
    shutil.copytree(PLAIN, copy)
    own = copy / "overlays" / "own"
    own.mkdir()
    resources = ["../base"]
    if "overlays/gvisor" in folders:
        resources.insert(0, "../gvisor/runtime-class")
    if {"overlays/models", "overlays/reward-models"} & set(folders):
        resources.append("../../model-fetch")
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
        "sortOptions": {"order": "fifo"},
        "components": [*(f"../../{folder}/component" for folder in folders), "../images"],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return built(own)


@pytest.mark.parametrize("pair", [p for p in itertools.combinations(ORDER, 2) if p not in APART], ids="+".join)
def test_two_components_change_what_each_changes(pair: tuple[str, str], tmp_path: Path) -> None:
    """Where both set the same value, that of the later one holds."""
    base, found = by_key(plain()), by_key(together(tmp_path, pair))
    each = [by_key(built(folder)) for folder in pair]
    special = LEARNER if "leaderworkerset" in pair else set()
    if pair == ("keda", "overlays/reward-models"):
        special = {("ScaledObject", "zeroq-evaluator")}
    if pair in (("overlays/cpu", "overlays/models"), ("overlays/cpu", "overlays/reward-models")):
        special = {FETCH}
    for key in (base.keys() | each[0].keys() | each[1].keys() | found.keys()) - special:
        expected = base.get(key, {})
        for one in each:
            expected = after(expected, one.get(key, {}), base.get(key, {}))
        assert found.get(key, {}) == expected, key


def test_what_cannot_go_together_is_said() -> None:
    readme = (PLAIN / "README.md").read_text(encoding="utf-8")
    assert "not with `leaderworkerset`" in next(line for line in readme.splitlines() if "`overlays/cpu`" in line)
    rows = [line.split("|")[1].strip().strip("`") for line in readme.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row in ORDER] == ORDER


def test_a_gang_stands_in_the_queue_and_its_leader_alone_reads_the_model(tmp_path: Path) -> None:
    """A claim that one node can hold is enough for a learner on several: its leader sends the weights to the others."""
    manifests = together(tmp_path, ("leaderworkerset", "kueue", "overlays/models"))
    gang = named(manifests, "LeaderWorkerSet", "zeroq-learner")
    assert gang["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "zeroq"
    assert not [m for m in of_kind(manifests, "StatefulSet") if m["metadata"]["name"] == "zeroq-learner"]
    leader, worker = (p for p in pod_templates(manifests) if p.owner["kind"] == "LeaderWorkerSet")
    alone = by_key(built("leaderworkerset"))["LeaderWorkerSet", "zeroq-learner"]
    group = ("spec", "leaderWorkerTemplate", "workerTemplate")
    assert {p: v for p, v in leaves(gang) if p[:3] == group} == {p: v for p, v in alone.items() if p[:3] == group}
    mount = {"name": "models", "mountPath": "/var/lib/zeroq/models", "readOnly": True}
    assert all(mount in container["volumeMounts"] for container in leader.containers)
    prepare, _ = leader.containers
    assert "--wait-for-model" in prepare["args"]  # one that ends is a restart, which makes the whole gang anew
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "zeroq-models", "readOnly": True}} in leader.spec[
        "volumes"
    ]
    near = named(manifests, "Job", "zeroq-model-fetch")["spec"]["template"]["spec"]["affinity"]["podAffinity"]
    (term,) = near["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = term["labelSelector"]["matchLabels"].items()
    assert wanted <= leader.labels.items()
    assert not wanted <= worker.labels.items()  # the Job would wait there for the leader, and that for the Job


@pytest.mark.parametrize("folder", ["overlays/models", "overlays/reward-models"])
def test_on_cpus_no_image_with_cuda_is_pulled(folder: str, tmp_path: Path) -> None:
    """Whoever has no GPUs builds none (deploy/docker, group `cpu`), and a hub has another of that name, or none."""
    manifests = together(tmp_path, ("overlays/cpu", folder))
    images = {c["image"] for pod in pod_templates(manifests) for c in pod.containers}
    assert not {image for image in images if image.partition(":")[0] in ("zeroq/learner", "zeroq/actor")}
    job = dict(leaves(named(manifests, *FETCH)))
    assert job.pop(("spec", "template", "spec", "containers", "fetch", "image")) == "zeroq/learner-cpu:0.1.0"
    assert job.items() <= dict(leaves(named(built(folder), *FETCH))).items()


WITH_GVISOR = [
    parts
    for number in (1, 2, 3)
    for parts in itertools.combinations(ORDER, number)
    if "overlays/gvisor" in parts and not any(set(apart) <= set(parts) for apart in APART)
]


@pytest.mark.parametrize("parts", WITH_GVISOR, ids="+".join)
def test_whoever_grades_is_in_gvisor_in_every_combination(parts: tuple[str, ...], tmp_path: Path) -> None:
    for pod in pod_templates(together(tmp_path, parts)):
        if pod.component in ("evaluator", "evaluator-models"):
            assert pod.spec["runtimeClassName"] == "zeroq-gvisor"
            (container,) = pod.containers
            assert [a for a in container["args"] if "sandbox_tier" in a] == ["evaluator.sandbox_tier=3"]


def test_keda_scales_the_evaluators_that_grade(tmp_path: Path) -> None:
    manifests = together(tmp_path, ("keda", "overlays/reward-models"))
    scaled = {m["metadata"]["name"]: m["spec"]["scaleTargetRef"]["name"] for m in of_kind(manifests, "ScaledObject")}
    assert scaled == {"zeroq-actor": "zeroq-actor", "zeroq-evaluator": "zeroq-evaluator-models"}
    assert named(manifests, "Deployment", "zeroq-evaluator")["spec"]["replicas"] == 0
    assert "replicas" not in named(manifests, "Deployment", "zeroq-evaluator-models")["spec"]


def test_the_example_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    parts = ("leaderworkerset", "kueue", "keda", "overlays/gvisor", "overlays/models")
    assert by_key(built("overlays/combined")) == by_key(together(tmp_path, parts))
    first, *others = built("overlays/combined")
    assert first["kind"] == "RuntimeClass"
    assert others[0]["kind"] == "Namespace"

"""What the folders for `kubectl apply -k` change, and that registry and tag of all images are set in one place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from manifests import (
    BUILDS,
    PARTS,
    PLAIN,
    Manifest,
    PodTemplate,
    built,
    matches,
    named,
    of_kind,
    plain,
    pod_templates,
    quantity,
)

from common.config import load_config

OVERLAYS = [name for name in BUILDS if name not in PARTS]


def pods(manifests: list[Manifest]) -> dict[str, PodTemplate]:
    return {pod.name: pod for pod in pod_templates(manifests)}


def changed(folder: str) -> set[tuple[str, str]]:
    """Objects that differ from the plain files', by kind and name; those that are new or gone as well."""
    before = {(m["kind"], m["metadata"]["name"]): m for m in plain()}
    after = {(m["kind"], m["metadata"]["name"]): m for m in built(folder)}
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_the_images_of_every_overlay_follow_one_file(tmp_path: Path) -> None:
    """Registry with a port and a path, other tag; Prometheus and Grafana stay what they are."""
    copy = tmp_path / "k8s"
    shutil.copytree(PLAIN, copy)
    where = copy / "overlays" / "images" / "images.env"
    text = where.read_text(encoding="utf-8")
    assert text.count("REGISTRY=zeroq\n") == 1
    tag = text.rpartition("TAG=")[2].strip()
    where.write_text(f"REGISTRY=registry.example.com:5000/team/zeroq\nTAG={tag}-rc.1\n", encoding="utf-8")
    for folder in ("overlays/cpu", "overlays/models", "leaderworkerset"):  # every kind of object with an image
        ours = {c["image"] for pod in pods(built(folder)).values() for c in pod.containers if pod.ours}
        theirs = {c["image"] for pod in pods(built(folder)).values() for c in pod.containers if not pod.ours}
        moved = list(pods(built(copy / folder)).values())
        assert {c["image"] for pod in moved for c in pod.containers if not pod.ours} == theirs
        expected = {f"registry.example.com:5000/team/{image}-rc.1" for image in ours}
        assert {c["image"] for pod in moved for c in pod.containers if pod.ours} == expected, folder


@pytest.mark.parametrize("folder", OVERLAYS)
def test_no_overlay_forgets_the_images(folder: str) -> None:
    text = yaml.safe_load((PLAIN / folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert text["components"][-1] == ("../images" if folder.startswith("overlays/") else "../overlays/images")
    assert not [m for m in built(folder) if m["metadata"]["name"] == "zeroq-images"]


def test_the_gpu_overlay_is_the_plain_files() -> None:
    assert changed("overlays/gpu") == changed("overlays/base") == set()


def test_the_cpu_overlay_fits_a_small_cluster_without_gpus() -> None:
    """At the autoscaler's ceilings and in the middle of an update, beside what the cluster itself runs there."""
    workloads = {
        ("StatefulSet", "zeroq-broker"),
        ("StatefulSet", "zeroq-learner"),
        ("Deployment", "zeroq-actor"),
        ("Deployment", "zeroq-evaluator"),
        ("StatefulSet", "zeroq-prometheus"),
    }
    assert changed("overlays/cpu") == {*workloads, ("ConfigMap", "zeroq-config")}
    manifests = built("overlays/cpu")
    ceilings = load_config(PLAIN.parents[1] / "recipes/configs/k8s_cpu.yaml").autoscaler
    most = {"actor": ceilings.actors.max, "evaluator": ceilings.evaluators.max + 1}
    asked = {"cpu": 0.95, "memory": 290 * 2.0**20}  # kube-system of kind: control plane, CoreDNS, kindnet
    for pod in pods(manifests).values():
        assert not pod.spec.get("tolerations"), pod.name
        for resource in asked:
            each = max(quantity(c["resources"]["requests"][resource]) for c in pod.containers)
            asked[resource] += each * most.get(pod.component, pod.owner["spec"].get("replicas", 1))
    assert asked["cpu"] <= 4
    assert asked["memory"] <= 7.75 * 2**30  # what a machine of 8 GiB has for pods
    images = {c["image"].partition("/")[2].partition(":")[0] for p in pods(manifests).values() for c in p.containers}
    assert {"actor-cpu", "learner-cpu"} <= images
    assert not {"actor", "learner"} & images


def test_gvisor_is_around_evaluators_and_fails_closed() -> None:
    assert changed("overlays/gvisor") == {
        ("Deployment", "zeroq-evaluator"),
        ("Deployment", "zeroq-evaluator-models"),
        ("RuntimeClass", "zeroq-gvisor"),
    }
    manifests = built("overlays/gvisor")
    runtime = named(manifests, "RuntimeClass", "zeroq-gvisor")
    assert runtime["handler"] == "runsc"  # a node without it cannot start the pod
    assert runtime["scheduling"]["nodeSelector"]
    for name, pod in pods(manifests).items():
        runs_programs = name in ("zeroq-evaluator", "zeroq-evaluator-models")
        assert (pod.spec.get("runtimeClassName") == "zeroq-gvisor") is runs_programs, name
        (*_, container) = pod.containers
        # whatever the ConfigMap of the day says
        assert (container.get("args", [""])[-1] == "evaluator.sandbox_tier=3") is runs_programs, name
    (container,) = pods(manifests)["zeroq-evaluator"].containers
    assert "/evaluator-languages:" in container["image"]


def test_a_model_from_the_hub_comes_by_a_job_of_its_own() -> None:
    assert changed("overlays/models") == {
        ("StatefulSet", "zeroq-learner"),
        ("Job", "zeroq-model-fetch"),
        ("PersistentVolumeClaim", "zeroq-models"),
        ("NetworkPolicy", "zeroq-model-fetch"),
        ("ServiceAccount", "zeroq-model-fetch"),
        ("ConfigMap", "zeroq-model-fetch"),
    }
    learner = pods(built("overlays/models"))["zeroq-learner"]
    for container in learner.containers:
        assert ("--wait-for-model" in container["args"]) is (container["name"] == "prepare")
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "models"]
        assert mount == {"name": "models", "mountPath": "/var/lib/zeroq/models", "readOnly": True}
    wanted = named(built("model-fetch"), "ConfigMap", "zeroq-model-fetch")["data"]
    assert set(wanted) == {"REPOSITORY", "REVISION", "NAME"}


@pytest.mark.parametrize("folder", ["overlays/models", "overlays/reward-models"])
def test_the_fetching_job_runs_where_its_reader_holds_the_claim(folder: str) -> None:
    """A ReadWriteOnce claim is on one node: elsewhere the Job would wait for the reader, and that for the Job."""
    manifests = built(folder)
    assert named(manifests, "PersistentVolumeClaim", "zeroq-models")["spec"]["accessModes"] == ["ReadWriteOnce"]
    job = named(manifests, "Job", "zeroq-model-fetch")["spec"]
    spec = job["template"]["spec"]
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    near = [p for p in pods(manifests).values() if matches(term["labelSelector"], p.labels)]
    readers = [
        p
        for p in pods(manifests).values()
        if p.component != "model-fetch"
        and p.owner["spec"].get("replicas") != 0
        and any("persistentVolumeClaim" in volume for volume in p.spec["volumes"])
    ]
    assert [p.name for p in near] == [p.name for p in readers] != []
    if folder == "overlays/models":
        assert near[0].spec["tolerations"] == spec["tolerations"]  # it can get there
    assert 0 < job["ttlSecondsAfterFinished"] <= 3600  # the next tag or model is a change, which a Job refuses
    assert "activeDeadlineSeconds" not in job  # it counts while the reader waits for a node, and the Job for the reader


def test_a_job_alone_prefers_the_node_of_a_reader() -> None:
    spec = named(built("model-fetch"), "Job", "zeroq-model-fetch")["spec"]["template"]["spec"]
    (preferred,) = spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selector = preferred["podAffinityTerm"]["labelSelector"]
    assert {p.component for p in pods(plain()).values() if matches(selector, p.labels)} == {
        "learner",
        "evaluator-models",
    }
    assert "required" not in str(spec["affinity"])  # there may be no reader yet


def test_what_the_fetching_job_caches_fits_its_volume() -> None:
    (container,) = named(built("model-fetch"), "Job", "zeroq-model-fetch")["spec"]["template"]["spec"]["containers"]
    settings = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert settings["HF_XET_CHUNK_CACHE_SIZE_BYTES"] == "0"


def test_the_fetched_model_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    """The Job's own script, with a hub that fails the first time."""
    job = named(built("model-fetch"), "Job", "zeroq-model-fetch")["spec"]["template"]["spec"]["containers"][0]
    assert job["command"] == ["tini", "--", "sh", "-ceu"]
    (script,) = job["args"]
    script = script.replace("/var/lib/zeroq/models", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    hub = tmp_path / "bin" / "hf"
    hub.parent.mkdir()
    hub.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nmkdir -p "$6/.cache"\necho half > "$6/config.json"\n'
        f'test -e {tmp_path}/up || exit 1\necho whole > "$6/config.json"\n'
    )
    hub.chmod(0o755)
    environment = {"PATH": f"{hub.parent}:/usr/bin:/bin", "REPOSITORY": "org/model", "REVISION": "v1", "NAME": "small"}

    def fetch() -> int:
        return subprocess.run(["sh", "-ceu", script], env=environment, timeout=20, check=False).returncode

    model = tmp_path / "models" / "small"
    assert fetch() != 0
    assert not model.exists()
    (tmp_path / "up").touch()
    assert fetch() == 0
    assert (model / "config.json").read_text() == "whole\n"
    assert not (model / ".cache").exists()
    assert fetch() == 0  # it is there: the hub is not asked
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert calls[0].startswith(f"download org/model --revision v1 --local-dir {tmp_path}/models/.small.part ")


def test_reward_models_are_served_by_evaluators_of_their_own() -> None:
    manifests = built("overlays/reward-models")
    assert named(manifests, "Deployment", "zeroq-evaluator")["spec"]["replicas"] == 0
    assert "replicas" not in named(manifests, "Deployment", "zeroq-evaluator-models")["spec"]  # the autoscaler's
    assert named(manifests, "PersistentVolumeClaim", "zeroq-models")


def test_gangs_replace_or_mark_the_learner_alone() -> None:
    assert changed("leaderworkerset") == {
        ("StatefulSet", "zeroq-learner"),
        ("Service", "zeroq-learner"),  # its controller wants to own it
        ("LeaderWorkerSet", "zeroq-learner"),
        ("PersistentVolumeClaim", "run-zeroq-learner-0"),
    }
    gone = of_kind(built("leaderworkerset"), "StatefulSet", "Service")
    assert "zeroq-learner" not in {m["metadata"]["name"] for m in gone}
    queues = {("ResourceFlavor", "zeroq-gpu"), ("ClusterQueue", "zeroq"), ("LocalQueue", "zeroq")}
    assert changed("kueue") == {("StatefulSet", "zeroq-learner"), *queues}
    learner = named(built("kueue"), "StatefulSet", "zeroq-learner")
    assert learner["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "zeroq"
    queue = named(built("kueue"), "ClusterQueue", "zeroq")["spec"]["resourceGroups"][0]
    quota = {r["name"]: quantity(r["nominalQuota"]) for r in queue["flavors"][0]["resources"]}
    for pod in pods(built("kueue")).values():
        if pod.component == "learner":
            for resource, amount in pod.spec["containers"][0]["resources"]["requests"].items():
                assert quantity(amount) <= quota[resource]  # else it would wait for ever


def test_only_one_scales() -> None:
    manifests = built("keda")
    assert not [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "zeroq-autoscaler"]
    scaled = {m["spec"]["scaleTargetRef"]["name"] for m in of_kind(manifests, "ScaledObject")}
    assert scaled == {"zeroq-actor", "zeroq-evaluator"}
    service = named(manifests, "Service", "zeroq-prometheus")["spec"]["ports"][0]["port"]
    for scaler in of_kind(manifests, "ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        assert trigger["metadata"]["serverAddress"] == f"http://zeroq-prometheus.zeroq.svc:{service}"


def test_keda_changes_nothing_when_it_cannot_see() -> None:
    """Without `fallback` an error leaves the number alone; an empty answer must be an error, else it counts as 0."""
    scalers = of_kind(built("keda"), "ScaledObject")
    assert scalers
    for scaler in scalers:
        assert "fallback" not in scaler["spec"]
        (trigger,) = scaler["spec"]["triggers"]
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (make monitoring-tools)")
    config = named(plain(), "ConfigMap", "zeroq-prometheus")["data"]["prometheus.yml"]
    jobs = named(built("dcgm"), "ConfigMap", "zeroq-prometheus-jobs")["data"]["dcgm.yaml"]
    parsed = yaml.safe_load(config)
    # Debian's promtool is 2.42, a release short of this key, and built without Kubernetes.
    assert parsed.pop("scrape_config_files") == ["/etc/prometheus/jobs/*.yaml"]
    parsed["scrape_configs"] += yaml.safe_load(jobs)["scrape_configs"]
    for job in parsed["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)
    parsed["rule_files"] = [str(tmp_path / "zeroq.yaml")]
    rules = named(plain(), "ConfigMap", "zeroq-prometheus-rules")["data"]["zeroq.yaml"]
    (tmp_path / "zeroq.yaml").write_text(rules, encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(parsed), encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metrics_that_keda_asks_for_are_in_the_table() -> None:
    table = (PLAIN.parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for scaler in of_kind(built("keda"), "ScaledObject"):
        query = scaler["spec"]["triggers"][0]["metadata"]["query"]
        metrics = {part.partition("{")[0] for part in query.replace("(", " ").split() if part.startswith("zeroq_")}
        assert len(metrics) == 2
        assert all(f"`{metric}`" in table for metric in metrics)

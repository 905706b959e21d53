"""What manifests name in each other exists: services, pods, ports, ConfigMaps, Secrets, claims, classes, variables."""

from __future__ import annotations

import re
from itertools import chain

import pytest
import yaml
from manifests import (
    BUILDS,
    PARTS,
    ROOT,
    SOURCES,
    Manifest,
    PodTemplate,
    built,
    load_all,
    matches,
    named,
    objects,
    of_kind,
    plain,
    pod_templates,
    quantity,
)

from common.config import RunConfig, load_config
from common.keys import KEY_ROLES

WHOLE = [source for source in SOURCES if source not in PARTS - {"overlays/base"}]
EACH = pytest.mark.parametrize("source", WHOLE)
MADE_BY_KEYGEN = {f"zeroq-keys-{role}" for role in KEY_ROLES}
MADE_BY_THE_USER = {"zeroq-models"}  # the claim: model-fetch makes it, and no pod that names it runs before
OPTIONAL = {"zeroq-prometheus-jobs", "zeroq-hub-token"}
BUILT_IN_CLASSES = {"system-cluster-critical", "system-node-critical"}


def pods(manifests: list[Manifest]) -> list[PodTemplate]:
    return list(pod_templates(manifests))


def names(manifests: list[Manifest], kind: str) -> set[str]:
    return {m["metadata"]["name"] for m in of_kind(manifests, kind)}


@EACH
def test_volumes_and_variables_come_from_what_is_there(source: str) -> None:
    manifests = objects(source)
    maps, claims = names(manifests, "ConfigMap"), names(manifests, "PersistentVolumeClaim")
    for pod in pods(manifests):
        for volume in pod.spec.get("volumes", []):
            for part in [volume, *volume.get("projected", {}).get("sources", [])]:
                if config_map := part.get("configMap"):
                    assert config_map["name"] in maps or config_map.get("optional"), (pod.name, config_map)
                    assert not config_map.get("optional") or config_map["name"] in OPTIONAL
                if secret := part.get("secret"):
                    assert secret["secretName"] in MADE_BY_KEYGEN, pod.name
            if claim := volume.get("persistentVolumeClaim"):
                made = claim["claimName"] in claims
                idle = pod.owner["spec"].get("replicas") == 0
                assert made or (idle and claim["claimName"] in MADE_BY_THE_USER), (pod.name, claim)
        for container in pod.containers:
            for variable in chain(container.get("env", []), container.get("envFrom", [])):
                for kind in ("configMapKeyRef", "configMapRef"):
                    reference = variable.get("valueFrom", variable).get(kind)
                    assert reference is None or reference["name"] in maps, pod.name
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                assert secret is None or (secret["optional"] and secret["name"] in OPTIONAL), pod.name


@EACH
def test_every_mount_has_a_volume_and_every_volume_a_mount(source: str) -> None:
    for pod in pods(objects(source)):
        there = {volume["name"] for volume in [*pod.spec.get("volumes", []), *(c["metadata"] for c in pod.claims)]}
        mounted = {mount["name"] for container in pod.containers for mount in container["volumeMounts"]}
        assert mounted == there, pod.name
        for container in pod.containers:
            places = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(places)) == len(places), pod.name


@EACH
def test_a_mounted_part_of_a_config_map_is_in_it(source: str) -> None:
    manifests = objects(source)
    maps = {m["metadata"]["name"]: m["data"] for m in of_kind(manifests, "ConfigMap")}
    for pod in pods(manifests):
        of_volume = {v["name"]: v["configMap"]["name"] for v in pod.spec.get("volumes", []) if "configMap" in v}
        for container in pod.containers:
            for mount in container["volumeMounts"]:
                if "subPath" in mount:
                    assert mount["subPath"] in maps[of_volume[mount["name"]]], (pod.name, mount)


def test_each_role_gets_its_own_keys_and_no_others() -> None:
    role_of = {"autoscaler": "monitor", "evaluator-models": "evaluator"}
    for pod in pods(plain()):
        secrets = [volume["secret"] for volume in pod.spec.get("volumes", []) if "secret" in volume]
        wanted = [f"zeroq-keys-{role_of.get(pod.component, pod.component)}"] if pod.ours else []
        assert [secret["secretName"] for secret in secrets] == wanted
        assert all(secret["defaultMode"] == 0o400 for secret in secrets)
    assert not of_kind(plain(), "Secret")  # never committed


@EACH
def test_services_select_pods_and_name_their_ports(source: str) -> None:
    manifests = objects(source)
    for service in of_kind(manifests, "Service"):
        chosen = [p for p in pods(manifests) if matches({"matchLabels": service["spec"]["selector"]}, p.labels)]
        assert chosen, service["metadata"]["name"]
        for pod in chosen:
            ports = {p["name"]: p["containerPort"] for c in pod.spec["containers"] for p in c.get("ports", [])}
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"], (pod.name, port)


@EACH
def test_probes_name_ports_that_the_container_has(source: str) -> None:
    for pod in pods(objects(source)):
        for container in pod.containers:
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports, (pod.name, probe)


@EACH
def test_owners_select_their_own_pods_and_no_others(source: str) -> None:
    manifests = objects(source)
    every = pods(manifests)
    for pod in every:
        if pod.owner["kind"] in ("Deployment", "StatefulSet"):
            selected = [p.name for p in every if matches(pod.owner["spec"]["selector"], p.labels)]
            assert selected == [pod.name]
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        chosen = {p.component for p in every if matches(budget["spec"]["selector"], p.labels)}
        assert chosen == {budget["metadata"]["name"].removeprefix("zeroq-")}
    covered = names(manifests, "PodDisruptionBudget")
    for pod in every:
        if pod.ours and pod.owner["kind"] != "Job":
            assert f"zeroq-{pod.component}" in covered, pod.name


@EACH
def test_classes_accounts_and_head_services_exist(source: str) -> None:
    manifests = objects(source)
    for pod in pods(manifests):
        assert pod.spec["priorityClassName"] in names(manifests, "PriorityClass") | BUILT_IN_CLASSES, pod.name
        assert pod.spec["serviceAccountName"] in names(manifests, "ServiceAccount"), pod.name
        if "runtimeClassName" in pod.spec:
            assert pod.spec["runtimeClassName"] in names(manifests, "RuntimeClass"), pod.name
        if pod.owner["kind"] == "StatefulSet":
            assert pod.owner["spec"]["serviceName"] in names(manifests, "Service"), pod.name
    for binding in of_kind(manifests, "RoleBinding"):
        assert binding["roleRef"]["name"] in names(manifests, "Role")
        assert {subject["name"] for subject in binding["subjects"]} <= names(manifests, "ServiceAccount")
    for rule in chain.from_iterable(role["rules"] for role in of_kind(manifests, "Role")):
        kinds = {"deployments/scale": "Deployment", "leases": "Lease"}
        for resource in rule["resources"]:
            if "resourceNames" in rule and "zeroq-autoscaler" in names(manifests, "Deployment"):
                assert set(rule["resourceNames"]) <= names(manifests, kinds[resource])


@EACH
def test_variables_in_arguments_are_defined(source: str) -> None:
    manifests = objects(source)
    services = {name.upper().replace("-", "_") + "_SERVICE_HOST" for name in names(manifests, "Service")}
    for pod in pods(manifests):
        injected = services if pod.spec["enableServiceLinks"] else set()
        for container in pod.containers:
            known = {variable["name"] for variable in container.get("env", [])} | injected
            for argument in [*container.get("command", []), *container.get("args", [])]:
                assert set(re.findall(r"\$\((\w+)\)", argument)) <= known, (pod.name, argument)


def test_evaluators_are_told_the_brokers_address_by_a_service_that_comes_before_them() -> None:
    kinds = [(m["kind"], m["metadata"]["name"]) for m in plain()]
    assert kinds.index(("Service", "zeroq-broker")) < kinds.index(("Deployment", "zeroq-evaluator"))
    evaluator = named(plain(), "Deployment", "zeroq-evaluator")["spec"]["template"]["spec"]
    assert evaluator["dnsPolicy"] == "None"
    assert "broker.address=$(ZEROQ_BROKER_SERVICE_HOST)" in evaluator["containers"][0]["args"]


def run_config(source: str) -> RunConfig:
    name = "k8s_cpu" if source == "overlays/cpu" else "k8s"
    return load_config(ROOT / "recipes" / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("source", ["plain", "overlays/cpu"])
def test_the_configurations_addresses_are_those_of_the_services(source: str) -> None:
    manifests, config = objects(source), run_config(source)
    broker = named(manifests, "Service", "zeroq-broker")["spec"]["ports"]
    assert config.broker.address == "zeroq-broker"
    assert {port["name"]: port["port"] for port in broker} == config.broker.ports
    learner = named(manifests, "StatefulSet", "zeroq-learner")
    head = named(manifests, "Service", learner["spec"]["serviceName"])
    pod_0 = f"{learner['metadata']['name']}-0.{head['metadata']['name']}.{head['metadata']['namespace']}.svc"
    assert config.weights.address == pod_0
    assert head["spec"]["clusterIP"] == "None"
    assert head["spec"]["publishNotReadyAddresses"] is True  # actors join, and ranks meet, before pod 0 is ready
    ports = {port["name"]: port["port"] for port in head["spec"]["ports"]}
    assert ports == {"weights": config.weights.port, "store": config.weights.store_port, "rendezvous": 7620}
    (container,) = learner["spec"]["template"]["spec"]["containers"]
    assert f"--rendezvous={pod_0}:{ports['rendezvous']}" in container["args"]
    for pod in pods(manifests):
        for port in chain.from_iterable(container.get("ports", []) for container in pod.spec["containers"]):
            if pod.ours and port["name"] == "metrics":
                assert port["containerPort"] == config.metrics.port
    assert {config.broker.host, config.weights.host, config.metrics.host} == {"0.0.0.0"}


def nodes_and_gpus(source: str) -> tuple[int, int]:
    """Pods of the learner, and ranks that each starts (GPUs, or one)."""
    learner = next(pod for pod in pods(objects(source)) if pod.component == "learner")
    spec = learner.owner["spec"]
    count = spec["replicas"] if "template" in spec else spec["leaderWorkerTemplate"]["size"]
    (container,) = learner.spec["containers"]
    stated = next(v["value"] for v in container["env"] if v["name"] == "ZEROQ_NODES")
    assert int(stated) == count
    return count, int(container["resources"]["limits"].get("nvidia.com/gpu", 1))


@EACH
def test_the_learners_pods_are_as_many_as_its_ranks_need(source: str) -> None:
    count, gpus = nodes_and_gpus(source)
    (container,) = next(pod for pod in pods(objects(source)) if pod.component == "learner").spec["containers"]
    stated = [a.removeprefix("learner.ranks=") for a in container["args"] if a.startswith("learner.ranks=")]
    ranks = int(stated[0]) if stated else run_config(source).learner.ranks
    assert ranks == count * gpus


def ceilings(manifests: list[Manifest], config: RunConfig) -> dict[str, int]:
    """The largest number of pods of each owner; one more where an update surges."""
    most = {}
    for pod in pods(manifests):
        spec = pod.owner["spec"]
        surge = 1 if pod.owner["kind"] == "Deployment" and spec["strategy"]["type"] == "RollingUpdate" else 0
        surge = spec.get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", surge)
        scaled = {"actor": config.autoscaler.actors.max, "evaluator": config.autoscaler.evaluators.max}
        most[pod.name] = scaled.get(pod.component, spec.get("replicas", 1)) + surge
    return most


@pytest.mark.parametrize("source", ["plain", "overlays/cpu", "overlays/gvisor", "overlays/models", "overlays/combined"])
def test_the_quota_holds_what_the_autoscaler_may_ask_for(source: str) -> None:
    manifests, config = objects(source), run_config(source)
    (quota,) = of_kind(manifests, "ResourceQuota")
    hard = quota["spec"]["hard"]
    most = ceilings(manifests, config)
    assert sum(most.values()) <= int(hard["pods"])
    for part in ("requests", "limits"):
        for resource in ("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"):
            needed = sum(
                most[pod.name] * max(quantity(c["resources"][part].get(resource, 0)) for c in pod.containers)
                for pod in pods(manifests)
            )
            bound = hard.get(f"{part}.{resource}")
            assert bound is not None or (part, resource) == ("limits", "nvidia.com/gpu")  # extended: requests alone
            assert bound is None or needed <= quantity(bound), (part, resource, needed)
    claims = [c["spec"] for p in pods(manifests) for c in p.claims]
    claims += [c["spec"] for c in of_kind(manifests, "PersistentVolumeClaim")]
    assert len(claims) <= int(hard["persistentvolumeclaims"])
    assert sum(quantity(c["resources"]["requests"]["storage"]) for c in claims) <= quantity(hard["requests.storage"])
    assert all(claim["accessModes"] == ["ReadWriteOnce"] for claim in claims)


def test_all_images_of_ours_are_of_the_one_tag_that_deploy_docker_builds() -> None:
    bake = (ROOT / "deploy" / "docker" / "docker-bake.hcl").read_text(encoding="utf-8")
    built_there = set(re.findall(r'"\$\{REGISTRY\}/([\w-]+):\$\{TAG\}"', bake))
    default = re.search(r'variable "TAG" \{\s*default = "([^"]+)"', bake)
    assert default is not None
    parameters = (ROOT / "deploy/k8s/overlays/images/images.env").read_text(encoding="utf-8")
    assert f"\nREGISTRY=zeroq\nTAG={default[1]}\n" in parameters
    used = set()
    for path in (ROOT / "deploy" / "k8s").rglob("*.yaml"):
        used |= set(re.findall(r"^\s+image: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    theirs = {image for image in used if not image.startswith("zeroq/")}
    assert theirs == {"prom/prometheus:v3.5.0", "grafana/grafana:12.1.1"}
    assert used - theirs <= {f"zeroq/{name}:{default[1]}" for name in built_there}


def test_grafana_shows_every_dashboard_there_is() -> None:
    maps = {name for name in names(plain(), "ConfigMap") if name.startswith("zeroq-dashboard-")}
    grafana = named(plain(), "Deployment", "zeroq-grafana")["spec"]["template"]["spec"]
    (volume,) = [v["projected"]["sources"] for v in grafana["volumes"] if v["name"] == "dashboards"]
    assert {source["configMap"]["name"] for source in volume} == maps != set()
    home = next(v["value"] for v in grafana["containers"][0]["env"] if v["name"].endswith("HOME_DASHBOARD_PATH"))
    assert home.rpartition("/")[2] in named(plain(), "ConfigMap", "zeroq-dashboard-overview")["data"]
    sources = yaml.safe_load(named(plain(), "ConfigMap", "zeroq-grafana")["data"]["datasources.yaml"])["datasources"]
    service = named(plain(), "Service", "zeroq-prometheus")
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert [source["url"] for source in sources] == [address]


def test_every_folder_with_a_kustomization_is_in_the_readme() -> None:
    readme = (ROOT / "deploy" / "k8s" / "README.md").read_text(encoding="utf-8")
    assert [folder for folder in BUILDS if f"`{folder}`" not in readme] == []


def test_the_leader_worker_set_runs_the_stateful_sets_pods() -> None:
    """Written out a second time, because kustomize cannot move a template into another kind: kept equal here."""
    alone = named(plain(), "StatefulSet", "zeroq-learner")["spec"]["template"]
    group = named(built("leaderworkerset"), "LeaderWorkerSet", "zeroq-learner")["spec"]["leaderWorkerTemplate"]
    text = yaml.safe_dump(alone)
    for there, here in (
        ("apps.kubernetes.io/pod-index", "leaderworkerset.sigs.k8s.io/worker-index"),
        ("value: '1'", f"value: '{group['size']}'"),
    ):
        assert there in text
        text = text.replace(there, here)
    (expected,) = load_all(text)
    volumes = expected["spec"]["volumes"]
    for container in expected["spec"]["initContainers"] + expected["spec"]["containers"]:
        container["args"].append(f"learner.ranks={group['size']}")
    claim = {"name": "run", "persistentVolumeClaim": {"claimName": "run-zeroq-learner-0"}}
    expected["spec"]["volumes"] = [claim, *volumes]
    assert group["leaderTemplate"] == expected
    expected["spec"]["volumes"] = [{"name": "run", "emptyDir": {"sizeLimit": "2Gi"}}, *volumes]
    del expected["spec"]["initContainers"]
    assert group["workerTemplate"] == expected

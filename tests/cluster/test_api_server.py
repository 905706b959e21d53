"""The manifests on a real API server with real controllers and a real scheduler: nothing refused, everything ready.

Skipped where there are no such binaries (tests/cluster/README.md says how to come by them). Nodes are pretended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from common.config import load_config
from launcher.autoscaler.election import Election
from launcher.autoscaler.kubernetes import KubernetesPool
from launcher.k8s.client import connect
from launcher.k8s.names import LEASE
from tests.cluster.control_plane import ControlPlane, missing
from tests.cluster.older_server import fit
from tests.cluster.pretend_nodes import PretendNodes
from tests.unit.manifests import BUILDS, PARTS, PLAIN, WITH_CUSTOM_RESOURCES, Manifest, objects

NAMESPACE = "zeroq"
GPU_NODE = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "2Ti", "pods": "110", "nvidia.com/gpu": "8"}
CPU_NODE = {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "1Ti", "pods": "110"}
SMALL_NODE = {"cpu": "2", "memory": "24Gi", "ephemeral-storage": "200Gi", "pods": "110"}
NODES = {"gpu-0": GPU_NODE, "gpu-1": GPU_NODE, "cpu-0": CPU_NODE, "cpu-1": CPU_NODE}
WHOLE_RUNS = ["plain", *sorted(set(BUILDS) - PARTS - WITH_CUSTOM_RESOURCES)]
ADDED = ["dcgm", "model-fetch"]
WITH_GENERATIONS = ["deployments", "statefulsets", "networkpolicies", "poddisruptionbudgets"]
READY_S = 90
CONFIG = str(PLAIN.parents[1] / "recipes" / "configs" / "k8s.yaml")

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no {', '.join(missing())} here (tests/cluster/README.md)"),
    pytest.mark.timeout(600),
]


class Server:
    """The control plane of this module, and what the tests ask of it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.version = plane.version()
        api = config.new_client_from_config(str(plane.admin))
        self.core, self.apps, self.access = client.CoreV1Api(api), client.AppsV1Api(api), client.AuthorizationV1Api(api)

    def apply(self, manifests: list[Manifest]) -> str:
        """`kubectl apply` of the objects in their order, fitted to an older server; kubectl's lines."""
        fitted, _ = fit(manifests, self.version)
        return self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(fitted))

    def keys(self) -> None:
        """The Secrets of `zeroq keygen --k8s`."""
        command = [sys.executable, "-m", "launcher", "keygen", "--k8s"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        self.plane.kubectl("apply", "-f", "-", stdin=made.stdout)

    def start(self, manifests: list[Manifest]) -> None:
        """Apply them, make the keys, and wait until all is ready."""
        self.apply(manifests)
        self.keys()
        eventually(self.unready, [])

    def generations(self, *kinds: str) -> dict[str, int]:
        """Of every object that has one, of these kinds as well: it counts the changes of what is wanted."""
        listed: Any = self.plane.get(",".join([*WITH_GENERATIONS, *sorted(kinds)]), "-n", NAMESPACE)
        return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["generation"] for i in listed["items"]}

    def unready(self) -> list[str]:
        """Deployments and StatefulSets that have not all their pods ready, and updated."""
        late = []
        for item in [*self.apps.list_namespaced_deployment(NAMESPACE).items, *self.sets()]:
            status, wanted = item.status, item.spec.replicas
            ready, updated = status.ready_replicas or 0, status.updated_replicas or 0
            if (ready, updated) != (wanted, wanted) or status.observed_generation != item.metadata.generation:
                late.append(f"{item.metadata.name}: {ready} of {wanted}")
        return late

    def sets(self) -> list[Any]:
        """StatefulSets."""
        return list(self.apps.list_namespaced_stateful_set(NAMESPACE).items)

    def complaints(self) -> list[str]:
        """Warnings of the cluster's events."""
        events = self.core.list_namespaced_event(NAMESPACE, field_selector="type=Warning").items
        return [f"{event.reason} {event.involved_object.name}: {event.message}" for event in events]

    def pods(self, component: str) -> list[Any]:
        """Pods of a component that are not on their way out."""
        selector = f"app.kubernetes.io/component={component}"
        found = self.core.list_namespaced_pod(NAMESPACE, label_selector=selector).items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None]

    def scale(self, deployment: str, count: int) -> None:
        """Another number of replicas."""
        self.apps.patch_namespaced_deployment_scale(deployment, NAMESPACE, {"spec": {"replicas": count}})

    def empty(self) -> None:
        """Nothing of zeroq is left."""
        self.plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s")
        for volume in self.core.list_persistent_volume().items:
            self.core.delete_persistent_volume(volume.metadata.name)
        self.plane.kubectl("delete", "priorityclass", "-l", "app.kubernetes.io/part-of=zeroq")


def eventually(what: Callable[[], Any], wanted: Any, within_s: float = READY_S) -> None:
    """Wait until `what()` is `wanted`; fails with what it was last."""
    until = time.monotonic() + within_s
    while (now := what()) != wanted and time.monotonic() < until:
        time.sleep(0.3)
    assert now == wanted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ControlPlane(tmp_path_factory.mktemp("k") / "plane") as plane:
        yield Server(plane)


@pytest.fixture
def clean(server: Server) -> Iterator[Server]:
    """The server with volumes to claim, and nothing of zeroq; emptied again."""
    for number in range(8):
        spec = {
            "capacity": {"storage": "200Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": f"/volumes/{number}"},
        }
        server.core.create_persistent_volume({"metadata": {"name": f"volume-{number}"}, "spec": spec})
    yield server
    server.empty()


@pytest.fixture
def large(clean: Server) -> Iterator[Server]:
    """Two nodes with GPUs and two without; one label for what an overlay selects nodes by."""
    with PretendNodes(clean.core, NODES, {"zeroq/gvisor": "true"}):
        yield clean
        clean.empty()
    for name in NODES:
        clean.core.delete_node(name)


@pytest.fixture
def small(clean: Server) -> Iterator[Server]:
    """One node of two cores."""
    with PretendNodes(clean.core, {"small": SMALL_NODE}, {}):
        yield clean
        clean.empty()
    clean.core.delete_node("small")


@pytest.mark.parametrize("source", WHOLE_RUNS)
def test_everything_is_taken_twice_and_gets_ready(large: Server, source: str) -> None:
    large.start(objects(source))
    before = large.generations()
    again = large.apply(objects(source))
    assert large.generations() == before
    assert " created" not in again
    assert not [said for said in large.complaints() if "FailedScheduling" not in said]  # what waited for a volume


@pytest.mark.parametrize("source", ADDED)
def test_what_is_added_to_a_run_is_taken_twice(large: Server, source: str) -> None:
    large.apply(objects("plain"))
    if source == "dcgm":  # what NVIDIA's operator would have made
        large.plane.kubectl("create", "namespace", "gpu-operator")
    large.apply(objects(source))
    before = large.generations()
    large.apply(objects(source))
    assert large.generations() == before


def test_the_quota_lets_the_fleets_reach_their_ceilings_and_be_updated_there(large: Server) -> None:
    large.apply(objects("plain"))
    large.keys()
    ceilings = load_config(PLAIN.parents[1] / "recipes" / "configs" / "k8s.yaml").autoscaler
    large.scale("zeroq-actor", ceilings.actors.max)
    large.scale("zeroq-evaluator", ceilings.evaluators.max)
    eventually(large.unready, [])
    for name in ("actor", "evaluator", "autoscaler"):
        large.plane.kubectl("-n", NAMESPACE, "rollout", "restart", f"deployment/zeroq-{name}")
    eventually(large.unready, [])
    assert not [said for said in large.complaints() if "FailedCreate" in said]


def test_an_actor_more_takes_no_evaluators_place(small: Server) -> None:
    small.start(objects("overlays/cpu"))
    graders = {pod.metadata.name for pod in small.pods("evaluator")}
    small.scale("zeroq-actor", 3)
    eventually(lambda: [c for c in small.complaints() if "zeroq-actor" in c and "Insufficient cpu" in c] != [], True)
    time.sleep(3)
    assert {pod.metadata.name for pod in small.pods("evaluator")} == graders
    (grader,) = graders  # a new one is placed before the actor that waits
    small.core.delete_namespaced_pod(grader, NAMESPACE)
    eventually(lambda: [pod.status.phase for pod in small.pods("evaluator")], ["Running"])


def test_a_learner_that_comes_back_takes_an_actors_place_and_no_evaluators(small: Server) -> None:
    small.start(objects("overlays/cpu"))
    graders = {pod.metadata.name for pod in small.pods("evaluator")}
    small.scale("zeroq-actor", 3)
    small.plane.kubectl("-n", NAMESPACE, "scale", "statefulset", "zeroq-learner", "--replicas=0")
    eventually(lambda: sum(pod.status.phase == "Running" for pod in small.pods("actor")) >= 2, True)
    small.plane.kubectl("-n", NAMESPACE, "scale", "statefulset", "zeroq-learner", "--replicas=1")
    eventually(lambda: [pod.status.phase for pod in small.pods("learner")], ["Running"])
    assert {pod.metadata.name: pod.status.phase for pod in small.pods("evaluator")} == dict.fromkeys(graders, "Running")


def test_a_drain_stops_at_broker_and_learner_alone(large: Server) -> None:
    large.start(objects("plain"))

    def evict(component: str) -> int:
        pod = large.pods(component)[0].metadata.name
        try:
            large.core.create_namespaced_pod_eviction(
                pod, NAMESPACE, {"metadata": {"name": pod, "namespace": NAMESPACE}}
            )
        except client.ApiException as error:
            return int(error.status)
        return 201

    eventually(lambda: evict("evaluator"), 201)  # the budgets are counted a moment after the pods are ready
    assert {room: evict(room) for room in ("broker", "learner")} == {"broker": 429, "learner": 429}


ALLOWED = [
    *[
        (verb, "apps", "deployments/scale", f"zeroq-{name}")
        for verb in ("get", "patch")
        for name in ("actor", "evaluator")
    ],
    ("get", "coordination.k8s.io", "leases", "zeroq-autoscaler"),
    ("update", "coordination.k8s.io", "leases", "zeroq-autoscaler"),
    ("list", "", "pods", ""),
    ("patch", "", "pods", "zeroq-actor-0"),
]
DENIED = [
    ("patch", "apps", "deployments/scale", "zeroq-autoscaler"),
    ("patch", "apps", "deployments", "zeroq-actor"),
    ("get", "", "secrets", "zeroq-keys-learner"),
    ("create", "coordination.k8s.io", "leases", ""),
    ("delete", "", "pods", "zeroq-actor-0"),
    ("create", "", "pods/exec", "zeroq-actor-0"),
]


def test_the_autoscaler_may_do_what_it_does_and_no_more(clean: Server) -> None:
    clean.apply(objects("plain"))

    def may(account: str, verb: str, group: str, resource: str, name: str) -> bool:
        resource, _, sub = resource.partition("/")
        attributes = {"namespace": NAMESPACE, "verb": verb, "group": group, "resource": resource, "subresource": sub}
        review = {
            "spec": {
                "user": f"system:serviceaccount:{NAMESPACE}:{account}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
                "resourceAttributes": {**attributes, "name": name},
            }
        }
        return bool(clean.access.create_subject_access_review(review).status.allowed)

    assert [right for right in ALLOWED if not may("zeroq-autoscaler", *right)] == []
    assert [right for right in DENIED if may("zeroq-autoscaler", *right)] == []
    for account in ("zeroq-evaluator", "zeroq-actor", "zeroq-learner", "zeroq-broker", "default"):
        assert [right for right in [*ALLOWED, *DENIED] if may(account, *right)] == [], account


def test_the_autoscaler_scales_and_elects_with_its_own_token(
    large: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.start(objects("plain"))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(_as_autoscaler(large, tmp_path))
    )
    with connect(in_cluster=False) as cluster:
        first, second = Election(cluster, LEASE, "first"), Election(cluster, LEASE, "second")
        assert (first.step(), second.step()) == (True, False)
        first.resign()
        third = Election(cluster, LEASE, "third")
        assert third.step()
        pool = KubernetesPool(cluster, {"evaluator": "zeroq-evaluator"})
        pool.fleet("evaluator")
        pool.scale("evaluator", 4, ())
        eventually(lambda: pool.fleet("evaluator").ready, 4)
        fleet = pool.fleet("evaluator")
        stays, leaving = fleet.members[0], fleet.members[1:]
        pool.scale("evaluator", 1, leaving)
        eventually(lambda: len(large.pods("evaluator")), 1)
        if large.version >= (1, 22):  # before, the controller did not know the annotation
            assert [pod.metadata.name for pod in large.pods("evaluator")] == [stays]


def _as_autoscaler(server: Server, folder: Path) -> Path:
    """A kubeconfig with a token of the autoscaler's service account, and its namespace."""
    account, request = "zeroq-autoscaler", {"spec": {"audiences": [], "expirationSeconds": 600}}
    token = server.core.create_namespaced_service_account_token(account, NAMESPACE, request).status.token
    kubeconfig = json.loads(server.plane.admin.read_text())
    kubeconfig["users"] = [{"name": "admin", "user": {"token": token}}]
    kubeconfig["contexts"][0]["context"]["namespace"] = NAMESPACE
    path = folder / "autoscaler.kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    path.chmod(0o600)
    return path


def zeroq(server: Server, *arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "launcher", *arguments]
    environment = {"KUBECONFIG": str(server.plane.admin), "COLUMNS": "200", "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_run_is_submitted_and_shown(large: Server) -> None:
    large.start(objects("plain"))
    said = zeroq(large, "submit", CONFIG, "learner.lr=1e-6")
    assert "restarting zeroq-learner" in said
    eventually(large.unready, [])
    kept: Any = large.plane.get("configmap", "zeroq-config", "-n", NAMESPACE)
    assert yaml.safe_load(kept["data"]["config.yaml"])["learner"]["lr"] == 1e-6
    table = zeroq(large, "status", "--k8s")
    assert "broker" in table
    assert "1/1" in table


@pytest.fixture
def extended(large: Server) -> Iterator[Server]:
    """A server that keeps objects of the custom kinds, whatever is in them; no controller makes anything of them."""
    custom = {m["kind"]: m for source in WITH_CUSTOM_RESOURCES for m in objects(source) if is_custom(m)}
    made = [definition(manifest) for manifest in custom.values()]
    large.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(made))
    large.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    yield large
    large.plane.kubectl("delete", "crd", "--all", "--timeout=60s")


def group_of(manifest: Manifest) -> str:
    """The API group, without the version."""
    return str(manifest["apiVersion"]).rpartition("/")[0]


def is_custom(manifest: Manifest) -> bool:
    """Whether no API server has its kind by itself."""
    group = group_of(manifest)
    return "." in group and (group.endswith("x-k8s.io") or not group.endswith("k8s.io"))


def definition(manifest: Manifest) -> Manifest:
    """The kind of a custom resource, with any content."""
    group, kind = group_of(manifest), manifest["kind"]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"served": True, "storage": True, "schema": {"openAPIV3Schema": anything}, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.lower()}s.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced" if "namespace" in manifest["metadata"] else "Cluster",
            "names": {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()},
            "versions": [{**version, "name": manifest["apiVersion"].rpartition("/")[2]}],
        },
    }


@pytest.mark.parametrize("source", sorted(WITH_CUSTOM_RESOURCES - {"prometheus-operator"}))
def test_what_has_custom_resources_is_taken_twice_and_the_rest_gets_ready(extended: Server, source: str) -> None:
    """Their own fields are checked against the published schemas elsewhere, or by nobody here (tests/unit)."""
    extended.start(objects(source))
    kinds = {manifest["kind"].lower() for manifest in objects(source) if is_custom(manifest)}
    before = extended.generations(*kinds)
    assert kinds <= {name.partition("/")[0].lower() for name in before}
    again = extended.apply(objects(source))
    assert extended.generations(*kinds) == before
    assert " created" not in again
    assert not [said for said in extended.complaints() if "FailedScheduling" not in said]


def test_a_gang_is_patched_as_a_server_takes_it(extended: Server) -> None:
    """Of custom resources a server merges no lists: what is sent must leave the containers whole."""
    extended.start(objects("leaderworkerset"))
    assert "zeroq-learner" not in {
        item.metadata.name for item in extended.apps.list_namespaced_stateful_set("zeroq").items
    }

    def gang() -> Any:
        return extended.plane.get("leaderworkerset", "zeroq-learner", "-n", NAMESPACE)

    before = gang()
    said = zeroq(extended, "submit", CONFIG, "learner.lr=1e-6", "--image-tag", "0.2.0")
    assert "restarting zeroq-learner" in said
    after = gang()
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    for part in ("leaderTemplate", "workerTemplate"):
        old, new = (found["spec"]["leaderWorkerTemplate"][part] for found in (before, after))
        assert new["metadata"].pop("annotations")
        for container in [*new["spec"].get("initContainers", []), *new["spec"]["containers"]]:
            assert container["image"].endswith("/learner:0.2.0")
            container["image"] = container["image"].replace("0.2.0", "0.1.0")
        assert new == old
    assert "0/2" in zeroq(extended, "status", "--k8s")

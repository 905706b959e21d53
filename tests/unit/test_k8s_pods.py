"""Every pod template of the manifests: Pod Security, identities, probes, resources, ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from manifests import ROOT, SOURCES, PodTemplate, named, objects, of_kind, plain, pod_templates, quantity
from pod_security import violations

from common.config import RewardComponent, RewardSection, load_config
from launcher.autoscaler.kubernetes import deployments

EACH = pytest.mark.parametrize("source", SOURCES)


def pods(source: str) -> list[PodTemplate]:
    return list(pod_templates(objects(source)))


@EACH
def test_pod_security_restricted_lets_every_pod_in(source: str) -> None:
    assert {pod.name: violations(pod.spec) for pod in pods(source)} == {pod.name: [] for pod in pods(source)}


def test_the_namespace_enforces_what_is_tested_here() -> None:
    labels = plain()[0]["metadata"]["labels"]
    modes = ("enforce", "audit", "warn")
    assert [labels[f"pod-security.kubernetes.io/{mode}"] for mode in modes] == ["restricted"] * 3


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets `value` (None: takes away) at a dotted path; numbers are indices."""

    def apply(spec: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        at: Any = spec
        for part in parents:
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return apply


@pytest.mark.parametrize(
    "harm",
    [
        change("hostNetwork", True),
        change("hostPID", True),
        change("hostIPC", True),
        change("volumes.0", {"name": "host", "hostPath": {"path": "/"}}),
        change("securityContext.runAsNonRoot", None),
        change("securityContext.runAsNonRoot", False),
        change("securityContext.runAsUser", 0),
        change("securityContext.seccompProfile", None),
        change("securityContext.seccompProfile.type", "Unconfined"),
        change("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        change("securityContext.seLinuxOptions", {"type": "spc_t"}),
        change("securityContext.appArmorProfile", {"type": "Unconfined"}),
        change("securityContext.windowsOptions", {"hostProcess": True}),
        change("containers.0.securityContext.privileged", True),
        change("containers.0.securityContext.allowPrivilegeEscalation", None),
        change("containers.0.securityContext.capabilities", None),
        change("containers.0.securityContext.capabilities.drop", ["NET_RAW"]),
        change("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"]),
        change("containers.0.securityContext.procMount", "Unmasked"),
        change("containers.0.securityContext.runAsUser", 0),
        change("containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
        change("containers.0.ports.0.hostPort", 80),
        change("containers.0.livenessProbe.httpGet.host", "10.0.0.1"),
    ],
)
def test_what_restricted_forbids_is_noticed(harm: Callable[[dict[str, Any]], None]) -> None:
    spec = named(plain(), "StatefulSet", "zeroq-broker")["spec"]["template"]["spec"]
    assert violations(spec) == []
    harm(spec)
    assert len(violations(spec)) >= 1


@EACH
def test_users_are_fixed_and_files_cannot_be_changed(source: str) -> None:
    for pod in pods(source):
        context = pod.spec["securityContext"]
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] > 0, pod.name
        if pod.ours:
            assert context["runAsUser"] == 10001, pod.name  # deploy/docker
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, (pod.name, container["name"])
        mounts = {mount["mountPath"] for container in pod.containers for mount in container["volumeMounts"]}
        assert "/tmp" in mounts or pod.component == "prometheus", f"{pod.name}: nothing to write to"


@EACH
def test_tokens_are_mounted_only_where_they_are_used(source: str) -> None:
    manifests = objects(source)
    accounts = of_kind(manifests, "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    bound = {
        subject["name"]
        for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding")
        for subject in binding["subjects"]
    }
    for pod in pods(source):
        account = pod.spec["serviceAccountName"]
        assert account == f"zeroq-{pod.component}", pod.name
        assert pod.spec["automountServiceAccountToken"] is (account in bound), pod.name


def test_no_role_is_wider_than_what_its_process_does() -> None:
    roles = {role["metadata"]["name"]: role["rules"] for role in of_kind(plain(), "Role")}
    assert not of_kind(plain(), "ClusterRole", "ClusterRoleBinding")
    assert set(roles) == {"zeroq-autoscaler", "zeroq-prometheus"}
    for rules in roles.values():
        for rule in rules:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert not {"create", "delete", "deletecollection", "escalate", "bind"} & set(rule["verbs"])
            assert "secrets" not in rule["resources"]
    by_name = [rule for rule in roles["zeroq-autoscaler"] if "resourceNames" in rule]
    assert {resource for rule in by_name for resource in rule["resources"]} == {"deployments/scale", "leases"}
    assert roles["zeroq-prometheus"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]


@EACH
def test_every_process_is_probed(source: str) -> None:
    """startup and liveness: its loop goes round; readiness: it can be used."""
    for pod in pods(source):
        if pod.owner["kind"] == "Job":
            continue
        for container in pod.spec["containers"]:
            found = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
            if pod.ours:
                assert found == {
                    "startup": {"path": "/livez", "port": "metrics"},
                    "readiness": {"path": "/readyz", "port": "metrics"},
                    "liveness": {"path": "/livez", "port": "metrics"},
                }, pod.name


@EACH
def test_probes_give_a_process_time(source: str) -> None:
    """A slow start is no failure, and one slow answer is none either."""
    for pod in pods(source):
        if pod.owner["kind"] == "Job":
            continue
        for container in pod.spec["containers"]:
            start, live = container["startupProbe"], container["livenessProbe"]
            assert start["periodSeconds"] * start["failureThreshold"] >= 120, pod.name
            assert live["periodSeconds"] * live["failureThreshold"] >= 30, pod.name
            assert live["timeoutSeconds"] >= 3, pod.name
    engine = named(plain(), "Deployment", "zeroq-actor")["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    config = load_config(ROOT / "recipes/configs/k8s.yaml")
    assert engine["periodSeconds"] * engine["failureThreshold"] > config.actor.startup_timeout_s


@EACH
def test_leases_outlive_no_pod_that_ends(source: str) -> None:
    config = load_config(ROOT / "recipes/configs/k8s.yaml")
    longest = max(config.broker.generate_lease_s, config.broker.grade_lease_s)
    for pod in pods(source):
        if pod.component in ("broker", "actor", "evaluator", "evaluator-models"):
            assert pod.spec["terminationGracePeriodSeconds"] > longest, pod.name
        if pod.component == "learner":
            assert pod.spec["terminationGracePeriodSeconds"] >= 300, pod.name  # it saves a checkpoint


@EACH
def test_who_holds_leases_drains_before_it_is_stopped(source: str) -> None:
    """For longer than a lease lasts, and so that SIGTERM still has time to give back what is left."""
    config = load_config(ROOT / "recipes/configs/k8s.yaml")
    longest = max(config.broker.generate_lease_s, config.broker.grade_lease_s)
    for pod in pods(source):
        (container,) = pod.spec["containers"]
        hook = container.get("lifecycle", {}).get("preStop")
        if pod.component not in ("actor", "evaluator", "evaluator-models"):
            assert hook is None, pod.name
            continue
        *command, within = hook["exec"]["command"]
        assert command == ["python", "-m", "common.drain"]
        seconds = float(within.removeprefix("--within="))
        assert longest < seconds <= pod.spec["terminationGracePeriodSeconds"] - 10, pod.name


@EACH
def test_an_update_replaces_a_pod_that_cannot_become_ready(source: str) -> None:
    """OrderedReady waits for such a pod before it updates it: a wrong tag could only be mended by deleting the pod."""
    for manifest in of_kind(objects(source), "StatefulSet"):
        assert manifest["spec"]["podManagementPolicy"] == "Parallel", manifest["metadata"]["name"]


@EACH
def test_a_pod_that_is_not_ready_holds_up_no_drain(source: str) -> None:
    """But the learner's, which is not ready while it does its cold start."""
    for budget in of_kind(objects(source), "PodDisruptionBudget"):
        policy = budget["spec"].get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
        learner = budget["metadata"]["name"] == "zeroq-learner"
        assert policy == ("IfHealthyBudget" if learner else "AlwaysAllow"), budget["metadata"]["name"]


@EACH
def test_resources_are_stated_and_pods_with_gpus_are_guaranteed(source: str) -> None:
    for pod in pods(source):
        for container in pod.containers:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= requests.keys() & limits.keys(), pod.name
            for name, amount in requests.items():
                assert quantity(amount) <= quantity(limits[name]), (pod.name, name)
            assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu"), pod.name
        if any("nvidia.com/gpu" in container["resources"]["limits"] for container in pod.containers):
            for container in pod.containers:
                assert container["resources"]["requests"] == container["resources"]["limits"], pod.name


@EACH
def test_memory_and_disk_volumes_fit_the_limits(source: str) -> None:
    for pod in pods(source):
        empty = [volume["emptyDir"] for volume in pod.spec.get("volumes", []) if "emptyDir" in volume]
        assert all("sizeLimit" in volume for volume in empty), pod.name
        memory = sum(quantity(v["sizeLimit"]) for v in empty if v.get("medium") == "Memory")
        disk = sum(quantity(v["sizeLimit"]) for v in empty if v.get("medium") != "Memory")
        limits = [container["resources"]["limits"] for container in pod.containers]
        assert memory <= 0.5 * max(quantity(limit["memory"]) for limit in limits), pod.name
        assert disk <= max(quantity(limit["ephemeral-storage"]) for limit in limits), pod.name


@EACH
def test_torch_gets_shared_memory_of_its_own(source: str) -> None:
    for pod in pods(source):
        if pod.component not in ("learner", "actor", "evaluator-models"):
            continue
        (shm,) = [volume for volume in pod.spec["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory", pod.name
        for container in pod.containers:
            assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"], pod.name


def test_gpus_go_to_learner_and_actors_alone() -> None:
    with_gpus = {
        pod.component: container["resources"]["limits"]["nvidia.com/gpu"]
        for pod in pods("plain")
        for container in pod.containers
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert with_gpus == {"learner": "1", "actor": "1"}
    cpu = [c["resources"] for pod in pods("overlays/cpu") for c in pod.containers]
    assert not any("nvidia.com/gpu" in {**r["requests"], **r["limits"]} for r in cpu)


@EACH
def test_the_number_of_what_is_scaled_is_left_to_the_autoscaler(source: str) -> None:
    config = load_config(ROOT / "recipes/configs/k8s.yaml")
    if source == "overlays/reward-models":
        helpful = RewardComponent(name="helpful", kind="reward_model", model="/var/lib/zeroq/models/helpful")
        config = config.model_copy(update={"reward": RewardSection(components=[helpful])})
    scaled = set(deployments(config).values())
    assert len(scaled) == 2
    for manifest in of_kind(objects(source), "Deployment", "StatefulSet"):
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        assert ("replicas" in spec) is (name not in scaled), name
        if name.startswith("zeroq-evaluator") and name not in scaled:
            assert spec["replicas"] == 0  # a run has evaluators of one kind


@EACH
def test_pods_are_spread(source: str) -> None:
    for pod in pods(source):
        if pod.component in ("actor", "evaluator", "evaluator-models", "learner", "autoscaler"):
            for constraint in pod.spec["topologySpreadConstraints"]:
                assert constraint["labelSelector"]["matchLabels"].items() <= pod.labels.items(), pod.name
                assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", pod.name  # a small cluster will do


def test_the_autoscalers_rights_are_those_that_its_page_states() -> None:
    page = (ROOT / "docs" / "autoscaling.md").read_text(encoding="utf-8")
    block = page[page.index("    apiVersion: rbac.authorization.k8s.io/v1") :].partition("\n\n")[0]
    assert yaml.safe_load(block)["rules"] == named(plain(), "Role", "zeroq-autoscaler")["rules"]
    assert "spec" not in named(plain(), "Lease", "zeroq-autoscaler")  # the holder's own; applying must not touch it

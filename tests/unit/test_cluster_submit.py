"""`zeroq submit` through the command line, against the fake API server."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import RunConfig, load_config
from launcher.k8s import submit as submitting
from launcher.k8s.client import Cluster, connect
from launcher.k8s.cluster_config import dump
from launcher.k8s.submit import PENDING, is_ours, with_tag
from launcher.k8s.workloads import RESTARTED_AT
from tests.unit.cluster_rig import CONFIG, LOCAL, WORKLOADS, Run, fake, zeroq
from tests.unit.fake_kubernetes import FakeKubernetes, Fault
from tests.unit.manifests import ROOT, objects

__all__ = ["fake", "zeroq"]  # fixtures


def restarted(fake: FakeKubernetes) -> set[str]:
    """Roles whose pod template was touched."""
    found = set()
    for role, resource in WORKLOADS.items():
        template = fake.get(resource, f"zeroq-{role}")["spec"]["template"]
        if RESTARTED_AT in (template["metadata"].get("annotations") or {}):
            found.add(role)
    return found


def config_there(fake: FakeKubernetes, tmp_path: Path) -> RunConfig:
    path = tmp_path / "there.yaml"
    path.write_text(fake.get("configmaps", "zeroq-config")["data"]["config.yaml"])
    return load_config(path)


def test_what_reads_a_changed_key_restarts(fake: FakeKubernetes, zeroq: Run, tmp_path: Path) -> None:
    code, out, _ = zeroq("submit", CONFIG, "learner.lr=5e-7")
    assert code == 0
    assert "1 key(s) change: learner.lr" in out
    assert "goes on from the last checkpoint" in out
    assert "goes on as it is: zeroq-broker, zeroq-actor, zeroq-evaluator" in out
    assert restarted(fake) == {"learner"}
    assert config_there(fake, tmp_path) == load_config(CONFIG, ["learner.lr=5e-7"])
    assert PENDING not in fake.get("configmaps", "zeroq-config")["metadata"].get("annotations", {})


def test_the_same_again_changes_nothing(fake: FakeKubernetes, zeroq: Run) -> None:
    code, out, _ = zeroq("submit", CONFIG)
    assert (code, restarted(fake)) == (0, set())
    assert "configuration: unchanged" in out
    assert not any(asked.verb in ("patch", "create") for asked in fake.requests)


def test_dry_run_says_it_and_changes_nothing(fake: FakeKubernetes, zeroq: Run) -> None:
    code, out, _ = zeroq("submit", CONFIG, "broker.grade_lease_s=50", "--dry-run")
    assert code == 0
    assert "restarts zeroq-broker: broker.grade_lease_s" in out
    assert "dry run: nothing was changed" in out
    assert restarted(fake) == set()
    assert not any(asked.verb in ("patch", "create") for asked in fake.requests)


def test_a_local_configuration_gets_the_clusters_own_keys(fake: FakeKubernetes, zeroq: Run, tmp_path: Path) -> None:
    code, out, _ = zeroq("submit", LOCAL)
    assert code == 0, out
    there = config_there(fake, tmp_path)
    cluster = load_config(CONFIG)
    assert there.learner == load_config(LOCAL).learner
    assert (there.broker.address, there.broker.ports) == (cluster.broker.address, cluster.broker.ports)
    assert (there.security, there.metrics, there.autoscaler) == (cluster.security, cluster.metrics, cluster.autoscaler)
    assert (there.weights.address, there.resume) == (cluster.weights.address, "auto")


def test_a_cluster_without_a_configuration_gets_one(fake: FakeKubernetes, zeroq: Run, tmp_path: Path) -> None:
    del fake.objects["configmaps", "zeroq-config"]
    code, out, _ = zeroq("submit", LOCAL)
    assert code == 0
    assert "configuration: new" in out
    assert restarted(fake) == set(WORKLOADS)
    assert config_there(fake, tmp_path).broker.address == load_config(CONFIG).broker.address


def test_a_configuration_that_cannot_be_read_is_replaced(fake: FakeKubernetes, zeroq: Run, tmp_path: Path) -> None:
    fake.get("configmaps", "zeroq-config")["data"]["config.yaml"] = "model: tiny\ndata: {train: x.jsonl}\nnonsense: 1\n"
    code, out, _ = zeroq("submit", CONFIG)
    assert code == 0
    assert "unknown key nonsense" in out
    assert restarted(fake) == set(WORKLOADS)
    assert config_there(fake, tmp_path) == load_config(CONFIG)


def test_an_interrupted_submit_is_finished_by_the_next(fake: FakeKubernetes, zeroq: Run) -> None:
    fake.faults.append(Fault(403, "PATCH", "statefulsets/zeroq-learner", times=1))
    code, _, err = zeroq("submit", CONFIG, "seed=7")
    assert code == 2
    assert "needs the rule" in err
    assert restarted(fake) == set()
    code, out, _ = zeroq("submit", CONFIG, "seed=7")
    assert code == 0
    assert "an earlier submit did not get to it" in out
    assert restarted(fake) == {"learner", "actor"}
    restarts = [asked for asked in fake.requests if asked.verb == "patch" and asked.group == "apps"]
    code, out, _ = zeroq("submit", CONFIG, "seed=7")
    assert "configuration: unchanged" in out
    assert restarts == [asked for asked in fake.requests if asked.verb == "patch" and asked.group == "apps"]


def test_images_of_all_roles_change_with_one_option(fake: FakeKubernetes, zeroq: Run) -> None:
    code, out, _ = zeroq("submit", CONFIG, "--image-tag", "0.2.0")
    assert code == 0
    assert "configuration: unchanged" in out
    for role, resource in WORKLOADS.items():
        pod = fake.get(resource, f"zeroq-{role}")["spec"]["template"]["spec"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["image"].endswith(":0.2.0")
            assert container["image"].startswith("registry/team/zeroq/")
    assert restarted(fake) == set(WORKLOADS)
    code, out, _ = zeroq("submit", CONFIG, "--image-tag", "0.2.0", "--dry-run")
    assert "there is nothing to change" in out


def test_a_broker_that_restarts_takes_the_learner_along(fake: FakeKubernetes, zeroq: Run) -> None:
    for role, resource in WORKLOADS.items():
        if role != "broker":
            pod = fake.get(resource, f"zeroq-{role}")["spec"]["template"]["spec"]
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                container["image"] = with_tag(container["image"], "0.2.0")
    code, out, _ = zeroq("submit", CONFIG, "--image-tag", "0.2.0")
    assert code == 0
    assert "restarts zeroq-learner: (the broker restarts)" in out
    assert restarted(fake) == {"broker", "learner"}


def test_optional_workloads_may_be_missing(fake: FakeKubernetes, zeroq: Run) -> None:
    del fake.objects["deployments", "zeroq-evaluator-models"]
    assert zeroq("submit", CONFIG, "reward.components=[{name: accuracy}]")[0] == 0
    assert {"evaluator", "learner", "autoscaler"} <= {
        role
        for role in WORKLOADS
        if role != "evaluator-models"
        and RESTARTED_AT
        in fake.get(WORKLOADS[role], f"zeroq-{role}")["spec"]["template"]["metadata"].get("annotations", {})
    }


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.lrr=1"], "unknown key learner.lrr"),
        (["metrics.host=127.0.0.1"], "metrics.host=127.0.0.1"),
        (["metrics.port=0"], "metrics.port=0"),
        (["broker.address=null"], "broker.address is not set"),
        (["weights.backend=ipc"], "weights.backend=ipc"),
        (["weights.address=null"], "weights.address"),
        (["security.keys=null"], "security.keys is not set"),
        (["resume=never"], "resume=never"),
        (["broker.generate_lease_s=90"], "killed 90 s after"),
        (["--image-tag", "no/tag"], "not an image tag"),
    ],
)
def test_bad_input_changes_nothing(fake: FakeKubernetes, zeroq: Run, overrides: list[str], says: str) -> None:
    code, _, err = zeroq("submit", CONFIG, *overrides)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not any(asked.verb in ("patch", "create") for asked in fake.requests)


def test_throttling_and_disconnects_are_waited_out(
    fake: FakeKubernetes, zeroq: Run, caplog: pytest.LogCaptureFixture
) -> None:
    fake.faults += [
        Fault(429, "GET", "configmaps", times=2, headers={"Retry-After": "0"}),
        Fault(0, "PATCH", "configmaps"),
        Fault(503, "PATCH", "statefulsets"),
    ]
    code, _, _ = zeroq("submit", CONFIG, "learner.lr=5e-7")
    assert code == 0
    assert restarted(fake) == {"learner"}
    assert sum("trying again" in record.getMessage() for record in caplog.records) == 4


def test_patience_ends(fake: FakeKubernetes) -> None:
    fake.faults.append(Fault(429, "GET", "configmaps", times=100, headers={"Retry-After": "0.05"}))
    with connect(patience_s=0.2) as cluster:
        begin = time.monotonic()
        with pytest.raises(Exception, match="answers 429"):
            cluster.config_map("zeroq-config")
    assert time.monotonic() - begin < 5
    assert fake.faults[0].times < 100 - 1


@pytest.mark.parametrize("kubeconfig", ["", "nonsense: [", "apiVersion: v1\nkind: Config\n", "[]", "no file"])
@pytest.mark.parametrize("command", [("submit", CONFIG), ("status", "--k8s"), ("logs", "actor")])
def test_a_bad_kubeconfig_is_one_line(
    zeroq: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubeconfig: str, command: tuple[Any, ...]
) -> None:
    path = tmp_path / "kubeconfig"
    if kubeconfig != "no file":
        path.write_text(kubeconfig)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    code, _, err = zeroq(*command)
    assert code == 2
    assert err.startswith("error: cannot use the kubeconfig")
    assert err.count("\n") == 1


def test_an_unknown_context_is_named(fake: FakeKubernetes, zeroq: Run) -> None:
    code, _, err = zeroq("status", "--k8s", "--context", "elsewhere")
    assert code == 2
    assert "elsewhere" in err


def test_a_missing_workload_is_named(fake: FakeKubernetes, zeroq: Run) -> None:
    del fake.objects["statefulsets", "zeroq-broker"]
    code, _, err = zeroq("submit", CONFIG)
    assert code == 2
    assert "statefulsets zeroq/zeroq-broker does not exist" in err


def test_an_unreachable_server_is_a_failure(zeroq: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeKubernetes() as server:
        path = str(server.kubeconfig(tmp_path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)
    monkeypatch.setattr("launcher.k8s.client.PATIENCE_S", 0.0)
    code, _, err = zeroq("status", "--k8s")
    assert code == 1
    assert "the API server does not answer" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("zeroq/actor:0.1.0", "zeroq/actor:9"),
        ("zeroq/actor", "zeroq/actor:9"),
        ("registry:5000/zeroq/actor", "registry:5000/zeroq/actor:9"),
        ("registry/zeroq/actor:1@sha256:00", "registry/zeroq/actor:9"),
    ],
)
def test_tags(image: str, expected: str) -> None:
    assert with_tag(image, "9") == expected


def test_only_our_images_change() -> None:
    bake = (ROOT / "deploy" / "docker" / "docker-bake.hcl").read_text()
    images = re.findall(r"\$\{REGISTRY\}(/[a-z-]+):", bake)
    assert len(images) >= 8
    for name in images:
        assert is_ours(f"registry:5000/team{name}:1"), name
    assert is_ours("team/zeroq-actor:1")
    assert not is_ours("prom/prometheus:v2")
    assert not is_ours("other/reactor:1")


@pytest.mark.parametrize("source", ["plain", "overlays/cpu", "overlays/gvisor", "overlays/reward-models"])
def test_another_tag_reaches_every_image_that_the_manifests_name(fake: FakeKubernetes, zeroq: Run, source: str) -> None:
    """With one of another version left behind, a run stands still."""
    wanted = {}
    for manifest in objects(source):
        role = manifest["metadata"]["name"].removeprefix("zeroq-")
        if manifest["kind"] not in ("Deployment", "StatefulSet") or role not in WORKLOADS:
            continue
        there = fake.get(WORKLOADS[role], f"zeroq-{role}")["spec"]["template"]["spec"]
        there |= {key: manifest["spec"]["template"]["spec"].get(key, []) for key in ("containers", "initContainers")}
        wanted[role] = [with_tag(c["image"], "0.2.0") for c in [*there["containers"], *there["initContainers"]]]
    assert zeroq("submit", CONFIG, "--image-tag", "0.2.0")[0] == 0
    for role, images in wanted.items():
        there = fake.get(WORKLOADS[role], f"zeroq-{role}")["spec"]["template"]["spec"]
        assert [c["image"] for c in [*there["containers"], *there["initContainers"]]] == images


def test_an_image_that_keeps_its_tag_is_named(fake: FakeKubernetes, zeroq: Run) -> None:
    container = fake.get("deployments", "zeroq-actor")["spec"]["template"]["spec"]["containers"][0]
    container |= {"name": "actor", "image": "team/sampler:7"}
    code, out, _ = zeroq("submit", CONFIG, "--image-tag", "0.2.0")
    assert code == 0
    assert "note: zeroq-actor, container actor: team/sampler:7 is not called like one of zeroq's images" in out


def test_the_configuration_survives_the_round_trip() -> None:
    for path in (CONFIG, LOCAL):
        config = load_config(path)
        assert RunConfig.model_validate(yaml.safe_load(dump(config))) == config


def test_a_mistyped_file_is_named_before_the_cluster_is_asked(fake: FakeKubernetes, zeroq: Run) -> None:
    code, _, err = zeroq("submit", "no-such.yaml")
    assert code == 2
    assert "no-such.yaml" in err
    assert fake.requests == []


def test_two_who_submit_at_once_do_not_overwrite_each_other(
    fake: FakeKubernetes, zeroq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's plan of who restarts was made against a configuration that is no longer there."""
    tell = submitting.tell

    def somebody_else(*arguments: Any) -> None:
        tell(*arguments)
        theirs = fake.get("configmaps", "zeroq-config")
        theirs["data"]["config.yaml"] += "# theirs\n"
        fake.put("configmaps", theirs)

    monkeypatch.setattr(submitting, "tell", somebody_else)
    code, _, err = zeroq("submit", CONFIG, "learner.lr=5e-7")
    assert code == 1
    assert "was changed meanwhile" in err
    assert fake.get("configmaps", "zeroq-config")["data"]["config.yaml"].endswith("# theirs\n")
    assert restarted(fake) == set()


def test_the_list_of_a_later_submit_is_not_cleared(
    fake: FakeKubernetes, zeroq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = Cluster.patch_workload

    def somebody_else(self: Cluster, *arguments: Any) -> Any:
        theirs = fake.get("configmaps", "zeroq-config")
        theirs["metadata"].setdefault("annotations", {})[PENDING] = "actor"
        fake.put("configmaps", theirs)
        return patch(self, *arguments)

    monkeypatch.setattr(Cluster, "patch_workload", somebody_else)
    assert zeroq("submit", CONFIG, "learner.lr=5e-7")[0] == 0
    assert fake.get("configmaps", "zeroq-config")["metadata"]["annotations"][PENDING] == "actor"


def test_evaluators_of_the_wrong_kind_are_named(fake: FakeKubernetes, zeroq: Run) -> None:
    """Whoever asks is handed groups: pods that cannot start with the new reward would go on with the old one."""
    both = zeroq("submit", CONFIG, "--dry-run")[1]
    assert "note: zeroq-evaluator is to grade, but zeroq-evaluator-models runs, too" in both
    fake.get("deployments", "zeroq-evaluator-models")["spec"]["replicas"] = 0
    assert "is to grade" not in zeroq("submit", CONFIG, "--dry-run")[1]
    role = "autoscaler.evaluator_role=evaluator-models"
    code, out, _ = zeroq("submit", CONFIG, role, "--dry-run")
    assert code == 0
    assert "scale deployment zeroq-evaluator --replicas=0" in out
    del fake.objects["deployments", "zeroq-evaluator-models"]
    code, _, err = zeroq("submit", CONFIG, role)
    assert code == 2
    assert "zeroq-evaluator-models is to grade" in err
    assert not any(asked.verb == "patch" for asked in fake.requests)

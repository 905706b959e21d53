"""`zeroq submit` and `zeroq status --k8s` where the learner is a LeaderWorkerSet (deploy/k8s/leaderworkerset)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from launcher.k8s.client import Cluster
from launcher.k8s.workloads import RESTARTED_AT
from tests.unit.cluster_rig import CONFIG, Run, fake, zeroq
from tests.unit.fake_kubernetes import FakeKubernetes
from tests.unit.manifests import PLAIN, load_all, named

__all__ = ["fake", "zeroq"]  # fixtures

GANG = ("leaderworkersets", "zeroq-learner")


@pytest.fixture
def gang(fake: FakeKubernetes) -> FakeKubernetes:
    """The cluster with a gang in the StatefulSet's place, whose controller has made a StatefulSet for the leader."""
    manifests = load_all((PLAIN / "leaderworkerset" / "component" / "learner.yaml").read_text(encoding="utf-8"))
    body = named(manifests, "LeaderWorkerSet", "zeroq-learner")
    body["metadata"]["generation"] = 1
    body["status"] = {
        "readyReplicas": 1,
        "updatedReplicas": 1,
        "replicas": 1,
        "conditions": [{"type": "Progressing", "status": "False", "reason": "AllGroupsReady"}],
    }
    fake.put("leaderworkersets", body)
    leaders = fake.get("statefulsets", "zeroq-learner")
    owner = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "zeroq-learner"}
    leaders["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    fake.put("statefulsets", leaders)
    return fake


def templates(fake: FakeKubernetes) -> list[dict[str, Any]]:
    group = fake.get(*GANG)["spec"]["leaderWorkerTemplate"]
    return [group["leaderTemplate"], group["workerTemplate"]]


def moments(fake: FakeKubernetes) -> list[str | None]:
    return [t["metadata"].get("annotations", {}).get(RESTARTED_AT) for t in templates(fake)]


def without(template: dict[str, Any]) -> dict[str, Any]:
    """The template without what a restart and another tag change."""
    bare = copy.deepcopy(template)
    bare["metadata"].pop("annotations", None)
    for container in bare["spec"].get("initContainers", []) + bare["spec"]["containers"]:
        container.pop("image")
    return bare


@pytest.mark.parametrize("leaders", [True, False], ids=["made", "not yet made"])
def test_the_whole_gang_restarts(gang: FakeKubernetes, zeroq: Run, leaders: bool) -> None:
    """Not the StatefulSet of its leader, whose changes the controller would undo."""
    if not leaders:
        del gang.objects["statefulsets", "zeroq-learner"]
    before = [copy.deepcopy(t) for t in templates(gang)]
    code, out, err = zeroq("submit", CONFIG, "learner.lr=5e-7")
    assert code == 0, err
    assert "restarts zeroq-learner: learner.lr" in out
    first, second = moments(gang)
    assert first == second is not None
    assert [without(t) for t in templates(gang)] == [without(t) for t in before]
    if leaders:
        template = gang.get("statefulsets", "zeroq-learner")["spec"]["template"]
        assert "annotations" not in template["metadata"]


def test_another_tag_reaches_leader_worker_and_their_init_container(gang: FakeKubernetes, zeroq: Run) -> None:
    for template in templates(gang):
        template["spec"]["containers"].append({"name": "istio-proxy", "image": "mesh/proxy:1"})
    before = [copy.deepcopy(t) for t in templates(gang)]
    assert zeroq("submit", CONFIG, "--image-tag", "0.2.0")[0] == 0
    for template, old in zip(templates(gang), before, strict=True):
        containers = template["spec"].get("initContainers", []) + template["spec"]["containers"]
        assert {c["name"]: c["image"] for c in containers} == {
            **({"prepare": "zeroq/learner:0.2.0"} if "initContainers" in template["spec"] else {}),
            "learner": "zeroq/learner:0.2.0",
            "istio-proxy": "mesh/proxy:1",
        }
        assert without(template) == without(old)  # nothing of a container is lost with its list
    assert not zeroq("submit", CONFIG, "--image-tag", "0.2.0", "--dry-run")[1].count("restarts")


def test_a_gang_that_was_changed_meanwhile_is_left_alone(
    gang: FakeKubernetes, zeroq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its containers are sent whole: those of an older version would undo the other change."""
    patch = Cluster.patch_workload

    def somebody_else(self: Cluster, *arguments: Any) -> Any:
        theirs = gang.get(*GANG)
        theirs["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]["env"] = []
        theirs["metadata"]["generation"] += 1
        gang.put("leaderworkersets", theirs)
        return patch(self, *arguments)

    monkeypatch.setattr(Cluster, "patch_workload", somebody_else)
    code, _, err = zeroq("submit", CONFIG, "learner.lr=5e-7", "--image-tag", "0.2.0")
    assert code == 1
    assert "leaderworkersets zeroq/zeroq-learner: it was changed meanwhile" in err
    monkeypatch.undo()


@pytest.mark.parametrize("tag", [[], ["--image-tag", "0.2.0"]], ids=["restart", "tag"])
def test_a_gang_of_which_only_the_status_changed_is_restarted(
    gang: FakeKubernetes, zeroq: Run, monkeypatch: pytest.MonkeyPatch, tag: list[str]
) -> None:
    """As it does when the broker, which comes first, restarts."""
    patch = Cluster.patch_workload

    def becomes_unready(self: Cluster, *arguments: Any) -> Any:
        theirs = gang.get(*GANG)
        if theirs["status"]["readyReplicas"]:
            theirs["status"]["readyReplicas"] = 0
            gang.put("leaderworkersets", theirs)
        return patch(self, *arguments)

    monkeypatch.setattr(Cluster, "patch_workload", becomes_unready)
    code, _, err = zeroq("submit", CONFIG, "learner.lr=5e-7", *tag)
    assert code == 0, err
    first, second = moments(gang)
    assert first == second is not None
    monkeypatch.undo()


def test_status_counts_the_pods_of_the_gang(gang: FakeKubernetes, zeroq: Run) -> None:
    def row() -> str:
        code, out, err = zeroq("status", "--k8s")
        assert code == 0, err
        (line,) = [line for line in out.splitlines() if line.startswith("│ learner ")]
        return line

    size = gang.get(*GANG)["spec"]["leaderWorkerTemplate"]["size"]
    assert size == 2
    assert f"{size}/{size}" in row()
    assert "AllGroupsReady" not in row()
    assert "not looked at yet" not in row()  # an older controller does not say what it has seen
    there = gang.get(*GANG)
    there["status"] = {"readyReplicas": 0, "observedGeneration": 1, "conditions": []}
    assert f"0/{size}" in row()
    there["metadata"]["generation"] = 2
    assert "not looked at yet" in row()
    message = "rolling update is in progress"
    there["status"] |= {
        "observedGeneration": 2,
        "conditions": [{"type": "UpdateInProgress", "status": "True", "message": message}],
    }
    assert message in row()


def test_the_missing_right_to_look_at_a_gang_is_named(gang: FakeKubernetes, zeroq: Run) -> None:
    gang.rules = [
        {"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["get", "list", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "patch"]},
    ]
    code, _, err = zeroq("submit", CONFIG, "learner.lr=5e-7")
    assert code == 2
    assert 'apiGroups: ["leaderworkerset.x-k8s.io"], resources: [leaderworkersets]' in err
    assert moments(gang) == [None, None]


def test_a_statefulset_of_another_owner_is_the_learner(gang: FakeKubernetes, zeroq: Run) -> None:
    """And the gang of that name is somebody else's."""
    leaders = gang.get("statefulsets", "zeroq-learner")
    leaders["metadata"]["ownerReferences"][0]["kind"] = "Application"
    gang.put("statefulsets", leaders)
    assert zeroq("submit", CONFIG, "learner.lr=5e-7")[0] == 0
    assert RESTARTED_AT in gang.get("statefulsets", "zeroq-learner")["spec"]["template"]["metadata"]["annotations"]
    assert moments(gang) == [None, None]


def test_who_may_not_look_for_a_gang_hears_of_the_statefulset(fake: FakeKubernetes, zeroq: Run) -> None:
    """A server says 403, not 404, of a kind that it does not even have."""
    del fake.objects["statefulsets", "zeroq-learner"]
    fake.rules = [
        {"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["get", "list", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "patch"]},
    ]
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.startswith("│ learner ")]
    assert "missing; kubectl apply" in row
    code, _, err = zeroq("submit", CONFIG)
    assert code == 2
    assert "statefulsets zeroq/zeroq-learner does not exist" in err
    assert "resources: [leaderworkersets]" in err


def test_without_either_the_statefulset_is_what_is_missing(fake: FakeKubernetes, zeroq: Run) -> None:
    del fake.objects["statefulsets", "zeroq-learner"]
    code, _, err = zeroq("submit", CONFIG)
    assert code == 2
    assert "statefulsets zeroq/zeroq-learner does not exist" in err

"""The autoscaler on Kubernetes, against an API server that keeps objects and does wrong on demand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import RunConfig
from common.errors import BrokerUnavailable, UserError
from common.lifecycle import StopFlag
from launcher.autoscaler.election import DURATION_S, RETRY_S
from launcher.autoscaler.kubernetes import KubernetesPool, deployments
from launcher.autoscaler.loop import Rounds, make_rounds
from launcher.k8s.client import Cluster, connect
from launcher.k8s.errors import Conflict, Forbidden, Missing, Unavailable
from tests.unit.autoscaler_inputs import make_config, status
from tests.unit.fake_kubernetes import COST, CUT, Asked, FakeKubernetes, Fault

RBAC = Path(__file__).parents[2] / "deploy" / "k8s" / "04-rbac.yaml"
DOCS = Path(__file__).parents[2] / "docs" / "autoscaling.md"


def role_rules() -> list[dict[str, Any]]:
    """The autoscaler's Role in the manifests."""
    documents = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    (role,) = [d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "zeroq-autoscaler"]
    return list(role["rules"])


@pytest.fixture
def fake() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(rules=role_rules()) as server:
        server.add_deployment("zeroq-actor", 1, "actor")
        server.add_deployment("zeroq-evaluator", 2, "evaluator")
        server.add_lease()
        yield server


@pytest.fixture
def cluster(fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    with connect(patience_s=0.0) as connection:
        yield connection


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A broker that says what it is told to say."""

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = status()
        self.drained: list[tuple[list[str], float]] = []

    def status(self) -> dict[str, Any]:
        if self.report is None:
            raise BrokerUnavailable("the broker is away")
        return self.report

    def drain(self, role: str, names: list[str], for_s: float) -> None:
        self.drained.append((names, for_s))


class Rig:
    """An autoscaler, its broker and its clock."""

    def __init__(self, cluster: Cluster, name: str = "a", clock: Clock | None = None, **config: Any) -> None:
        self.source, self.clock = Source(), clock or Clock()
        self.rounds: Rounds = make_rounds(
            make_config(**config), cluster, self.source, name, dry_run=False, clock=self.clock
        )

    def round(self, num: int = 1) -> None:
        for _ in range(num):
            self.rounds.round()
            self.clock.now += 1.0

    def busy(self) -> None:
        """Backlog for 4 evaluators."""
        self.source.report = status(queues__grade=40, service__grade__running_s=4.0)

    def idle(self, **held: int) -> None:
        peers = [{"name": name.replace("_", "-"), "leases": n} for name, n in held.items()]
        self.source.report = status(service__grade__leases=1, service__grade__seconds=4.0, peers=peers)


# ------------------------------------------------------------------ the pool


def test_fleet_is_read(fake: FakeKubernetes, cluster: Cluster) -> None:
    pool = KubernetesPool(cluster, deployments(make_config()))
    first, second = fake.pods("evaluator")
    fleet = pool.fleet("evaluator")
    assert (fleet.wanted, fleet.ready, fleet.members) == (2, 2, (first, second))
    fake.set_ready(first, False)
    fleet = pool.fleet("evaluator")
    assert (fleet.ready, fleet.members) == (1, (second, first))
    fake.get("pods", second)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pool.fleet("evaluator").members == (first,)
    fake.set_replicas("zeroq-evaluator", 0)
    assert pool.fleet("evaluator").wanted == 0


def test_exactly_those_that_were_chosen_go(fake: FakeKubernetes, cluster: Cluster) -> None:
    fake.set_replicas("zeroq-evaluator", 5)
    pool = KubernetesPool(cluster, deployments(make_config()))
    pods = list(pool.fleet("evaluator").members)
    pool.scale("evaluator", 3, [pods[0], pods[3]])
    assert fake.pods("evaluator") == [pods[1], pods[2], pods[4]]


def test_a_pod_that_is_gone_already_does_no_harm(fake: FakeKubernetes, cluster: Cluster) -> None:
    pool = KubernetesPool(cluster, deployments(make_config()))
    pool.fleet("evaluator")
    pool.scale("evaluator", 1, ["long-gone"])
    assert fake.replicas("zeroq-evaluator") == 1


def test_a_scale_that_somebody_else_changed_is_left_alone(fake: FakeKubernetes, cluster: Cluster) -> None:
    pool = KubernetesPool(cluster, deployments(make_config()))
    pool.fleet("evaluator")
    fake.set_replicas("zeroq-evaluator", 7)
    with pytest.raises(Conflict):
        pool.scale("evaluator", 1, [])
    assert fake.replicas("zeroq-evaluator") == 7


def test_marks_of_a_change_that_failed_do_not_remain(fake: FakeKubernetes, cluster: Cluster) -> None:
    fake.set_replicas("zeroq-evaluator", 3)
    pool = KubernetesPool(cluster, deployments(make_config()))
    first, second, third = pool.fleet("evaluator").members
    fake.faults.append(Fault(409, "PATCH", "/scale"))
    with pytest.raises(Conflict):
        pool.scale("evaluator", 2, [first])
    pool.fleet("evaluator")
    pool.scale("evaluator", 2, [second])
    assert fake.pods("evaluator") == [first, third]
    pool.fleet("evaluator")
    pool.scale("evaluator", 1, [third])
    assert fake.pods("evaluator") == [first]


def test_rewards_by_models_are_graded_elsewhere() -> None:
    models = {"components": [{"name": "m", "kind": "reward_model", "model": "/m"}]}
    config = RunConfig.model_validate({"model": "tiny", "data": {"train": "x"}, "reward": models})
    assert deployments(config)["evaluator"] == "zeroq-evaluator-models"
    assert deployments(make_config())["evaluator"] == "zeroq-evaluator"


# ------------------------------------------------------------------ rights


def test_the_role_in_the_docs_is_the_one_in_the_manifests() -> None:
    text = DOCS.read_text(encoding="utf-8")
    begin = text.index("    rules:")
    block = text[begin : text.index("\n\n", begin)]
    assert yaml.safe_load(block)["rules"] == role_rules()


def test_the_role_allows_all_that_is_asked_and_no_more(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.busy()
    rig.round(5)
    rig.idle()
    rig.round(10)
    assert fake.replicas("zeroq-evaluator") == 1
    models = make_config()
    KubernetesPool(cluster, {"evaluator": "zeroq-evaluator-models"})
    assert models.reward.components  # its Deployment's name is in the rules, too: see deployments()
    used = {(asked.verb, asked.resource) for asked in fake.requests}
    allowed = {(verb, resource) for rule in role_rules() for resource in rule["resources"] for verb in rule["verbs"]}
    assert used == allowed
    assert Asked("get", "apps", "deployments/scale", "zeroq-actor") in fake.requests


def test_a_missing_right_is_named(fake: FakeKubernetes, cluster: Cluster) -> None:
    fake.rules = []
    pool = KubernetesPool(cluster, deployments(make_config()))
    with pytest.raises(Forbidden) as error:
        pool.fleet("evaluator")
    assert (
        'needs the rule {apiGroups: ["apps"], resources: [deployments/scale], resourceNames: [zeroq-evaluator], '
        "verbs: [get]}" in str(error.value)
    )
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ the whole


def test_scales_up_and_down_again(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.busy()
    rig.round(3)
    assert fake.replicas("zeroq-evaluator") == 4
    busy_pod, *others = fake.pods("evaluator")
    rig.idle(**{busy_pod.replace("-", "_"): 2, others[0].replace("-", "_"): 1})
    rig.round(7)
    assert [sorted(names) for names, _ in rig.source.drained] == [sorted(others)]
    assert fake.replicas("zeroq-evaluator") == 4  # one of them still holds a lease
    rig.idle(**{busy_pod.replace("-", "_"): 2})
    rig.round()
    assert fake.pods("evaluator") == [busy_pod]
    assert fake.replicas("zeroq-actor") == 1


def test_deletion_cost_is_set_on_those_that_go_alone(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.idle()
    seen: list[str] = []
    fake.on_scale = lambda name, replicas: None
    costs = fake._reconcile

    def look(workload: dict[str, Any]) -> None:
        pods = [fake.get("pods", name) for name in fake.pods("evaluator")]
        seen.extend(p["metadata"]["name"] for p in pods if COST in (p["metadata"].get("annotations") or {}))
        costs(workload)

    fake._reconcile = look  # type: ignore[method-assign]
    oldest, youngest = fake.pods("evaluator")
    rig.round(9)
    assert seen == [youngest]
    assert fake.pods("evaluator") == [oldest]


def test_one_acts_and_the_other_takes_over(fake: FakeKubernetes, cluster: Cluster) -> None:
    clock = Clock()
    a, b = Rig(cluster, "a", clock), Rig(cluster, "b", clock)
    for rig in (a, b):
        rig.busy()
    for _ in range(2):
        a.rounds.round()
        b.rounds.round()
        clock.now += 1.0
    assert fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"] == "a"
    assert fake.replicas("zeroq-evaluator") == 2
    for _ in range(round(DURATION_S + 2 * RETRY_S) + 4):  # a is gone; b needs its own waiting time, too
        b.rounds.round()
        clock.now += 1.0
    assert fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"] == "b"
    assert fake.replicas("zeroq-evaluator") == 4


def test_a_stop_leaves_the_lease_free(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig, stop = Rig(cluster), StopFlag()
    rig.rounds.serve(stop, beat=stop.set)
    assert fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(409, "PATCH", "/scale"), "changed meanwhile"),
        (Fault(429, "GET", "/scale", headers={"Retry-After": "4"}), "answers 429"),
        (Fault(500, "GET", "pods"), "answers 500"),
        (Fault(403, "PATCH", "/scale"), "needs the rule"),
        (Fault(404, "GET", "zeroq-evaluator/scale"), "does not exist"),
        (Fault(0, "GET", "/scale"), "does not answer"),
        (Fault(429, "GET", "leases"), "answers 429"),
        (Fault(0, "PUT", "leases"), "does not answer"),
        (Fault(500, "PATCH", "/scale"), "answers 500"),
        (Fault(CUT, "GET", "pods"), "is cut off"),
        (Fault(CUT, "PUT", "leases"), "is cut off"),
    ],
)
def test_a_fault_costs_rounds_and_nothing_else(
    fake: FakeKubernetes, cluster: Cluster, caplog: pytest.LogCaptureFixture, fault: Fault, says: str
) -> None:
    rig = Rig(cluster)
    rig.busy()
    fake.faults.append(fault)
    with caplog.at_level(logging.INFO):
        rig.round(20)
    assert fault.times == 0
    assert fake.replicas("zeroq-evaluator") == 4
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert says in warnings[0]
    assert "\n" not in warnings[0]


def test_a_lasting_fault_is_tried_ever_more_slowly_and_said_once(
    fake: FakeKubernetes, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(cluster)
    rig.busy()
    fake.faults.append(Fault(403, "GET", "zeroq-evaluator/scale", times=1000))
    with caplog.at_level(logging.WARNING):
        rig.round(120)
    assert 1000 - fake.faults[0].times <= 9  # 1, 2, 4, 8, 16, 30, 30, ... seconds apart
    assert len(caplog.records) == 1
    assert fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"] == "a"  # it leads all the same
    fake.faults.clear()
    rig.round(40)
    assert fake.replicas("zeroq-evaluator") == 4


def test_the_servers_wish_to_wait_is_met(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.busy()
    fault = Fault(429, "GET", "/scale", times=2, headers={"Retry-After": "10"})
    fake.faults.append(fault)
    rig.round(10)
    assert fault.times == 1
    rig.round(1)
    assert fault.times == 0


def test_a_broker_that_is_away_changes_nothing(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.source.report = None
    rig.round(60)
    assert fake.replicas("zeroq-evaluator") == 2
    assert not any(asked.verb == "patch" for asked in fake.requests)
    rig.busy()
    rig.round(40)
    assert fake.replicas("zeroq-evaluator") == 4


def test_who_lost_the_lease_does_not_act(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.busy()
    rig.round(2)
    fake.faults.append(Fault(0, path="leases", times=1000))
    rig.clock.now += 20.0
    rig.round(30)
    assert fake.replicas("zeroq-evaluator") == 2


def test_objects_that_are_missing_are_named(fake: FakeKubernetes, cluster: Cluster) -> None:
    del fake.objects["leases", "zeroq-autoscaler"]
    with pytest.raises(Missing, match=r"leases zeroq/zeroq-autoscaler does not exist.*kubectl apply -f deploy/k8s"):
        cluster.lease("zeroq-autoscaler")


def test_an_api_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        config = tmp_path / "kubeconfig"
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    with (
        connect(patience_s=0.0) as cluster,
        pytest.raises(Unavailable, match="the API server does not answer") as error,
    ):
        cluster.scale("zeroq-actor")
    assert "Connection refused" in str(error.value)


def test_outside_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="cannot use this pod's service account: Service host/port is not set") as error:
        connect(in_cluster=True)
    assert "\n" not in str(error.value)

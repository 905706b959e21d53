"""What an autoscaler does when others act beside it, its Lease runs out, or a part of the cluster is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from common.config import RunConfig
from common.messages import Drain, WorkRole
from launcher.autoscaler.kubernetes import KubernetesPool, deployments
from launcher.autoscaler.loop import make_rounds
from launcher.autoscaler.scaler import Autoscaler
from launcher.k8s.client import Cluster
from launcher.k8s.errors import Conflict
from tests.unit.autoscaler_inputs import MemoryPool, make_config, status
from tests.unit.fake_kubernetes import FakeKubernetes, Fault
from tests.unit.test_autoscaler_kubernetes import Rig, cluster, fake
from tests.unit.test_autoscaler_scaler import Rig as MemoryRig

__all__ = ["cluster", "fake"]  # fixtures


# ------------------------------------------------------------------ somebody else's hand


def test_a_number_that_somebody_set_during_a_drain_is_kept(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.idle()
    rig.round(7)
    assert rig.source.drained
    assert fake.replicas("zeroq-evaluator") == 2
    fake.set_replicas("zeroq-evaluator", 6)  # between two looks
    rig.round()
    assert fake.replicas("zeroq-evaluator") == 6
    assert rig.source.drained[-1][1] == 0.0  # called off
    rig.round(4)
    assert fake.replicas("zeroq-evaluator") == 6


def test_a_second_scaler_is_noticed(fake: FakeKubernetes, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(cluster)
    rig.busy()
    rig.round(8)
    assert fake.replicas("zeroq-evaluator") == 4
    assert "somebody else" not in caplog.text  # what it did itself, and what there was before, is no other's
    fake.set_replicas("zeroq-evaluator", 3)
    rig.round(3)
    assert "evaluators: somebody else set their number to 3 (an HPA, KEDA, kubectl scale?)" in caplog.text
    assert caplog.text.count("somebody else") == 1


# ------------------------------------------------------------------ the Lease


def test_a_lease_that_runs_out_between_two_requests_ends_the_change(fake: FakeKubernetes, cluster: Cluster) -> None:
    fake.set_replicas("zeroq-evaluator", 4)
    leads = iter([True, True, False])
    pool = KubernetesPool(cluster, deployments(make_config()), lambda: next(leads))
    members = pool.fleet("evaluator").members
    with pytest.raises(Conflict, match="another autoscaler may act"):
        pool.scale("evaluator", 1, members[1:])
    assert fake.replicas("zeroq-evaluator") == 4
    assert [asked.resource for asked in fake.requests if asked.verb == "patch"] == ["pods", "pods"]


def test_a_leader_without_a_broker_makes_way(fake: FakeKubernetes, cluster: Cluster) -> None:
    a, b = Rig(cluster, "a"), Rig(cluster, "b")
    b.clock = a.clock
    b.rounds = make_rounds(make_config(), cluster, b.source, "b", dry_run=False, clock=a.clock)
    a.source.report = None
    b.busy()
    a.rounds.round()
    for _ in range(120):
        a.rounds.round()
        b.rounds.round()
        a.clock.now += 1.0
    assert fake.get("leases", "zeroq-autoscaler")["spec"]["holderIdentity"] == "b"
    assert fake.replicas("zeroq-evaluator") == 4


def test_who_may_not_act_does_not_even_drain() -> None:
    rig = MemoryRig(3, may_act=lambda: False)
    rig.idle(10)
    assert rig.drained == []


# ------------------------------------------------------------------ one role's trouble


@pytest.mark.parametrize("fault", [404, 403, 409, 422, 500])
def test_one_roles_trouble_is_not_the_others(fake: FakeKubernetes, cluster: Cluster, fault: int) -> None:
    fake.faults.append(Fault(fault, "", "zeroq-evaluator/scale", times=1000))
    fake.set_replicas("zeroq-actor", 0)
    rig = Rig(cluster)
    rig.round(2)
    assert fake.replicas("zeroq-actor") == 1  # its floor
    fake.set_replicas("zeroq-actor", 4)
    for at in range(120):  # it goes on looking, every second: a publish's worth waits for the learner
        rig.source.report = status(queues__ready_train=16, staleness__groups=at, counters__groups_generated=at)
        rig.round()
    assert fake.replicas("zeroq-actor") < 4


def test_who_cannot_be_let_go_does_not_keep_others_away(fake: FakeKubernetes, cluster: Cluster) -> None:
    fault = Fault(403, "PATCH", "/pods/", times=1000)
    fake.faults.append(fault)
    rig = Rig(cluster)
    rig.idle()
    rig.round(12)
    assert fault.times < 999  # it has tried, and tried again
    assert fake.replicas("zeroq-evaluator") == 2
    rig.busy()
    rig.round(10)
    assert fake.replicas("zeroq-evaluator") == 4
    rig.idle()
    before = len(rig.source.drained)
    rig.round(110)
    begun, called_off = rig.source.drained[before : before + 2]
    assert called_off == (begun[0], 0.0)  # given up: those that were drained work again


# ------------------------------------------------------------------ very many


def test_a_fleet_far_above_the_ceiling_goes_in_steps(fake: FakeKubernetes, cluster: Cluster) -> None:
    """A Drain takes 128 names: more of them used to end the process."""
    fake.set_replicas("zeroq-evaluator", 200)
    rig, sizes = Rig(cluster), []
    drain = rig.source.drain

    def checked(role: WorkRole, names: list[str], for_s: float) -> None:
        Drain(role=role, names=names, for_s=for_s)
        drain(role, names, for_s)

    rig.rounds = make_rounds(make_config(), cluster, _with(rig.source, checked), "a", dry_run=False, clock=rig.clock)
    for _ in range(12):
        rig.round()
        sizes.append(fake.replicas("zeroq-evaluator"))
    assert sorted(set(sizes), reverse=True) == [200, 150, 100, 50, 8]
    assert all(for_s > 0 for _, for_s in rig.source.drained)  # none was called off on the way


def test_a_step_towards_the_ceiling_may_take_its_time() -> None:
    rig = MemoryRig(200)
    rig.idle(20, **{f"evaluator_{i}": 1 for i in range(200)})
    (only,) = rig.drained
    assert len(only[0]) == 50
    assert rig.pool.calls == []
    rig.idle(1)
    assert [call[:2] for call in rig.pool.calls] == [("evaluator", 150)]


def _with(source: Any, drain: Any) -> Any:
    source.drain = drain
    return source


# ------------------------------------------------------------------ drains that the broker does not know of


class ForgetfulBroker:
    """Holds drains, until it restarts."""

    def __init__(self, pool: MemoryPool) -> None:
        self.draining: dict[str, float] = {}
        self.held = {"evaluator-0": 3, "evaluator-1": 1}
        self.heard: list[tuple[list[str], float]] = []
        self.hears = True
        self.autoscaler = Autoscaler(make_config(), pool, self.drain, roles=("evaluator",))

    def drain(self, role: str, names: Sequence[str], for_s: float) -> None:
        self.heard.append((list(names), for_s))
        if self.hears:
            self.draining |= dict.fromkeys(names, for_s)

    def step(self, at: float) -> None:
        peers = [{"name": name, "leases": num} for name, num in self.held.items()]
        graded = {"service__grade__leases": 1, "service__grade__seconds": 4.0}
        self.autoscaler.step(at, {**status(peers=peers, **graded), "draining": dict(self.draining)})


def test_a_broker_that_forgot_a_drain_is_told_again() -> None:
    pool = MemoryPool(evaluator=2)
    broker = ForgetfulBroker(pool)
    for at in range(8):
        broker.step(float(at))
    assert broker.heard == [(["evaluator-1"], 90.0)]
    broker.draining, broker.held = {}, {}  # it restarted: nobody holds a lease, and nobody is drained
    broker.step(8.0)
    assert broker.heard[1:] == [(["evaluator-1"], 60.0 - 2.0 + 30.0)]
    assert pool.calls == []  # it may have been given a lease meanwhile
    broker.step(9.0)
    assert pool.calls == [("evaluator", 1, ("evaluator-1",))]


def test_a_broker_that_cannot_be_told_does_not_keep_a_process_for_ever() -> None:
    pool = MemoryPool(evaluator=2)
    broker = ForgetfulBroker(pool)
    broker.hears = False
    for at in range(70):
        broker.step(float(at))
    assert pool.calls == [("evaluator", 1, ("evaluator-1",))]


# ------------------------------------------------------------------ dry run, and which evaluators


def test_a_dry_run_sends_nothing_that_changes_anything(fake: FakeKubernetes, cluster: Cluster) -> None:
    rig = Rig(cluster)
    rig.rounds = make_rounds(make_config(), cluster, rig.source, "a", dry_run=True, clock=rig.clock)
    before = {key: value.copy() for key, value in fake.objects.items()}
    rig.busy()
    rig.round(10)
    rig.idle()
    rig.round(10)
    fake.set_replicas("zeroq-evaluator", 20)
    rig.round(3)
    fake.set_replicas("zeroq-evaluator", 2)
    assert {asked.verb for asked in fake.requests} == {"get", "list"}
    assert rig.source.drained == []
    assert fake.objects["leases", "zeroq-autoscaler"] == before["leases", "zeroq-autoscaler"]


def test_a_judge_behind_a_function_is_told_by_configuration() -> None:
    tree = make_config().model_dump(mode="json")
    tree["reward"]["components"] = [{"name": "judge", "kind": "function", "function": "judges:score"}]
    assert deployments(RunConfig.model_validate(tree))["evaluator"] == "zeroq-evaluator"
    tree["autoscaler"]["evaluator_role"] = "evaluator-models"
    assert deployments(RunConfig.model_validate(tree))["evaluator"] == "zeroq-evaluator-models"


def test_one_actor_key_does_not_make_evaluators_of_actors() -> None:
    """`autoscaler.actors.max=16` alone used to bring the evaluators' pace with it."""
    tree = make_config().model_dump(mode="json")
    tree["autoscaler"] = {"actors": {"max": 16}}
    actors = RunConfig.model_validate(tree).autoscaler.actors
    assert (actors.max, actors.max_step, actors.scale_up_after_s, actors.scale_down_after_s) == (16, 1, 30.0, 300.0)


def test_an_api_server_that_is_away_is_asked_ever_more_seldom(
    fake: FakeKubernetes, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="launcher.autoscaler.loop")
    rig = Rig(cluster)
    fake.faults.append(Fault(500, path="leases", times=1000))
    rig.round(60)
    assert 1000 - fake.faults[0].times <= 9  # pauses of 1, 2, 4, ... 30 s
    assert "works again" not in caplog.text  # a round in which nothing was due proves nothing
    assert caplog.text.count("500") == 1
    fake.faults.clear()
    rig.round(40)
    assert caplog.text.count("Lease: works again after") == 1

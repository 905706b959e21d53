"""Random orders of everything that can happen to the broker, the validator after every event, and nothing lost.

`BrokerMachine` draws policies, restarts, duplicates, lies and lapses at random. `test_pace_...` simulates a learner
that publishes after exactly the groups it owes: `pace` then keeps every token within eta, without a standstill.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from broker_harness import VOCAB, Harness, group_frames, make_config
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from broker.records import Reply
from common import messages as m

ACTORS = ("actor1", "actor2", "actor3")
EVALUATORS = ("evaluator1", "evaluator2")
pick = st.integers(0, 10**6)


class BrokerMachine(RuleBasedStateMachine):
    """Peers that do anything at any time. What the broker said is remembered and held against it."""

    @initialize(
        policy=st.sampled_from(["mask", "drop", "pace"]),
        eta=st.integers(0, 3),
        groups=st.integers(1, 3),
        tries=st.integers(1, 3),
    )
    def start(self, policy: str, eta: int, groups: int, tries: int) -> None:
        config = make_config(
            groups_per_step=groups, max_staleness=eta, staleness_policy=policy, broker={"max_attempts": tries}
        )
        self.h = Harness(config)
        self.eta = eta
        self.num = 0
        self.restarts = 0
        self.strangers: set[str] = set()
        self.known: list[str] = []
        self.leases: list[tuple[str, m.Lease]] = []
        self.accepted: dict[str, Any] = {}
        self.held: dict[str, m.Purpose] = {}
        self.trained: dict[str, int] = {}
        self.version_taken: dict[str, int] = {}

    # -- helpers

    @property
    def version(self) -> int:
        return int(self.h.state.core.version)

    def collect(self, reply: Reply | None = None) -> None:
        """Note leases and groups that came, at once or later."""
        for item in [*([] if reply is None else [reply]), *self.h.mail]:
            if isinstance(item.header, m.Lease):
                self.leases.append((item.peer.decode(), item.header))
            elif isinstance(item.header, m.Group):
                task_id = item.header.task_id
                assert self.trained.get(task_id, 10**9) > self.version or item.header.purpose == "eval", "trained twice"
                assert task_id not in self.held, "handed out twice"
                assert len(item.header.verdicts) == len(item.header.rollouts) == 2
                self.held[task_id] = item.header.purpose
                self.version_taken[task_id] = self.version
        self.h.mail.clear()

    def some_lease(self, n: int, kind: str) -> tuple[str, m.Lease] | None:
        leases = [item for item in self.leases if item[1].kind == kind]
        return leases[n % len(leases)] if leases else None

    def versions(self, n: int, lease: m.Lease) -> list[int]:
        """Six token versions that begin where some actor might have begun."""
        low = max(0, self.version - n % 4)
        return [min(self.version + 1, low + (n >> i) % 2 * (i % 3 > 1)) for i in range(6)]

    # -- the learner

    @rule(purpose=st.sampled_from(["train", "train", "train", "eval"]))
    def add(self, purpose: m.Purpose) -> None:
        self.num += 1
        answer = self.h.add(f"{purpose}{self.num}", purpose)
        if isinstance(answer, m.Ack):
            assert not answer.duplicate
            self.known.append(f"{purpose}{self.num}")
        else:
            assert answer.code == "no_credit"
        self.collect()

    @precondition(lambda self: self.known)
    @rule(n=pick)
    def add_again(self, n: int) -> None:
        task_id = self.known[n % len(self.known)]
        answer = self.h.add(task_id, "eval" if task_id.startswith("eval") else "train")
        assert isinstance(answer, m.Ack) or answer.code == "no_credit"  # a restart may have made room for it
        self.collect()

    @rule(purpose=st.sampled_from(["train", "eval"]), wait_s=st.sampled_from([0.0, 5.0]))
    def take(self, purpose: m.Purpose, wait_s: float) -> None:
        self.collect(self.h.take(purpose, wait_s=wait_s))

    @precondition(lambda self: self.held)
    @rule(n=pick, outcome=st.sampled_from(["trained", "trained", "retry"]), twice=st.booleans())
    def release(self, n: int, outcome: str, twice: bool) -> None:
        task_id = sorted(self.held)[n % len(self.held)]
        request_id = next(self.h.ids)
        assert not self.h.release(task_id, outcome=outcome, request_id=request_id).duplicate
        if twice:
            assert self.h.release(task_id, outcome=outcome, request_id=request_id).duplicate
        purpose = self.held.pop(task_id)
        if outcome == "trained" and purpose == "train":
            self.trained[task_id] = self.version_taken[task_id] + 1
        self.collect()

    @rule(again=st.booleans())
    def publish(self, again: bool) -> None:
        version = self.version + (not again)
        assert self.h.publish(version).status["version"] == version
        self.collect()

    @precondition(lambda self: self.num > 3)
    @rule(back=st.integers(0, 2))
    def restart(self, back: int) -> None:
        self.restarts += 1
        version = max(0, self.version - back)
        if version < self.version:
            peers = self.h.state.core.peers
            self.strangers = {name for name in ACTORS if peers.knows("actor", f"{name}-inc")}
        self.h.learner = f"learner-{self.restarts}".encode()
        header = m.Hello(
            role="learner", name="learner", incarnation=f"inc{self.restarts}", vocab_size=VOCAB, version=version
        )
        assert self.h.ask(self.h.learner, "learner", header).version == version
        self.held.clear()
        self.trained = {task_id: into for task_id, into in self.trained.items() if into <= version}
        self.collect()

    # -- actors and evaluators

    @rule(name=st.sampled_from(ACTORS))
    def hello(self, name: str) -> None:
        self.h.hello(name)
        self.strangers.discard(name)
        self.collect()

    @rule(name=st.sampled_from(ACTORS), behind=st.integers(-2, 4), wait_s=st.sampled_from([0.0, 3.0]))
    def lease_generate(self, name: str, behind: int, wait_s: float) -> None:
        version = max(0, self.version - behind)
        before = len(self.leases)
        answer = self.h.lease(name, version, wait_s=wait_s)
        if isinstance(answer, m.Lease):
            assert self.version - self.eta <= version <= self.version + 1, "a stale actor samples"
            assert name not in self.strangers, "an actor samples with weights of a history that is gone"
            self.leases.append((name, answer))
        elif isinstance(answer, m.Refused):
            assert answer.code == "version"
        self.collect()
        assert len(self.leases) <= before + 1

    @rule(name=st.sampled_from(EVALUATORS), wait_s=st.sampled_from([0.0, 3.0]))
    def lease_grade(self, name: str, wait_s: float) -> None:
        answer = self.h.lease(name, wait_s=wait_s)
        if isinstance(answer, m.Lease):
            self.leases.append((name, answer))
        self.collect()

    @rule(n=pick, v=pick)
    def submit(self, n: int, v: int) -> None:
        """Any lease ever seen, running or not, once or again."""
        item = self.some_lease(n, "generate")
        if item is not None:
            self.judge(item, self.h.submit(item[0], item[1], self.versions(v, item[1])))

    @rule(n=pick)
    def grade(self, n: int) -> None:
        item = self.some_lease(n, "grade")
        if item is not None:
            self.judge(item, self.h.grade(item[0], item[1]))

    def judge(self, item: tuple[str, m.Lease], answer: Any) -> None:
        """An accepted submit stays accepted, as a duplicate; a refused one is never accepted later."""
        lease_id = item[1].lease_id
        if lease_id in self.accepted:
            first = self.accepted[lease_id]
            assert isinstance(answer, m.Ack) == isinstance(first, m.Ack)
            assert not isinstance(answer, m.Ack) or answer.duplicate
        else:
            self.accepted[lease_id] = answer
        self.collect()

    @rule(n=pick, token=st.integers(0, 50), kind=st.sampled_from(["generate", "grade"]))
    def forge(self, n: int, token: int, kind: str) -> None:
        item = self.some_lease(n, kind)
        if item is None or item[1].token == token:
            return
        act = self.h.submit if kind == "generate" else self.h.grade
        before = self.h.status()["leases"]
        assert act(*item, token=token).code == "lease_lost"  # type: ignore[arg-type]
        assert self.h.status()["leases"] == before

    @rule(n=pick)
    def submit_garbage(self, n: int) -> None:
        item = self.some_lease(n, "generate")
        if item is not None:
            frames = group_frames([3, 3], 0, b"abab")
            frames["logprobs"][n % 6] = 1.0  # type: ignore[index]
            answer = self.h.submit(*item, frames=frames)
            assert isinstance(answer, m.Refused) or answer.duplicate
            self.accepted.setdefault(item[1].lease_id, answer)
            self.collect()

    @rule(n=pick, progress=st.integers(0, 5), kind=st.sampled_from(["generate", "grade"]))
    def renew(self, n: int, progress: int, kind: str) -> None:
        item = self.some_lease(n, kind)
        if item is not None:
            self.h.renew(*item, progress)
            self.collect()

    @rule(n=pick, failed=st.booleans(), kind=st.sampled_from(["generate", "grade"]))
    def give_back(self, n: int, failed: bool, kind: str) -> None:
        item = self.some_lease(n, kind)
        if item is not None and isinstance(self.h.give_back(*item, failed=failed), m.Ack):
            self.accepted.setdefault(item[1].lease_id, m.Refused(code="lease_lost", detail="returned"))
        self.collect()

    @rule(n=pick)
    def undelivered(self, n: int) -> None:
        item = self.some_lease(n, "generate")
        if item is not None:
            reply = Reply(item[0].encode(), "actor", item[1])
            self.h.mail += self.h.state.undelivered(reply, self.h.now)
            self.h._check()
            self.collect()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.h.advance(seconds)
        self.collect()

    def teardown(self) -> None:
        """Everybody behaves from now on: then everything admitted comes to an end."""
        if hasattr(self, "h"):
            self.h.advance(20.0)
            self.collect()
            drain(self.h, set(self.held))


def drain(h: Harness, held: set[str]) -> None:
    """Work until nothing is left; AssertionError with what is stuck if that never happens."""
    core = h.state.core
    h.hello("actor1")
    for _ in range(200):
        if not core.ledger.tasks:
            break
        for task_id in sorted(held):
            h.release(task_id)
        held.clear()
        h.publish(core.version + 1)
        for _ in range(20):
            lease = h.lease("actor1", core.version)
            if not isinstance(lease, m.Lease):
                break
            h.submit("actor1", lease, core.version)
        for _ in range(20):
            lease = h.lease("evaluator1")
            if not isinstance(lease, m.Lease):
                break
            h.grade("evaluator1", lease)
        for purpose in ("train", "eval"):
            while (task_id := h.taken_id(purpose)) is not None:
                held.add(task_id)
    assert not core.ledger.tasks, f"stuck: {core.ledger.tasks}"
    counters = core.ledger.counters
    ended = counters["groups_trained"] + counters["groups_evaluated"] + counters["dead_lettered"]
    assert ended == counters["tasks_admitted"]
    h.publish(core.version + 1)
    assert core.ledger.outstanding("train") == core.ledger.outstanding("eval") == 0


BrokerMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestBrokerMachine = BrokerMachine.TestCase


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("eta", "groups"), [(0, 2), (1, 1), (1, 3), (2, 1), (2, 4), (4, 2)])
def test_pace_keeps_every_token_within_eta_and_never_stands_still(eta: int, groups: int, seed: int) -> None:
    """Heavy-tailed generation times, actors up to eta versions behind, failures: 30 publishes."""
    dice = random.Random(seed)
    h = Harness(make_config(groups_per_step=groups, max_staleness=eta, staleness_policy="pace"))
    running: list[tuple[float, m.Lease, int]] = []
    trained = added = clock = 0
    while h.state.core.version < 30:
        clock += 1
        assert clock < 20_000, f"standstill at {h.status()}"
        h.now += 0.001
        while isinstance(h.add(f"t{added}"), m.Ack):
            added += 1
        version = max(0, h.state.core.version - dice.choice([0, 0, 0, 1, eta]) * (eta > 0))
        lease = h.lease("actor1", version)
        if isinstance(lease, m.Lease):
            running.append((clock + min(60.0, dice.paretovariate(0.8)), lease, version))
        for item in [item for item in running if item[0] <= clock]:
            running.remove(item)
            if dice.random() < 0.1:
                h.give_back("actor1", item[1], failed=False)
            else:
                newest = h.state.core.version
                assert isinstance(h.submit("actor1", item[1], [item[2]] * 3 + [item[2], newest, newest]), m.Ack)
        grading = h.lease("evaluator1")
        if isinstance(grading, m.Lease):
            h.grade("evaluator1", grading)
        group = h.take()
        if group is not None and isinstance(group.header, m.Group):
            staleness = h.state.core.version - int(group.payload["versions"].min())  # type: ignore[union-attr]
            assert staleness <= eta, f"seed {seed}: staleness {staleness}"
            if dice.random() < 0.05:
                h.release(group.header.task_id, outcome="retry")
                continue
            h.release(group.header.task_id)
            trained += 1
            if trained % groups == 0:
                h.publish(h.state.core.version + 1)
    assert h.counters["groups_swept"] == 0

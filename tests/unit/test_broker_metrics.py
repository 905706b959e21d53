"""What the broker's collector says of a state machine in known situations."""

from __future__ import annotations

from typing import Any

import pytest

from broker.metrics import LEARNER_SILENT_S, SILENT_S, BrokerCollector
from common import messages as m
from tests.unit.broker_harness import Harness, make_config


class Scrape:
    """Samples of one scrape, by name and label values."""

    def __init__(self, broker: Harness, **counted: Any) -> None:
        collector = BrokerCollector()
        counted = {"refused": 0, "undeliverable": 0, "auth_failures": {}} | counted
        collector.refresh(broker.state, broker.now, **counted)
        self.samples = {
            (sample.name.removeprefix("zeroq_broker_"), *sample.labels.values()): sample.value
            for family in collector.collect()
            for sample in family.samples
        }

    def __call__(self, name: str, *labels: str) -> float:
        return self.samples[name, *labels]


def test_nothing_is_said_before_the_loop_has_gone_round() -> None:
    assert list(BrokerCollector().collect()) == []


def test_queues_are_measured_in_tasks_bytes_and_seconds() -> None:
    broker = Harness()
    broker.add("a")
    broker.add("b")
    prompt = 3 * 4 + len(b"1+1=") + len(b'{"answer": "2"}')
    assert Scrape(broker)("queue_depth", "generate") == 2
    assert Scrape(broker)("queue_bytes", "generate") == 2 * prompt
    broker.advance(2.0)
    lease = broker.lease("actor0")
    now = Scrape(broker)
    assert now("queue_bytes", "generate") == prompt
    assert now("oldest_waiting_seconds", "generate") == pytest.approx(2.0)
    assert now("queue_wait_seconds_sum", "generate") == pytest.approx(2.0)
    assert now("queue_wait_seconds_count", "generate") == 1
    broker.advance(5.0)
    broker.submit("actor0", lease)
    now = Scrape(broker)
    assert now("queue_bytes", "grade") == prompt + 6 * (4 + 4 + 4) + 4
    assert now("lease_seconds_sum", "generate") == pytest.approx(5.0)
    assert now("queue_wait_seconds_count", "grade") == 0
    broker.advance(3.0)
    broker.grade("evaluator0", broker.lease("evaluator0"))
    now = Scrape(broker)
    assert now("queue_wait_seconds_sum", "grade") == pytest.approx(3.0)
    assert now("queue_bytes", "ready_train") == prompt + 6 * (4 + 4 + 4) + 4
    broker.advance(4.0)
    broker.take()
    assert Scrape(broker)("queue_wait_seconds_sum", "ready_train") == pytest.approx(4.0)
    assert Scrape(broker)("groups_held") == 1


def test_work_that_comes_back_waits_anew_and_without_its_group() -> None:
    broker = Harness()
    broker.add("a")
    before = Scrape(broker)("queue_bytes", "generate")
    broker.submit("actor0", broker.lease("actor0"))
    broker.grade("evaluator0", broker.lease("evaluator0"))
    assert broker.taken_id() == "a"
    broker.release("a", outcome="retry")
    broker.advance(7.0)
    broker.lease("actor0")
    now = Scrape(broker)
    assert now("groups_discarded_total", "retried") == 1
    assert now("queue_wait_seconds_sum", "generate") == pytest.approx(7.0)
    broker.advance(11.0)  # the lease expires
    assert Scrape(broker)("queue_bytes", "generate") == before
    assert Scrape(broker)("leases_ended_total", "generate", "expired") == 1
    assert Scrape(broker)("leases_granted_total", "generate") == 2
    assert Scrape(broker)("attempts_failed_total") == 1
    assert Scrape(broker)("lease_seconds_count", "generate") == 1, "only accepted work counts as service"


def test_groups_are_counted_by_stage() -> None:
    broker = Harness()
    broker.add("a")
    broker.submit("actor0", broker.lease("actor0"))
    broker.grade("evaluator0", broker.lease("evaluator0"))
    assert broker.taken_id() == "a"
    broker.release("a")
    now = Scrape(broker)
    assert [now("groups_total", stage) for stage in ("generated", "graded", "taken", "trained")] == [1, 1, 1, 1]
    assert now("groups_total", "evaluated") == 0
    assert now("tokens_generated_total") == 6
    assert now("group_staleness_publishes_count") == 1
    assert now("tasks_limit", "train") == broker.state.core.ledger.credit_limit


def test_actors_are_told_apart_by_their_weights() -> None:
    broker = Harness(make_config(max_staleness=0))
    broker.hello("actor0", version=0)
    broker.hello("actor1")
    broker.hello("actor2", version=0)
    assert [Scrape(broker)("actors", state) for state in ("current", "stale", "joining")] == [2, 0, 1]
    broker.publish(1)
    broker.hello("actor2", version=1)
    assert [Scrape(broker)("actors", state) for state in ("current", "stale", "joining")] == [1, 1, 1]


def test_peers_that_are_silent_do_not_count() -> None:
    broker = Harness()
    broker.hello("actor0", version=0)
    broker.hello("evaluator0")
    now = Scrape(broker)
    assert [now("peers", role) for role in ("learner", "actor", "evaluator", "monitor")] == [1, 1, 1, 0]
    broker.advance(SILENT_S + 1)
    now = Scrape(broker)
    assert [now("peers", role) for role in ("learner", "actor", "evaluator")] == [1, 0, 0]
    assert now("actors", "current") == 0
    broker.advance(LEARNER_SILENT_S)
    assert Scrape(broker)("peers", "learner") == 0


def test_refusals_and_starts_of_the_learner_are_counted() -> None:
    broker = Harness()
    assert Scrape(broker)("learner_starts_total") == 1
    broker.ask(b"actor0", "actor", m.LeaseWork(kind="generate", version=0))  # without a hello
    broker.ask(b"actor0", "actor", m.Take(purpose="train"))
    broker.hello("learner", incarnation="another", version=0, vocab_size=100)
    now = Scrape(broker, refused=3, undeliverable=4, auth_failures={("actor", "no_key"): 5})
    assert now("requests_refused_total", "unknown_peer") == 1
    assert now("requests_refused_total", "wrong_role") == 1
    assert now("requests_refused_total", "stale") == 0
    assert now("learner_starts_total") == 2
    assert now("messages_undecodable_total") == 3
    assert now("replies_undeliverable_total") == 4
    assert now("auth_failures_total", "actor", "no_key") == 5


def test_a_waiting_actor_refused_after_a_publish_is_counted() -> None:
    broker = Harness(make_config(max_staleness=0))
    broker.hello("actor0", version=0)
    assert broker.lease("actor0", wait_s=30.0) is None
    broker.publish(1)
    assert Scrape(broker)("requests_refused_total", "version") == 1

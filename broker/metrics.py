"""Prometheus metrics of the broker (`zeroq_broker_*`, docs/metrics.md), read from what the loop handed over last.

The exporter runs in a thread of its own, the state machine has none: so the loop hands over finished figures now and
then, and a scrape never walks the state. Histograms are shared: one thread adds to them, and a copy is exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from broker.ledger import MAX_EVAL_TASKS
from broker.records import LeaseOutcome, Peer
from broker.state import State
from common.histogram import Tally, histogram
from common.messages import LeaseKind, RefusalCode, Role

STALENESS_BOUNDS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
ROUND_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
SILENT_S = 60.0
"""Peers not heard of for so long do not count: actors and evaluators speak every few seconds."""
LEARNER_SILENT_S = 900.0
"""A learner says nothing while it trains."""

_STAGES = ("generated", "graded", "taken", "trained", "evaluated")
_DISCARDED = ("swept", "retried", "duplicated")


@dataclass(frozen=True)
class _Snapshot:
    """Figures of one moment."""

    status: dict[str, Any]
    counters: Mapping[str, int]
    queue_bytes: dict[str, int]
    actors: dict[str, int]
    peers: dict[str, int]
    granted: Mapping[LeaseKind, int]
    ended: Mapping[tuple[LeaseKind, LeaseOutcome], int]
    refused: Mapping[RefusalCode, int]
    staleness: Mapping[int, int]
    num_learner_starts: int
    num_undecodable: int
    num_undeliverable: int
    auth_failures: Mapping[tuple[str, str], int]


class BrokerCollector:
    """Collector of one broker process. `refused` and `undeliverable` are counted by the server's loop, which also adds
    the length of each of its rounds to `rounds`."""

    def __init__(self) -> None:
        self.rounds = Tally(ROUND_SECONDS)
        self._snapshot: _Snapshot | None = None
        self._waits: Mapping[str, Tally] = {}
        self._leases: Mapping[str, Tally] = {}

    def refresh(
        self,
        state: State,
        now: float,
        *,
        refused: int,
        undeliverable: int,
        auth_failures: Mapping[tuple[str, str], int],
    ) -> None:
        """Take the figures of `state`; called by the loop's thread. `auth_failures`: by socket and cause."""
        core = state.core
        ledger, leases = core.ledger, core.leases
        peers = [peer for peer in core.peers.recent() if now - peer.last_seen <= _patience_s(peer)]
        oldest = core.version - core.max_staleness
        states = Counter(_actor_state(peer, oldest) for peer in peers if peer.role == "actor")
        self._waits = {str(queue): tally for queue, tally in ledger.queue_wait.items()}
        self._leases = {str(kind): tally for kind, tally in leases.seconds.items()}
        self._snapshot = _Snapshot(
            status=state.status(now),
            counters=dict(ledger.counters),
            queue_bytes={
                name: sum(ledger.tasks[task_id].size_bytes for task_id in task_ids)
                for name, task_ids in ledger.waiting().items()
            },
            actors={name: states[name] for name in ("current", "stale", "joining")},
            peers={role: sum(peer.role == role for peer in peers) for role in get_args(Role)},
            granted=dict(leases.num_granted),
            ended=dict(leases.num_ended),
            refused=dict(core.num_refused),
            staleness=dict(ledger.staleness_taken),
            num_learner_starts=core.num_learner_starts,
            num_undecodable=refused,
            num_undeliverable=undeliverable,
            auth_failures=dict(auth_failures),
        )

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the first snapshot."""
        now = self._snapshot
        if now is None:
            return
        yield from _gauges(now)
        yield from _counters(now)
        yield histogram(_name("queue_wait_seconds"), "Time in a queue before work began.", "queue", self._waits)
        yield histogram(_name("lease_seconds"), "From grant to accepted submit.", "kind", self._leases)
        yield histogram(_name("round_seconds"), "One round of the broker's loop.", "", {"": self.rounds})
        staleness = Tally(STALENESS_BOUNDS)
        for publishes, count in now.staleness.items():
            staleness.add(publishes, count)
        text = "Staleness of the oldest token of train groups when handed out, in publishes."
        yield histogram(_name("group_staleness_publishes"), text, "", {"": staleness})


def _gauges(now: _Snapshot) -> Iterator[Metric]:
    status = now.status
    yield _gauge("queue_depth", "Tasks or groups waiting in a queue.", "queue", status["queues"])
    yield _gauge("queue_bytes", "Payload of what waits in a queue.", "queue", now.queue_bytes)
    outstanding = {"train": status["outstanding_train"], "eval": status["outstanding_eval"]}
    yield _gauge("tasks_outstanding", "Tasks admitted and not finished.", "purpose", outstanding)
    limits = {"train": status["credit_limit"], "eval": MAX_EVAL_TASKS}
    yield _gauge("tasks_limit", "Tasks that may be outstanding.", "purpose", limits)
    yield _gauge("leases_active", "Leases running now.", "kind", status["leases"])
    yield _gauge("waiting_requests", "Long polls waiting for work.", "line", status["waiting"])
    yield _gauge("peers", "Peers heard of lately.", "role", now.peers)
    yield _gauge("actors", "Actors heard of lately, by the weights they hold.", "state", now.actors)
    oldest = "Age of the task that has waited longest for a lease."
    yield _gauge("oldest_waiting_seconds", oldest, "kind", status["oldest_waiting_s"])
    draining = "Processes that get no new leases, because they are to go."
    yield GaugeMetricFamily(_name("peers_draining"), draining, value=len(status["draining"]))
    held = "Groups that the learner took and has not released."
    yield GaugeMetricFamily(_name("groups_held"), held, value=status["taken"])
    version = "Policy version published last."
    yield GaugeMetricFamily(_name("policy_version"), version, value=status["version"])


def _counters(now: _Snapshot) -> Iterator[Metric]:
    counters = now.counters
    for name, text, value in (
        ("tasks_admitted", "Tasks taken in.", counters["tasks_admitted"]),
        ("tasks_dead_lettered", "Tasks given up after too many failed attempts.", counters["dead_lettered"]),
        ("tokens_generated", "Tokens of accepted groups.", counters["tokens_generated"]),
        ("attempts_failed", "Attempts that failed.", counters["attempts_failed"]),
        ("learner_starts", "Incarnations of the learner that registered.", now.num_learner_starts),
        (
            "messages_undecodable",
            "Messages that broke the wire contract or were of another schema version.",
            now.num_undecodable,
        ),
        ("replies_undeliverable", "Replies whose receiver was gone or did not read.", now.num_undeliverable),
    ):
        yield CounterMetricFamily(_name(name), text, value=value)
    stages = {(stage,): counters[f"groups_{stage}"] for stage in _STAGES}
    yield _counter("groups", "Groups by how far they have come.", ["stage"], stages)
    discarded = {(cause,): counters[f"groups_{cause}"] for cause in _DISCARDED}
    discarded["invalid",] = now.ended.get(("generate", "invalid"), 0)
    yield _counter("groups_discarded", "Groups thrown away.", ["cause"], discarded)
    granted = {(kind,): count for kind, count in now.granted.items()}
    yield _counter("leases_granted", "Leases given out.", ["kind"], granted)
    ended = {
        (kind, outcome): now.ended.get((kind, outcome), 0)
        for kind in get_args(LeaseKind)
        for outcome in get_args(LeaseOutcome)
    }
    yield _counter("leases_ended", "Leases by how they ended.", ["kind", "outcome"], ended)
    refused = {(code,): now.refused.get(code, 0) for code in get_args(RefusalCode)}
    yield _counter("requests_refused", "Requests that the state machine refused.", ["code"], refused)
    text = "Connections and messages refused for their key, or for want of one."
    yield _counter("auth_failures", text, ["socket", "cause"], now.auth_failures)
    waiting = {(cause,): seconds for cause, seconds in now.status["learner_waiting_s"].items()}
    text = "Time that the learner waited for train groups, by what kept them."
    yield _counter("learner_waiting_seconds", text, ["cause"], waiting)


def _patience_s(peer: Peer) -> float:
    return LEARNER_SILENT_S if peer.role == "learner" else SILENT_S


def _actor_state(peer: Peer, oldest: int) -> str:
    if peer.version is None:
        return "joining"
    return "current" if peer.version >= oldest else "stale"


def _name(name: str) -> str:
    return f"zeroq_broker_{name}"


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(_name(name), text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
    """`values`: by tuples of labels."""
    family = CounterMetricFamily(_name(name), text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family

"""Prometheus metrics of the broker (`zeroq_broker_*`), read from the last status that the loop published.

The exporter runs in a thread of its own, the state machine has none: so the loop hands over a finished snapshot now and
then, and a scrape never touches the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from broker.state import State

STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16)


class BrokerCollector:
    """Collector of one broker process. `refused` and `undeliverable` are counted by the server's loop."""

    def __init__(self) -> None:
        self._status: dict[str, Any] | None = None
        self._staleness: Counter[int] = Counter()
        self._refused = 0
        self._undeliverable = 0

    def refresh(self, state: State, now: float, *, refused: int, undeliverable: int) -> None:
        """Take a snapshot of `state`; called by the loop's thread."""
        self._refused, self._undeliverable = refused, undeliverable
        self._staleness = Counter(state.core.ledger.staleness_taken)
        self._status = state.status(now)

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the first snapshot."""
        status = self._status
        if status is None:
            return
        yield _labelled("queue_depth", "Tasks or groups waiting in a queue.", "queue", status["queues"])
        yield _labelled("leases_active", "Leases running now.", "kind", status["leases"])
        yield _labelled("waiting_requests", "Long polls waiting for work.", "line", status["waiting"])
        outstanding = {"train": status["outstanding_train"], "eval": status["outstanding_eval"]}
        yield _labelled("tasks_outstanding", "Tasks admitted and not finished.", "purpose", outstanding)
        yield _labelled("peers", "Known peers.", "role", Counter(peer["role"] for peer in status["peers"]))
        for name, key, text in (
            ("credit_limit", "credit_limit", "Train tasks that may be outstanding."),
            ("groups_held", "taken", "Groups that the learner took and has not released."),
            ("policy_version", "version", "Policy version published last."),
            ("uptime_seconds", "uptime_s", "Seconds since the broker started."),
        ):
            yield GaugeMetricFamily(f"zeroq_broker_{name}", text, value=status[key])
        for name, value in status["counters"].items():
            text = f"{name.replace('_', ' ').capitalize()} since the broker started."
            yield CounterMetricFamily(f"zeroq_broker_{name}", text, value=value)
        yield CounterMetricFamily(
            "zeroq_broker_messages_undecodable", "Messages that broke the wire contract.", value=self._refused
        )
        yield CounterMetricFamily(
            "zeroq_broker_replies_undeliverable", "Replies whose receiver was gone.", value=self._undeliverable
        )
        yield self._staleness_histogram()

    def _staleness_histogram(self) -> Metric:
        staleness = self._staleness
        buckets = [(str(float(b)), sum(n for s, n in staleness.items() if s <= b)) for b in STALENESS_BUCKETS]
        return HistogramMetricFamily(
            "zeroq_broker_group_staleness_publishes",
            "Staleness of the oldest token of train groups when handed out, in publishes.",
            buckets=[*buckets, ("+Inf", sum(staleness.values()))],
            sum_value=sum(s * n for s, n in staleness.items()),
        )


def _labelled(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(f"zeroq_broker_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family

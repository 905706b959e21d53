"""A histogram for hot loops and for counts that come in bulk.

prometheus_client's own takes a lock for each value (about 1 us), and one value at a time. Here one thread adds, without
a lock; the exporter's thread reads a copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class Tally:
    """Counts of values by bucket; `bounds` are inclusive upper ends, ascending. One thread adds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, count: int = 1) -> None:
        """`count` values of `value`."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus wants them: (upper end, how many at or below)."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, float("inf")), list(self.counts), strict=True):
            total += count
            buckets.append((floatToGoString(bound), float(total)))
        return buckets


def histogram(name: str, text: str, label: str, tallies: Mapping[str, Tally]) -> Metric:
    """A family of one series for each tally, told apart by `label`."""
    family = HistogramMetricFamily(name, text, labels=[label] if label else [])
    for value, tally in tallies.items():
        family.add_metric([value] if label else [], tally.cumulative(), tally.sum)
    return family


class TallyCollector:
    """Exports one tally without labels, under `name`; register it where the tally is made."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text = name, text
        self.tally = Tally(bounds)

    def collect(self) -> Iterator[Metric]:
        """The family."""
        yield histogram(self.name, self.text, "", {"": self.tally})

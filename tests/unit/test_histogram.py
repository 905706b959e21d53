"""The histogram of hot loops against prometheus_client's own; gauges that can be absent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from common import gauge
from common.histogram import Tally, TallyCollector, histogram

BOUNDS = (0, 1, 2.5, 10)


@given(st.lists(st.integers(-2, 12) | st.sampled_from([0.5, 2.5, 1e9]), max_size=30))
def test_it_exports_what_the_original_exports(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    collector = TallyCollector("size", "Sizes.", BOUNDS)
    ours.register(collector)
    original = Histogram("size", "Sizes.", buckets=BOUNDS, registry=theirs)
    for value in values:
        collector.tally.add(value)
        original.observe(value)
    created = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == created


def test_many_at_once_are_as_many_one_by_one() -> None:
    once, many = Tally(BOUNDS), Tally(BOUNDS)
    once.add(2, 3)
    for _ in range(3):
        many.add(2)
    assert (once.counts, once.sum) == (many.counts, many.sum)
    assert once.cumulative() == [("0.0", 0), ("1.0", 0), ("2.5", 3), ("10.0", 3), ("+Inf", 3)]


def test_a_family_has_a_series_for_each_tally() -> None:
    tallies = {"a": Tally((1,)), "b": Tally((1,))}
    tallies["b"].add(5)
    samples = {
        (s.name, s.labels.get("kind"), s.labels.get("le")): s.value
        for s in histogram("x", "X.", "kind", tallies).samples
    }
    assert samples["x_bucket", "a", "+Inf"] == 0
    assert samples["x_bucket", "b", "1.0"] == 0
    assert samples["x_bucket", "b", "+Inf"] == 1
    assert samples["x_sum", "b", None] == 5


def test_an_optional_gauge_is_absent_until_it_is_known_and_when_it_is_not_any_more() -> None:
    shown = gauge.OptionalGauge("zeroq_test_optional", "For this test.")
    try:
        seen = []
        for value in (None, 0.0, None):
            shown.set(value)
            seen.append([sample.value for family in shown.collect() for sample in family.samples])
        assert seen == [[], [0.0], []]
    finally:
        gauge.REGISTRY.unregister(shown)

"""Owns what an expression means at one moment, over samples that we scraped: Prometheus's rules, for the part we use.

`rate` and `increase` extrapolate to the window's ends as Prometheus does, `histogram_quantile` interpolates within a
bucket, comparisons filter, and operators match series by their labels without the name.
"""

from __future__ import annotations

import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from launcher.promql.syntax import Aggregation, Binary, Call, Matcher, Node, Number, Selector

Labels = tuple[tuple[str, str], ...]
Sample = tuple[float, float]  # unix seconds, value
Vector = dict[Labels, float]

LOOKBACK_S = 300.0
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a),
    "%": lambda a, b: math.fmod(a, b) if b else math.nan,
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_OVER_TIME: dict[str, Callable[[Sequence[float]], float]] = {
    "max_over_time": max,
    "min_over_time": min,
    "sum_over_time": sum,
    "avg_over_time": lambda values: sum(values) / len(values),
    "last_over_time": lambda values: values[-1],
    "count_over_time": lambda values: float(len(values)),
    "changes": lambda values: float(sum(a != b for a, b in pairwise(values))),
}


class Unsupported(ValueError):
    """Valid PromQL that this evaluator does not know."""


class Samples:
    """Recent samples by series. Not thread-safe; times must not decrease within a series.

    Times count to the millisecond, as Prometheus's do, so that a sample on a window's edge is in it for both.
    """

    def __init__(self, *, keep_s: float = LOOKBACK_S) -> None:
        self._keep_s = keep_s
        self._series: dict[str, dict[Labels, list[Sample]]] = {}

    def add(self, name: str, labels: Mapping[str, str], time_s: float, value: float) -> None:
        """Add a sample; NaN ends a series (Prometheus's stale marker)."""
        self._series.setdefault(name, {}).setdefault(tuple(sorted(labels.items())), []).append(
            (round(time_s, 3), value)
        )

    def forget_before(self, now: float) -> None:
        """Drop what no window can reach any more."""
        for by_labels in self._series.values():
            for labels in list(by_labels):
                kept = by_labels[labels]
                del kept[: bisect_left(kept, (now - self._keep_s, -math.inf))]
                if not kept:
                    del by_labels[labels]

    def end_series(self, label: str, value: str, now: float) -> None:
        """Mark all series with this label as ended: their target is gone or does not answer."""
        for by_labels in self._series.values():
            for labels, kept in by_labels.items():
                if (label, value) in labels and not math.isnan(kept[-1][1]):
                    kept.append((now, math.nan))

    def find(self, selector: Selector) -> Iterator[tuple[Labels, list[Sample]]]:
        """Series that match, with all their samples."""
        names = [selector.name] if selector.name else list(self._series)
        for name in names:
            for labels, kept in self._series.get(name, {}).items():
                known = dict(labels) | {"__name__": name}
                if all(_matches(matcher, known.get(matcher.label, "")) for matcher in selector.matchers):
                    yield labels, kept


def evaluate(node: Node, samples: Samples, now: float) -> Vector | float:
    """The value at `now` (unix seconds): a scalar, or a number for each set of labels."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Selector):
        if node.range_s is not None:
            raise Unsupported("a range of samples is no value; it needs a function such as rate()")
        return _instant(node, samples, now)
    if isinstance(node, Aggregation):
        return _aggregate(node, _vector(node.inner, samples, now))
    if isinstance(node, Binary):
        return _binary(node, evaluate(node.left, samples, now), evaluate(node.right, samples, now))
    return _call(node, samples, now)


def _vector(node: Node, samples: Samples, now: float) -> Vector:
    value = evaluate(node, samples, now)
    if not isinstance(value, dict):
        raise Unsupported("expected series, found a number")
    return value


def _scalar(node: Node, samples: Samples, now: float) -> float:
    value = evaluate(node, samples, now)
    if isinstance(value, dict):
        raise Unsupported("expected a number, found series")
    return value


def _matches(matcher: Matcher, value: str) -> bool:
    if matcher.operator in ("=", "!="):
        return (value == matcher.value) == (matcher.operator == "=")
    return (re.fullmatch(matcher.value, value) is not None) == (matcher.operator == "=~")


def _instant(selector: Selector, samples: Samples, now: float) -> Vector:
    at = round(now - selector.offset_s, 3)
    found: Vector = {}
    for labels, kept in samples.find(selector):
        index = bisect_right(kept, (at, math.inf)) - 1
        if index >= 0 and kept[index][0] > at - LOOKBACK_S and not math.isnan(kept[index][1]):
            found[labels] = kept[index][1]
    return found


def _windows(selector: Node, samples: Samples, now: float) -> Iterator[tuple[Labels, list[Sample], float, float]]:
    """(labels, samples, start, end) of each series within the selector's range."""
    if not isinstance(selector, Selector) or selector.range_s is None:
        raise Unsupported("expected a range such as metric[1m]")
    end = round(now - selector.offset_s, 3)
    start = round(end - selector.range_s, 3)
    for labels, kept in samples.find(selector):
        window = kept[bisect_left(kept, (start, -math.inf)) : bisect_right(kept, (end, math.inf))]
        window = [sample for sample in window if not math.isnan(sample[1])]
        if window:
            yield labels, window, start, end


def _call(node: Call, samples: Samples, now: float) -> Vector | float:
    name, arguments = node.function, node.arguments
    if name == "time":
        return now
    if name == "vector":
        return {(): _scalar(arguments[0], samples, now)}
    if name in ("rate", "increase", "delta"):
        return _extrapolated(name, arguments[0], samples, now)
    if name in _OVER_TIME:
        return {
            labels: _OVER_TIME[name]([value for _, value in window])
            for labels, window, _, _ in _windows(arguments[0], samples, now)
        }
    if name == "histogram_quantile":
        return _quantile(_scalar(arguments[0], samples, now), _vector(arguments[1], samples, now))
    if name in ("clamp_min", "clamp_max"):
        clamp, limit = (max if name == "clamp_min" else min), _scalar(arguments[1], samples, now)
        return {labels: clamp(value, limit) for labels, value in _vector(arguments[0], samples, now).items()}
    raise Unsupported(f"{name}() is not supported")


def _extrapolated(name: str, selector: Node, samples: Samples, now: float) -> Vector:
    """rate, increase and delta: as promql/functions.go, extrapolatedRate."""
    counter = name != "delta"
    found: Vector = {}
    for labels, window, start, end in _windows(selector, samples, now):
        if len(window) < 2:
            continue
        (first_s, first), (last_s, last) = window[0], window[-1]
        change = last - first
        if counter:
            change += sum(a for (_, a), (_, b) in pairwise(window) if b < a)
        sampled = last_s - first_s
        if sampled <= 0:
            continue
        mean_gap = sampled / (len(window) - 1)
        to_start, to_end = first_s - start, end - last_s
        if counter and change > 0 and first >= 0:
            to_start = min(to_start, sampled * first / change)  # a counter was zero at some time, and never less
        covered = sampled
        covered += to_start if to_start < mean_gap * 1.1 else mean_gap / 2
        covered += to_end if to_end < mean_gap * 1.1 else mean_gap / 2
        change *= covered / sampled
        found[labels] = change / (end - start) if name == "rate" else change
    return found


def _quantile(quantile: float, buckets: Vector) -> Vector:
    """histogram_quantile: linear within the bucket; the last finite bound for what lies above all of them."""
    histograms: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = dict(labels).get("le")
        if bound is not None:
            rest = tuple(pair for pair in labels if pair[0] != "le")
            histograms.setdefault(rest, []).append((float(bound), count))
    found: Vector = {}
    for labels, pairs in histograms.items():
        pairs.sort()
        total = pairs[-1][1]
        if len(pairs) < 2 or pairs[-1][0] != math.inf or not total > 0:
            found[labels] = math.nan
            continue
        rank = quantile * total
        index = next(i for i, (_, count) in enumerate(pairs) if count >= rank)
        if index == len(pairs) - 1:
            found[labels] = pairs[-2][0]
            continue
        upper, count = pairs[index]
        if index == 0 and upper <= 0:
            found[labels] = upper
            continue
        lower, below = pairs[index - 1] if index else (0.0, 0.0)
        found[labels] = lower + (upper - lower) * (rank - below) / (count - below) if count > below else upper
    return found


def _aggregate(node: Aggregation, vector: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        if node.grouping == "by":
            key = tuple(pair for pair in labels if pair[0] in node.labels)
        elif node.grouping == "without":
            key = tuple(pair for pair in labels if pair[0] not in node.labels)
        else:
            key = ()
        groups.setdefault(key, []).append(value)
    reduce: dict[str, Callable[[list[float]], float]] = {
        "sum": sum,
        "min": min,
        "max": max,
        "count": lambda values: float(len(values)),
        "avg": lambda values: sum(values) / len(values),
    }
    return {key: float(reduce[node.operation](values)) for key, values in groups.items()}


def _binary(node: Binary, left: Vector | float, right: Vector | float) -> Vector | float:
    if node.group == "right":
        raise Unsupported("group_right is not supported")
    if node.operator in ("and", "or", "unless"):
        if not isinstance(left, dict) or not isinstance(right, dict):
            raise Unsupported(f"{node.operator} is between series")
        return _set_operation(node, left, right)
    if not isinstance(left, dict) and not isinstance(right, dict):
        return _pair(node, left, right) or 0.0
    found: Vector = {}
    if isinstance(left, dict) and isinstance(right, dict):
        others: Vector = {}
        for labels, value in right.items():
            if _key(node, labels) in others:
                raise Unsupported("several series on the right side match")
            others[_key(node, labels)] = value
        for labels, value in left.items():
            key = _key(node, labels)
            if key in others and (result := _pair(node, value, others[key])) is not None:
                one_to_one = node.group is None and (node.matching == "on" or node.operator in _ARITHMETIC)
                found[key if one_to_one else labels] = result
        return found
    if isinstance(left, dict):
        assert not isinstance(right, dict)
        pairs = [(labels, value, value, right) for labels, value in left.items()]
    else:
        assert isinstance(right, dict)
        pairs = [(labels, value, left, value) for labels, value in right.items()]
    for labels, value, first, second in pairs:
        result = _pair(node, first, second)
        if result is not None:  # a comparison hands on the series' own value, whichever side it stands on
            found[labels] = result if node.operator in _ARITHMETIC or node.returns_bool else value
    return found


def _pair(node: Binary, left: float, right: float) -> float | None:
    """Result for two numbers; None where a comparison drops the series."""
    if node.operator in _ARITHMETIC:
        return _ARITHMETIC[node.operator](left, right)
    holds = _COMPARISONS[node.operator](left, right)
    if node.returns_bool:
        return float(holds)
    return left if holds else None


def _set_operation(node: Binary, left: Vector, right: Vector) -> Vector:
    right_keys = {_key(node, labels) for labels in right}
    if node.operator == "and":
        return {labels: value for labels, value in left.items() if _key(node, labels) in right_keys}
    if node.operator == "unless":
        return {labels: value for labels, value in left.items() if _key(node, labels) not in right_keys}
    left_keys = {_key(node, labels) for labels in left}
    return {**left, **{labels: value for labels, value in right.items() if _key(node, labels) not in left_keys}}


def _key(node: Binary, labels: Labels) -> Labels:
    if node.matching is None:
        return labels
    return tuple(pair for pair in labels if (pair[0] in node.labels) == (node.matching == "on"))

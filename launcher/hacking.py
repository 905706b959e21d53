"""Owns the watch for reward hacking: does a reward model's score rise for a reason that nobody wanted?

    rows of metrics.jsonl, evaluations --find_hacking--> Finding("helpful rises while quality falls"), ...

A policy trained against a reward model learns what the model likes, which need not be what people like; R1's authors
saw that and kept preference rewards to the last 400 of 1,700 steps (arXiv 2501.12948v2). Two signs:

length     the score rises, and so does the length of the responses it judges; or within single steps longer responses
           score higher. Not reported while a measure of quality rises too: then the length may be worth it.
quality    the score rises while a measure that is not rewarded falls: a reward component of weight 0, or held-out
           pass@1, or the same component over held-out general prompts.

Trends are Spearman's rank correlation with the step, over means of ten equal parts of the last `WINDOW` steps: a slow
drift shows through the noise of single steps, and no scale or unit matters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.config import RunConfig
from launcher.monitor import Row

WINDOW = 100
"""Steps looked back on: long enough for a drift, short enough to warn within R1's 400 steps of general data."""
MIN_STEPS = 20
MIN_EVALUATIONS = 4
TREND = 0.7
"""|Spearman| of ten means from which on a trend is one: past 0.65, its one-sided 2.5 % point for ten values."""
WITHIN_STEP = 0.5
"""Mean correlation of score and length inside a step's batch that is worth a warning."""
_PARTS = 10

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Watch:
    """Names of the components: `scores` of reward models, `qualities` measured and not rewarded (weight 0)."""

    scores: tuple[str, ...]
    qualities: tuple[str, ...]

    @classmethod
    def of(cls, config: RunConfig) -> Watch:
        """What there is to watch in a run; no scores: nothing."""
        components = config.reward.components
        return cls(
            tuple(c.name for c in components if c.kind == "reward_model" and c.weight > 0),
            tuple(c.name for c in components if c.weight == 0),
        )


@dataclass(frozen=True)
class Finding:
    """One sign of reward hacking; `text` is one line for people."""

    score: str
    kind: Literal["length", "quality"]
    against: str
    first_step: int
    last_step: int
    text: str


def find_hacking(rows: Sequence[Row], evaluations: Sequence[Row], watch: Watch) -> list[Finding]:
    """Signs of reward hacking in the latest steps. `rows`: lines of metrics.jsonl; `evaluations`: events."""
    findings: list[Finding] = []
    for score in watch.scores:
        scores = latest(rows, f"rewards/{score}/mean")
        if len(scores) < MIN_STEPS or (trend(scores) or 0.0) < TREND:
            continue
        measures = _measures(rows, evaluations, watch, scores)
        falling = [name for name, points in measures.items() if (trend(points) or 0.0) <= -TREND]
        findings += [_finding(score, "quality", name, scores, measures[name]) for name in falling]
        if any((trend(points) or 0.0) >= TREND for points in measures.values()):
            continue
        lengths = since(latest(rows, f"rewards/{score}/mean_length"), scores)
        lengths = lengths or since(latest(rows, "completions/mean_length"), scores)
        within = [value for _, value in since(latest(rows, f"rewards/{score}/length_correlation"), scores)]
        inside = sum(within) / len(within) if within else 0.0
        if (trend(lengths) or 0.0) >= TREND or inside >= WITHIN_STEP:
            findings.append(_finding(score, "length", "response length", scores, lengths, inside))
    return findings


def latest(rows: Sequence[Row], key: str, count: int = WINDOW) -> Points:
    """(step, value) of the last `count` rows that have the metric, oldest first."""
    points: Points = []
    for row in reversed(rows):
        value = row.get(key)
        if isinstance(value, int | float):
            points.append((int(row["step"]), float(value)))
            if len(points) == count:
                break
    return points[::-1]


def since(points: Points, other: Points) -> Points:
    """The points from the first step of `other` on."""
    return [point for point in points if other and point[0] >= other[0][0]]


def trend(points: Points) -> float | None:
    """Spearman's correlation of value and step over the means of ten equal parts (of single points, if they are fewer);
    None where values are constant or fewer than four."""
    values = [value for _, value in points]
    if len(values) > _PARTS:
        edges = [round(i * len(values) / _PARTS) for i in range(_PARTS + 1)]
        values = [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]
    return spearman(list(range(len(values))), values) if len(values) >= MIN_EVALUATIONS else None


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation (ties share their mean rank); None where one is constant or there are fewer than two."""
    a, b = _ranks(first), _ranks(second)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    centre = (len(a) - 1) / 2
    product = sum((x - centre) * (y - centre) for x, y in zip(a, b, strict=True))
    spread = sum((x - centre) ** 2 for x in a) * sum((y - centre) ** 2 for y in b)
    return float(product / spread**0.5)


def _measures(rows: Sequence[Row], evaluations: Sequence[Row], watch: Watch, scores: Points) -> dict[str, Points]:
    """Measures of quality by name, over the time of `scores`; only those with enough points."""
    found: dict[str, Points] = {}
    for name in watch.qualities:
        found[name] = since(latest(rows, f"rewards/{name}/mean"), scores)
        found[f"held-out {name}"] = since(latest(evaluations, f"general/{name}/mean"), scores)
    found["held-out pass@1"] = since(latest(evaluations, "pass_at_1"), scores)
    return {name: points for name, points in found.items() if len(points) >= MIN_EVALUATIONS}


def _finding(
    score: str,
    kind: Literal["length", "quality"],
    against: str,
    scores: Points,
    others: Points,
    within: float = 0.0,
) -> Finding:
    first, last = scores[0][0], scores[-1][0]
    text = f"reward hacking? steps {first}-{last}: {score} rose {_ends(scores)}"
    if kind == "quality":
        text += f" while {against} fell {_ends(others)}"
    elif (trend(others) or 0.0) >= TREND:
        text += f" and so did the length of what it judges, {_ends(others, 0)} tokens"
    if within >= WITHIN_STEP:
        text += f"; within a step, score and length correlate at {within:.2f}"
    return Finding(score, kind, against, first, last, text)


def _ends(points: Points, digits: int = 2) -> str:
    """Mean of the first and of the last part, for people."""
    values = [value for _, value in points]
    size = max(1, len(values) // _PARTS)
    return f"{_mean(values[:size]):.{digits}f} -> {_mean(values[-size:]):.{digits}f}"


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    place = 0
    while place < len(order):
        end = place
        while end < len(order) and values[order[end]] == values[order[place]]:
            end += 1
        for index in order[place:end]:
            ranks[index] = (place + end - 1) / 2
        place = end
    return ranks


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

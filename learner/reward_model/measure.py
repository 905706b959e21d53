"""What a reward model is worth on held-out preferences, as pure functions; what it is served with follows from there.

A reward model that merely pays for length ranks many pairs right, and RL then makes responses longer: so accuracy is
also given by how the lengths of a pair differ, and the correlations of score and length are there to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BUCKETS: tuple[tuple[str, float], ...] = (
    ("chosen shorter by more than half", -0.5),
    ("chosen shorter by more than a tenth", -0.1),
    ("within a tenth", 0.1),
    ("chosen longer by more than a tenth", 0.5),
    ("chosen longer by more than half", np.inf),
)


@dataclass(frozen=True)
class HeldOutFigures:
    """Figures over held-out rows. Lengths are characters of what the model reads."""

    num_rows: int
    loss: float
    accuracy: float
    """Pairs ranked right (a tie counts half); responses on the right side of probability 0.5."""
    auc: float | None
    """Safety: probability that a safe response scores above an unsafe one; None with one class."""
    length_correlation: float | None
    """Spearman's, of score and length over all responses; None when either is constant."""
    length_difference_correlation: float | None
    """Spearman's, of the differences within pairs, so that prompts do not matter."""
    accuracy_by_length: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Accuracy and number of rows: pairs by relative difference of lengths, responses by quarter of lengths."""
    offset: float = 0.0
    scale: float = 1.0
    floor: float = 0.0


def measure(scores: Floats, values: Floats, losses: Floats, characters: Ints) -> HeldOutFigures:
    """Figures of raw scores float[rows, 1 or 2], labels or margins float[rows], lengths int[rows, 1 or 2]."""
    pairs = scores.shape[1] == 2
    side = scores[:, 0] - scores[:, 1] if pairs else scores[:, 0] * (2 * values - 1)
    right = (side > 0) + 0.5 * (side == 0)
    lengths = characters.astype(np.float64)
    offset, scale = float(scores.mean()), float(scores.std()) or 1.0
    return HeldOutFigures(
        num_rows=len(scores),
        loss=float(losses.mean()),
        accuracy=float(right.mean()),
        auc=None if pairs else area_under_curve(scores[:, 0], values),
        length_correlation=spearman(scores.flatten(), lengths.flatten()),
        length_difference_correlation=spearman(scores[:, 0] - scores[:, 1], lengths[:, 0] - lengths[:, 1])
        if pairs
        else None,
        accuracy_by_length=_by_difference(right, lengths) if pairs else _by_quarter(right, lengths[:, 0]),
        offset=offset,
        scale=scale,
        floor=float((scores.min() - offset) / scale),
    )


def area_under_curve(scores: Floats, labels: Floats) -> float | None:
    """P(score of a 1 > score of a 0) + P(equal) / 2, over all pairs (Mann and Whitney); None with one class."""
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    ranks = mean_ranks(scores)
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def spearman(x: Floats, y: Floats) -> float | None:
    """Spearman's rank correlation; None when one of them is constant."""
    x, y = mean_ranks(x) - (len(x) + 1) / 2, mean_ranks(y) - (len(y) + 1) / 2
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else None


def mean_ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _by_difference(right: Floats, lengths: Floats) -> dict[str, dict[str, Any]]:
    """Pairs by (chosen - rejected) / the longer of the two."""
    relative = (lengths[:, 0] - lengths[:, 1]) / np.maximum(lengths.max(1), 1)
    place = np.searchsorted([limit for _, limit in BUCKETS[:-1]], relative)
    return {name: _share(right[place == index]) for index, (name, _) in enumerate(BUCKETS)}


def _by_quarter(right: Floats, lengths: Floats) -> dict[str, dict[str, Any]]:
    bounds = np.quantile(lengths, [0.25, 0.5, 0.75])
    place = np.searchsorted(bounds, lengths)
    names = [f"up to {bound:.0f} characters" for bound in bounds] + ["longer"]
    return {name: _share(right[place == index]) for index, name in enumerate(names)}


def _share(right: Sequence[float] | Floats) -> dict[str, Any]:
    return {"rows": len(right), "accuracy": float(np.mean(right)) if len(right) else None}

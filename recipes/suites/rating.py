"""Owns a Codeforces-style rating from contest results: what a human of this performance would be rated.

Codeforces rates by expected ranks. A participant of rating r meets opponents of ratings r_j; opponent j is placed
before them with probability 1 / (1 + 10^((r - r_j) / 400)) (Elo), so that their expected rank is

    E(r) = 1 + sum_j 1 / (1 + 10^((r - r_j) / 400))

(M. Mirzayanov, "Open Codeforces Rating System", codeforces.com/blog/entry/20762). The rating of one contest is the r
with E(r) = the rank reached, found by bisection because E falls with r; over several contests it is their mean, as in
CodeElo (arXiv 2501.01257). No rating is high enough for the first place or low enough for the last: there it is 400
points, odds of ten to one, beyond the best or the worst opponent, or that of half a place further in if this is beyond.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MARGIN = 400.0
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rating:
    """Mean over contests, and its standard error (None for one contest)."""

    rating: float
    standard_error: float | None


def rank(points: float, others: Sequence[float]) -> float:
    """Place of who has `points`, 1 for the best. Among equals the middle of the places they share."""
    return 1 + sum(other > points for other in others) + sum(other == points for other in others) / 2


def expected_rank(rating: float, opponents: Mapping[float, int]) -> float:
    """Expected place of someone of this rating (equation above). `opponents`: how many there are of each rating."""
    return 1 + math.fsum(count / (1 + 10 ** ((rating - other) / 400)) for other, count in opponents.items())


def performance(place: float, opponents: Sequence[float]) -> float:
    """The rating whose expected place is `place`. ValueError without opponents, or for a place that there is not."""
    if not opponents:
        raise ValueError("a rating needs opponents")
    if not 1 <= place <= len(opponents) + 1:
        raise ValueError(f"place {place:g} among {len(opponents) + 1} participants")
    counts, last = Counter(opponents), len(opponents) + 1
    if place == 1:
        return max(max(counts) + MARGIN, performance(1.5, opponents))
    if place == last:
        return min(min(counts) - MARGIN, performance(last - 0.5, opponents))
    reach = 400 * math.log10(len(opponents) / min(place - 1, last - place))  # so far outside, E is past any such place
    low, high = min(counts) - reach, max(counts) + reach
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if expected_rank(middle, counts) > place:
            low = middle  # too weak to be placed there
        else:
            high = middle
    return (low + high) / 2


def mean_rating(ratings: Sequence[float]) -> Rating:
    """Rating over contests. ValueError without any."""
    if not ratings:
        raise ValueError("a rating needs at least one contest")
    mean = math.fsum(ratings) / len(ratings)
    error = None
    if len(ratings) > 1:
        error = math.sqrt(math.fsum((r - mean) ** 2 for r in ratings) / (len(ratings) - 1) / len(ratings))
    return Rating(mean, error)


def percentile(rating: float, population: Sequence[float]) -> float:
    """Share of the population rated lower, in percent (R1 reports "outperforms 96.3 % of human participants")."""
    if not population:
        raise ValueError("a percentile needs a population of ratings")
    return 100.0 * bisect_left(sorted(population), rating) / len(population)

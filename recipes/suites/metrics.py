"""Owns the figures of an evaluation. Pure functions over graded samples; problems are the unit of every error bar.

pass@1     mean over problems of the share of k samples that are right (R1's report: T 0.6, top-p 0.95)
pass@k     chance that one of k samples is right, unbiased from n >= k samples (Chen et al. 2021, arXiv 2107.03374)
cons@k     share of problems whose most voted answer is right; equal answers of different notation vote together
best-of-n  expected accuracy of the sample with the highest score among n

What "equal" means is the caller's: the mathematics verifier lives in another room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Equal = Callable[[str, str], bool]
BOOTSTRAP_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """One graded completion. `answer`: what it answers, None if nothing; `rewards`: named components, unweighted."""

    passed: bool
    answer: str | None
    num_tokens: int
    clipped: bool
    rewards: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ProblemResult:
    """The k samples of one problem, and its greedy completion if there was one.

    `votable`: answers can be compared at all; `equal`: how, where it is not as everywhere else.
    """

    id: str
    samples: Sequence[Sample]
    greedy: Sample | None = None
    votable: bool = True
    equal: Equal | None = None


@dataclass(frozen=True)
class RewardNames:
    """Which of the reward components hold the format and language scores, and the score that best-of-n picks by."""

    format: str | None = None
    language: str | None = None
    score: str | None = None


def same_text(one: str, other: str) -> bool:
    """Equality where there is no verifier: the same up to white space."""
    return one.split() == other.split()


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased pass@k of one problem: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1), exact integers.

    ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} right among {num_samples} samples is not defined")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def winner(samples: Sequence[Sample], equal: Equal = same_text) -> int | None:
    """Index of the first sample that gives the most voted answer; None when nothing is answered.

    An answer joins the first class whose representative (its first answer) it equals. No answer, no vote; of classes
    with as many votes the one given first wins.
    """
    classes: list[tuple[int, str]] = []  # index of the first sample, its answer
    votes: list[int] = []
    known: dict[str, int] = {}  # answers as written: each is compared once
    for index, sample in enumerate(samples):
        if sample.answer is None:
            continue
        text = " ".join(sample.answer.split())
        if text not in known:
            matches = (number for number, (_, first) in enumerate(classes) if equal(first, sample.answer))
            number = next(matches, len(classes))
            if number == len(classes):
                classes.append((index, sample.answer))
                votes.append(0)
            known[text] = number
        votes[known[text]] += 1
    if not classes:
        return None
    return classes[votes.index(max(votes))][0]


def consensus(samples: Sequence[Sample], equal: Equal = same_text) -> bool:
    """Whether the most voted answer is right."""
    index = winner(samples, equal)
    return index is not None and samples[index].passed


def best_of_n(samples: Sequence[Sample], name: str, n: int | None = None) -> float:
    """Expected accuracy of the highest-scored of `n` samples drawn without replacement; all of them by default.

    `name` is the reward component that scores. Without a score a sample is picked last; equal scores: the first given.
    With samples ranked best first, the i-th (from 0) is picked with probability C(N-1-i, n-1) / C(N, n).
    """
    total = len(samples)
    n = total if n is None else n
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} among {total} samples is not defined")

    def score(sample: Sample) -> float:
        value = sample.rewards.get(name)
        return -math.inf if value is None else value

    ranked = sorted(samples, key=score, reverse=True)  # stable: the first given stays first
    subsets = math.comb(total, n)
    return sum(math.comb(total - 1 - i, n - 1) / subsets for i, sample in enumerate(ranked) if sample.passed)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard deviation (ddof 1) over the square root of their number; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = BOOTSTRAP_RESAMPLES, level: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Percentile interval of the mean over problems drawn with replacement (Efron 1979); None for fewer than two."""
    if len(values) < 2:
        return None
    import numpy as np

    values_P = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [float(values_P[rng.integers(len(values_P), size=len(values_P))].mean()) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reported_ks(k: int) -> list[int]:
    """The k of pass@k that k samples are reported at: powers of two, and k itself."""
    return sorted({2**power for power in range(k.bit_length()) if 2**power <= k} | {k})


def evaluation_figures(
    results: Sequence[ProblemResult],
    *,
    equal: Equal = same_text,
    names: RewardNames = RewardNames(),
    seed: int = 0,
) -> dict[str, Any]:
    """Figures over all problems, JSON-able. ValueError without results, or for a problem without samples.

    `samples` is k. `cons_at_k` covers the problems whose answers can be compared (None without any); `pass_at_k` maps k
    to its value for powers of two up to the smallest number of samples. Means of rewards cover the samples that have
    them.
    """
    if not results or not all(result.samples for result in results):
        raise ValueError("every problem needs at least one sample")
    means = [_mean([s.passed for s in result.samples]) for result in results]
    counts = [(len(r.samples), sum(s.passed for s in r.samples)) for r in results]
    samples = [sample for result in results for sample in result.samples]
    greedy = [float(result.greedy.passed) for result in results if result.greedy is not None]
    votes = [float(consensus(result.samples, result.equal or equal)) for result in results if result.votable]
    fewest = min(n for n, _ in counts)
    components = dict.fromkeys(name for sample in samples for name in sample.rewards)
    rewards = {name: _mean_given([s.rewards.get(name) for s in samples]) for name in components}
    interval = bootstrap_interval(means, seed=seed)
    figures: dict[str, Any] = {
        "num_problems": len(results),
        "samples": max(n for n, _ in counts),
        "pass_at_1": _mean(means),
        "pass_at_1_standard_error": standard_error(means),
        "pass_at_1_interval": None if interval is None else list(interval),
        "pass_at_k": {k: _mean([pass_at_k(n, c, k) for n, c in counts]) for k in reported_ks(fewest)},
        "cons_at_k": _mean(votes) if votes else None,
        "cons_at_k_standard_error": standard_error(votes),
        "greedy": _mean(greedy) if greedy else None,
        "mean_length": _mean([s.num_tokens for s in samples]),
        "clipped_ratio": _mean([s.clipped for s in samples]),
        "format_rate": None if names.format is None else rewards.get(names.format),
        "language_consistency": None if names.language is None else rewards.get(names.language),
        "rewards": rewards,
    }
    if names.score is not None:
        figures["best_of_n"] = {
            n: _mean([best_of_n(result.samples, names.score, n) for result in results]) for n in reported_ks(fewest)
        }
    return figures


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_given(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return _mean(given) if given else None

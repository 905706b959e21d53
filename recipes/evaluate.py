"""Owns the figures of an evaluation: pass@1 over k samples, cons@k, greedy accuracy, lengths. Pure functions.

pass@1   mean over problems of the share of k samples that are right (R1's report: T 0.6, top-p 0.95)
cons@k   share of problems whose most frequent answer among the k samples is right
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One graded completion. `answer`: what it answers, None if it answers nothing."""

    passed: bool
    answer: str | None
    num_tokens: int
    clipped: bool


@dataclass(frozen=True)
class ProblemResult:
    """The k samples of one problem, and its greedy completion if there was one."""

    id: str
    samples: Sequence[Sample]
    greedy: Sample | None = None


def consensus(samples: Sequence[Sample]) -> bool:
    """Whether the most frequent answer is right. The first given wins a tie; no answer, no vote."""
    votes = Counter(_normal(s.answer) for s in samples if s.answer is not None)
    if not votes:
        return False
    winner = max(votes, key=lambda answer: votes[answer])  # a Counter keeps first-seen order, max takes the first
    return next(s.passed for s in samples if s.answer is not None and _normal(s.answer) == winner)


def _normal(answer: str) -> str:
    return " ".join(answer.split())


def evaluation_figures(results: Sequence[ProblemResult]) -> dict[str, float | int | None]:
    """Figures over all problems. ValueError without results or samples.

    `pass_at_1_standard_error` treats problems as the unit: standard deviation (ddof 1) of their means over sqrt(n).
    """
    if not results or not all(r.samples for r in results):
        raise ValueError("every problem needs at least one sample")
    means = [sum(s.passed for s in r.samples) / len(r.samples) for r in results]
    samples = [s for r in results for s in r.samples]
    greedy = [r.greedy.passed for r in results if r.greedy is not None]
    pass_at_1 = sum(means) / len(means)
    variance = sum((m - pass_at_1) ** 2 for m in means) / (len(means) - 1) if len(means) > 1 else math.nan
    return {
        "num_problems": len(results),
        "samples": max(len(r.samples) for r in results),
        "pass_at_1": pass_at_1,
        "pass_at_1_standard_error": math.sqrt(variance / len(means)) if len(means) > 1 else None,
        "cons_at_k": sum(consensus(r.samples) for r in results) / len(results),
        "greedy": sum(greedy) / len(greedy) if greedy else None,
        "mean_length": sum(s.num_tokens for s in samples) / len(samples),
        "clipped_ratio": sum(s.clipped for s in samples) / len(samples),
    }

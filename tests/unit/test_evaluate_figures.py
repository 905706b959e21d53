"""pass@1, its standard error, cons@k, greedy: against figures worked by hand."""

from __future__ import annotations

import math

import pytest

from recipes.evaluate import ProblemResult, Sample, consensus, evaluation_figures


def samples(*pairs: tuple[str | None, bool]) -> list[Sample]:
    return [Sample(passed, answer, 10 + i, i == 0) for i, (answer, passed) in enumerate(pairs)]


def test_figures() -> None:
    results = [
        ProblemResult("a", samples(("4", True), ("4", True), ("5", False), ("4", True)), Sample(True, "4", 1, False)),
        ProblemResult(
            "b", samples(("1", False), ("1", False), ("2", True), (None, False)), Sample(False, "1", 1, False)
        ),
    ]
    figures = evaluation_figures(results)
    assert figures["pass_at_1"] == 0.5  # (0.75 + 0.25) / 2
    assert figures["pass_at_1_standard_error"] == pytest.approx(math.sqrt(0.125 / 2))  # variance of 0.75, 0.25 (ddof 1)
    assert (figures["cons_at_k"], figures["greedy"]) == (0.5, 0.5)
    assert (figures["mean_length"], figures["clipped_ratio"]) == (11.5, 0.25)
    assert (figures["num_problems"], figures["samples"]) == (2, 4)


def test_one_problem_has_no_standard_error_and_greedy_may_be_missing() -> None:
    figures = evaluation_figures([ProblemResult("a", samples(("1", True)))])
    assert (figures["pass_at_1_standard_error"], figures["greedy"]) == (None, None)


def test_consensus() -> None:
    assert consensus(samples(("a  b", True), ("a b", True), ("c", False)))
    assert not consensus(samples((None, False), (None, False)))
    assert consensus(samples(("first", True), ("second", False)))  # a tie goes to the first
    assert not consensus(samples(("first", False), ("second", True)))
    assert consensus(samples((None, False), (None, False), ("only", True)))


def test_nothing_to_measure_is_refused() -> None:
    for results in ([], [ProblemResult("a", [])]):
        with pytest.raises(ValueError, match="at least one sample"):
            evaluation_figures(results)

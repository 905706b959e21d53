"""Figures of an evaluation against brute force over all subsets, and against numbers worked by hand."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from recipes.suites.metrics import (
    ProblemResult,
    RewardNames,
    Sample,
    best_of_n,
    bootstrap_interval,
    consensus,
    evaluation_figures,
    pass_at_k,
    reported_ks,
    standard_error,
    winner,
)


def samples(*pairs: tuple[str | None, bool]) -> list[Sample]:
    return [Sample(passed, answer, 10 + i, i == 0) for i, (answer, passed) in enumerate(pairs)]


def same_number(one: str, other: str) -> bool:
    """Equality across notations: 1/2 and 0.5."""

    def value(text: str) -> float:
        above, _, below = text.partition("/")
        return float(above) / float(below or 1)

    return value(one) == value(other)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        right = [True] * c + [False] * (n - c)
        subsets = [any(subset) for subset in itertools.combinations(right, k)]
        assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


def test_pass_at_k_of_many_samples_is_exact_and_bounds_are_checked() -> None:
    assert pass_at_k(64, 1, 1) == 1 / 64
    assert pass_at_k(1024, 512, 1024) == 1.0
    for n, c, k in ((4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(n, c, k)


@pytest.mark.parametrize("seed", range(40))
def test_consensus_is_the_vote_over_equality_classes(seed: int) -> None:
    rng = random.Random(seed)
    notations = ["1/2", "0.5", "2/4", "3", "3.0", "7", None]
    given = samples(*((answer, False) for answer in rng.choices(notations, k=rng.randint(1, 9))))
    values = [None if s.answer is None else eval(s.answer) for s in given]  # the test's own three-line arithmetic
    voted = [value for value in values if value is not None]
    if not voted:
        assert winner(given, same_number) is None
        return
    most = max(voted.count(value) for value in voted)
    first = next(index for index, value in enumerate(values) if value is not None and voted.count(value) == most)
    assert winner(given, same_number) == first


def test_consensus() -> None:
    assert consensus(samples(("a  b", True), ("a b", True), ("c", False)))
    assert not consensus(samples((None, False), (None, False)))
    assert consensus(samples(("first", True), ("second", False)))  # a tie goes to the first
    assert not consensus(samples(("first", False), ("second", True)))
    assert consensus(samples((None, False), (None, False), ("only", True)))
    mixed = samples(("3", False), ("1/2", True), ("3", False), ("0.5", True), ("2/4", True))
    assert not consensus(mixed), "as written 3 has most votes"
    assert consensus(mixed, same_number), "three notations of a half vote together"


def test_each_answer_is_compared_once() -> None:
    calls: list[tuple[str, str]] = []

    def equal(one: str, other: str) -> bool:
        calls.append((one, other))
        return False

    winner(samples(*[("1", True), ("2", False), ("2", False), ("1", True)] * 16), equal)
    assert calls == [("1", "2")]


@pytest.mark.parametrize("seed", range(20))
def test_best_of_n_is_the_mean_over_subsets(seed: int) -> None:
    rng = random.Random(seed)
    scores = [rng.choice([None, 0.1, 0.2, 0.3, 0.9]) for _ in range(6)]
    given = [Sample(rng.random() < 0.5, "x", 1, False, {"rm": score}) for score in scores]
    for n in range(1, 7):
        picked = []
        for subset in itertools.combinations(range(6), n):
            best = max(subset, key=lambda i: (-math.inf if scores[i] is None else scores[i], -i))
            picked.append(given[best].passed)
        assert best_of_n(given, "rm", n) == pytest.approx(sum(picked) / len(picked), abs=1e-12)
    assert best_of_n(given, "rm") == best_of_n(given, "rm", 6)
    with pytest.raises(ValueError, match="best of 7"):
        best_of_n(given, "rm", 7)


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
    assert figures["pass_at_k"] == {1: 0.5, 2: 0.75, 4: 1.0}  # k=2: 1 - C(1,2)/6 = 1 and 1 - C(3,2)/6 = 0.5
    assert (figures["cons_at_k"], figures["greedy"]) == (0.5, 0.5)
    assert (figures["mean_length"], figures["clipped_ratio"]) == (11.5, 0.25)
    assert (figures["num_problems"], figures["samples"]) == (2, 4)
    assert (figures["format_rate"], figures["language_consistency"], figures["rewards"]) == (None, None, {})


def test_rewards_are_averaged_over_the_samples_that_have_them() -> None:
    def sample(passed: bool, **rewards: float | None) -> Sample:
        return Sample(passed, "1", 1, False, rewards)

    results = [
        ProblemResult("a", [sample(False, format=1.0, language=0.5, rm=2.0), sample(True, format=0.0, rm=-1.0)]),
        ProblemResult("b", [sample(True, format=1.0, rm=None), sample(False, format=1.0, language=1.0, rm=None)]),
    ]
    figures = evaluation_figures(results, names=RewardNames("format", "language", "rm"))
    assert figures["format_rate"] == 0.75
    assert figures["language_consistency"] == 0.75
    assert figures["rewards"]["rm"] == 0.5
    assert figures["best_of_n"] == {1: 0.5, 2: 0.5}  # of two: a picks the wrong one, b (no scores) its first, right


def test_problems_whose_answers_cannot_be_compared_do_not_vote() -> None:
    code = ProblemResult("code", samples(("print(1)", False), ("print(2)", True)), votable=False)
    assert evaluation_figures([code])["cons_at_k"] is None
    assert evaluation_figures([code, ProblemResult("m", samples(("1", True)))])["cons_at_k"] == 1.0


def test_one_problem_has_no_error_and_greedy_may_be_missing() -> None:
    figures = evaluation_figures([ProblemResult("a", samples(("1", True)))])
    assert (figures["pass_at_1_standard_error"], figures["pass_at_1_interval"], figures["greedy"]) == (None, None, None)


def test_nothing_to_measure_is_refused() -> None:
    for results in ([], [ProblemResult("a", [])]):
        with pytest.raises(ValueError, match="at least one sample"):
            evaluation_figures(results)


def test_standard_error_is_that_of_a_mean() -> None:
    values = [0.0, 0.25, 1.0, 0.5, 0.5]
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert standard_error([0.5]) is None


def test_the_bootstrap_is_seeded_and_covers_as_it_says() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(50)]
    low, high = bootstrap_interval(values, seed=1) or (0.0, 0.0)
    assert (low, high) == bootstrap_interval(values, seed=1)
    assert (low, high) != bootstrap_interval(values, seed=2)
    mean, error = statistics.mean(values), standard_error(values) or 0.0
    assert low == pytest.approx(mean - 1.96 * error, abs=0.02)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.02)
    covered = 0
    for seed in range(100):
        drawn = [float(random.Random(f"{seed}/{i}").random() < 0.3) for i in range(60)]
        bounds = bootstrap_interval(drawn, seed=seed, resamples=400)
        covered += bounds is not None and bounds[0] <= 0.3 <= bounds[1]
    assert 88 <= covered <= 99
    assert bootstrap_interval([1.0]) is None


def test_reported_ks() -> None:
    assert [reported_ks(k) for k in (1, 2, 5, 16)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8, 16]]

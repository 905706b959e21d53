"""Ratings from contests: numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from recipes.suites.rating import Contest, Score, contest_rating, expected_rank, percentile, performance, rank


def test_expected_rank_by_hand() -> None:
    # Against an equal 1/2, against one 400 points weaker 1/11, against one 400 points stronger 10/11.
    assert expected_rank(1500, [1500]) == 1.5
    assert expected_rank(1500, [1500, 1100, 1900]) == pytest.approx(1 + 1 / 2 + 1 / 11 + 10 / 11)


def test_performance_inverts_the_expected_rank() -> None:
    opponents = [800.0, 1200.0, 1350.0, 1900.0, 2400.0]
    for rating in (900.0, 1400.0, 2222.0):
        assert performance(expected_rank(rating, opponents), opponents) == pytest.approx(rating, abs=1e-4)
    # One opponent: place p = 1 + 1/(1+10^((r-R)/400)), so r = R + 400 log10((2-p)/(p-1)).
    assert performance(1.25, [1500]) == pytest.approx(1500 + 400 * math.log10(3), abs=1e-4)


def test_first_and_last_place_end_400_points_outside() -> None:
    assert performance(1, [1000, 2000]) == pytest.approx(2400, abs=1e-4)
    assert performance(3, [1000, 2000]) == pytest.approx(600, abs=1e-4)


def test_rank_counts_points_then_penalty_and_shares_places() -> None:
    scores = [Score(3, 100), Score(3, 50), Score(2, 0), Score(3, 80), Score(3, 80)]
    contest = Contest(Score(3, 80), [(score, 1500) for score in scores])
    assert rank(contest) == 1 + 1 + 2 / 2  # behind 3/50, level with the two of 3/80
    assert rank(Contest(Score(5), [(Score(4), 0.0)])) == 1


def test_rating_is_the_mean_over_contests() -> None:
    even = Contest(Score(1), [(Score(2), 1500.0), (Score(0), 1500.0)])  # place 2 of 3 among equals: 1500
    weaker = Contest(Score(1), [(Score(2), 1100.0), (Score(0), 1100.0)])
    found = contest_rating([even, weaker])
    assert found.contests == pytest.approx((1500, 1100), abs=1e-4)
    assert found.rating == pytest.approx(1300, abs=1e-4)
    assert found.standard_error == pytest.approx(200, abs=1e-3)  # deviation 282.84 over sqrt(2)
    assert contest_rating([even]).standard_error is None


def test_percentile() -> None:
    assert percentile(1500, [1000, 1200, 1500, 1600]) == 50.0
    assert percentile(2000, [1000, 1200, 1500, 1600]) == 100.0


def test_nothing_to_rate_is_refused() -> None:
    for call in (lambda: contest_rating([]), lambda: performance(1, []), lambda: percentile(1, [])):
        with pytest.raises(ValueError, match="needs"):
            call()
    with pytest.raises(ValueError, match="place 4 among 3"):
        performance(4, [1000, 1000])

"""Ratings from contests: numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from recipes.suites.rating import expected_rank, mean_rating, percentile, performance, rank


def test_expected_rank_by_hand() -> None:
    # Against an equal 1/2, against one 400 points weaker 1/11, against one 400 points stronger 10/11.
    assert expected_rank(1500, {1500: 1}) == 1.5
    assert expected_rank(1500, {1500: 3, 1100: 1, 1900: 2}) == pytest.approx(1 + 3 / 2 + 1 / 11 + 20 / 11)


def test_performance_inverts_the_expected_rank() -> None:
    opponents = [800.0, 1200.0, 1350.0, 1900.0, 2400.0]
    for rating in (900.0, 1400.0, 2222.0):
        place = expected_rank(rating, dict.fromkeys(opponents, 1))
        assert performance(place, opponents) == pytest.approx(rating, abs=1e-4)
    # One opponent: place p = 1 + 1/(1+10^((r-R)/400)), so r = R + 400 log10((2-p)/(p-1)).
    assert performance(1.25, [1500]) == pytest.approx(1500 + 400 * math.log10(3), abs=1e-4)


def test_first_and_last_place_end_400_points_outside() -> None:
    assert performance(1, [1000, 2000]) == pytest.approx(2400, abs=1e-4)
    assert performance(3, [1000, 2000]) == pytest.approx(600, abs=1e-4)


def test_a_place_that_few_reach_has_a_rating_far_outside() -> None:
    """Among N equals place p is R + 400 log10((N + 1 - p) / (p - 1)); the first is no lower."""
    equals, ratings = [1500.0] * 1000, []
    for place in (1.5, 2, 40, 961, 1000, 1000.5):
        ratings.append(performance(place, equals))
        assert ratings[-1] == pytest.approx(1500 + 400 * math.log10((1001 - place) / (place - 1)), abs=1e-4)
    assert performance(1, equals) == pytest.approx(ratings[0])
    assert performance(1001, equals) == pytest.approx(ratings[-1])


def test_equals_share_their_places() -> None:
    assert rank(3, [5, 3, 2, 3, 0]) == 1 + 1 + 2 / 2
    assert rank(5, [4]) == 1


def test_rating_is_the_mean_over_contests() -> None:
    found = mean_rating([1500.0, 1100.0])
    assert found.rating == 1300
    assert found.standard_error == pytest.approx(200)  # deviation 282.84 over sqrt(2)
    assert mean_rating([1500.0]).standard_error is None


def test_percentile() -> None:
    assert percentile(1500, [1000, 1200, 1500, 1600]) == 50.0
    assert percentile(2000, [1000, 1200, 1500, 1600]) == 100.0


def test_nothing_to_rate_is_refused() -> None:
    for call in (lambda: mean_rating([]), lambda: performance(1, []), lambda: percentile(1, [])):
        with pytest.raises(ValueError, match="needs"):
            call()
    with pytest.raises(ValueError, match="place 4 among 3"):
        performance(4, [1000, 1000])

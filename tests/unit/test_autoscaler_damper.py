"""Hysteresis, rate limits, floor and ceiling."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.config import ScaleLimits
from launcher.autoscaler.damper import Damper, Decision
from launcher.autoscaler.policy import Wish

LIMITS = ScaleLimits(min=1, max=8, max_step=3, scale_up_after_s=5.0, scale_down_after_s=20.0)


def wish(count: int, most: int | None = None) -> Wish:
    return Wish(count, count if most is None else most, "backlog", "because")


def run(damper: Damper, current: int, wishes: list[int], every_s: float = 1.0) -> list[tuple[float, int]]:
    """(when, how many) of every decision, each carried out at once."""
    decisions = []
    for round_, count in enumerate(wishes):
        decision = damper.decide(round_ * every_s, current, wish(count))
        if decision is not None:
            current = decision.after
            decisions.append((round_ * every_s, current))
    return decisions


def test_a_need_must_last_before_anything_is_added() -> None:
    assert run(Damper("evaluator", LIMITS), 1, [3] * 5) == []
    assert run(Damper("evaluator", LIMITS), 1, [3] * 6) == [(5.0, 3)]
    assert run(Damper("evaluator", LIMITS), 1, [3, 3, 3, 1, 3, 3, 3, 3, 3]) == []


def test_only_as_many_as_were_needed_all_the_time() -> None:
    assert run(Damper("evaluator", LIMITS), 1, [4, 2, 4, 4, 4, 4]) == [(5.0, 2)]


def test_a_surplus_must_last_longer_and_the_greediest_moment_counts() -> None:
    assert run(Damper("evaluator", LIMITS), 4, [1] * 20) == []
    assert run(Damper("evaluator", LIMITS), 4, [1] * 10 + [3] + [1] * 10) == [(20.0, 3)]


def test_no_more_than_a_step_at_once_and_the_waiting_starts_anew() -> None:
    assert run(Damper("evaluator", LIMITS), 1, [8] * 18) == [(5.0, 4), (11.0, 7), (17.0, 8)]


def test_floor_and_ceiling() -> None:
    assert run(Damper("evaluator", LIMITS), 7, [50] * 6) == [(5.0, 8)]
    assert run(Damper("evaluator", LIMITS), 2, [0] * 21) == [(20.0, 1)]
    damper = Damper("evaluator", LIMITS)
    assert damper.within_limits(0) == Decision("evaluator", 0, 1, "floor", "never fewer than 1")
    assert damper.within_limits(9) == Decision("evaluator", 9, 8, "ceiling", "never more than 8")
    assert damper.within_limits(8) is None


def test_within_the_band_nothing_happens() -> None:
    damper = Damper("evaluator", LIMITS)
    assert all(damper.decide(float(at), 3, wish(2, 4)) is None for at in range(60))


def test_forgetting_starts_the_waiting_anew() -> None:
    damper = Damper("evaluator", LIMITS)
    for at in range(5):
        damper.decide(float(at), 1, wish(3))
    damper.forget()
    assert damper.decide(5.0, 1, wish(3)) is None


def test_without_delays_every_wish_counts() -> None:
    damper = Damper("actor", ScaleLimits(max=9, max_step=9, scale_up_after_s=0, scale_down_after_s=0))
    assert damper.decide(0.0, 1, wish(9)) == Decision("actor", 1, 9, "backlog", "because")
    assert damper.decide(0.1, 9, wish(2)) == Decision("actor", 9, 2, "surplus", "because")


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(1, 8))
def test_limits_hold_whatever_is_wished_for(wishes: list[int], current: int) -> None:
    damper, last = Damper("evaluator", LIMITS), current
    for at, after in run(damper, current, wishes):
        assert LIMITS.min <= after <= LIMITS.max
        assert 0 < abs(after - last) <= LIMITS.max_step
        window = wishes[max(0, int(at) - 5) : int(at) + 1] if after > last else wishes[int(at) - 20 : int(at) + 1]
        assert all(w > last for w in window) if after > last else all(w < last for w in window)
        last = after

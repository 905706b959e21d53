"""How many evaluators and actors there should be, from what was seen."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BrokerUnavailable
from launcher.autoscaler.observation import History, Observation, Span
from launcher.autoscaler.policy import ActorRate, Wish, actor_rate, wish_actors, wish_evaluators
from tests.unit.autoscaler_inputs import make_config, observed, status

CONFIG = make_config(grading_target_s=10.0, starved_ratio=0.1)


def evaluators(seconds: float = 10.0, before: dict[str, Any] | None = None, **after: Any) -> Wish:
    return wish_evaluators(Span(observed(0.0, **(before or {})), observed(seconds, **after)), CONFIG)


def actors(current: int = 2, ready: int | None = None, **after: Any) -> Wish:
    span = Span(observed(0.0), observed(30.0, **{"generated": 100, "taken": 90, "staleness_groups": 90, **after}))
    return wish_actors(span, span, CONFIG, current, current if ready is None else ready)


# ------------------------------------------------------------------ evaluators


def test_demand_is_arrivals_and_backlog_times_service_time() -> None:
    # 20 groups graded in 80 lease-seconds: 4 s each, 4 at once, so 1 s of an evaluator. 2 groups/s come in, which takes
    # 2 evaluators; 25 wait, to be worked off in 10 s: 2.5 more.
    wish = evaluators(generated=20, graded=20, grading_s=80.0, grade_queue=25)
    assert wish.least == math.ceil(2 + 2.5)
    assert "25 groups wait, 2.00 groups/s come in, 1.00 s of one evaluator each: 4.50 evaluators needed" in wish.detail


def test_a_steady_load_keeps_its_evaluators_without_any_backlog() -> None:
    wish = evaluators(generated=25, graded=25, grading_s=100.0)  # 2.5/s of 1 s each
    assert (wish.least, wish.most) == (3, 4)


def test_groups_being_graded_are_no_backlog() -> None:
    assert evaluators(graded=1, grading_s=4.0, grading_running_s=500.0) == evaluators(graded=1, grading_s=4.0)


def test_some_evaluator_is_always_fine() -> None:
    wish = evaluators(graded=1, grading_s=4.0)
    assert (wish.least, wish.most) == (0, 1)


def test_before_anything_was_graded_one_is_to_begin() -> None:
    """With a floor of 0 nobody would ever find out how long grading takes."""
    assert evaluators(grade_queue=0).least == 0
    wish = evaluators(grade_queue=1000, generated=1000)
    assert wish.least == 1
    assert wish.most >= 1000


def test_leases_that_run_tell_the_service_time_while_none_has_ended() -> None:
    assert evaluators(grade_queue=10, grading_running_s=40.0).least == 10  # 10 groups of 10 s, in 10 s
    hanging = {"graded": 100, "grading_s": 4.0, "grading_running_s": 60.0}
    assert evaluators(grade_queue=10, **hanging).least == 1  # one that hangs does not outweigh those that ended


def test_service_time_of_long_ago_is_better_than_none() -> None:
    before = {"graded": 10, "grading_s": 40.0}
    assert evaluators(before=before, grade_queue=20, **before).least == 2


@given(
    graded=st.integers(1, 1000),
    each=st.floats(0.001, 100),
    queue=st.integers(0, 5000),
    generated=st.integers(0, 5000),
    more=st.integers(0, 500),
)
def test_more_work_never_means_fewer_evaluators(
    graded: int, each: float, queue: int, generated: int, more: int
) -> None:
    base = {"graded": graded, "grading_s": graded * each, "generated": generated}
    small, large = evaluators(grade_queue=queue, **base), evaluators(grade_queue=queue + more, **base)
    assert small.least <= small.most
    assert small.least <= large.least
    assert small.most <= large.most


# ------------------------------------------------------------------ actors


def test_one_more_actor_for_a_learner_that_starves_for_them() -> None:
    wish = actors(starved_by_actors_s=6.0)
    assert (wish.least, wish.most, wish.reason) == (3, 3, "starved")
    assert "waited 20 % of the time for actors" in wish.detail


@pytest.mark.parametrize("field", ["starved_by_grading_s", "starved_otherwise_s"])
def test_no_more_actors_when_somebody_else_is_to_blame(field: str) -> None:
    wish = actors(**{field: 20.0})
    assert (wish.least, wish.most) == (2, 2)


def test_no_more_actors_at_the_staleness_ceiling() -> None:
    assert actors(starved_by_actors_s=6.0, staleness_sum=170).reason == "stale"  # mean 1.9 of at most 2
    wish = actors(starved_by_actors_s=6.0, swept=6)
    assert (wish.least, wish.reason) == (2, "stale")
    assert actors(starved_by_actors_s=6.0, swept=5, staleness_sum=150).least == 3


def test_no_more_actors_while_some_are_starting() -> None:
    assert actors(current=3, ready=2, starved_by_actors_s=6.0).least == 3


def test_one_actor_less_when_a_publish_waits_for_the_learner() -> None:
    assert actors(ready_train=16).most == 1
    assert actors(ready_train=15).most == 2
    assert actors(ready_train=16, starved_otherwise_s=2.0).most == 2


def test_one_actor_less_when_groups_go_to_waste() -> None:
    wish = actors(swept=10)
    assert (wish.most, wish.reason) == (1, "stale")


def test_a_learner_that_takes_nothing_says_nothing() -> None:
    assert actors(ready_train=32, taken=0).most == 2


def test_no_actor_goes_whose_work_the_others_could_not_do() -> None:
    span = Span(observed(0.0), observed(30.0, generated=100, taken=90, staleness_groups=90, ready_train=16))
    # 3 groups/s are trained on; two actors of 2/s each make 4, and may be busy for 80 % of the time
    assert wish_actors(span, span, CONFIG, 3, 3, ActorRate(2.0, 0.0)).most == 2
    kept = wish_actors(span, span, CONFIG, 3, 3, ActorRate(1.8, 0.0))
    assert (kept.most, kept.reason) == (3, "steady")
    assert "2 actor(s) make 3.60 groups/s, 3.00 are trained on" in kept.detail


def test_what_an_actor_can_do_is_measured_while_the_learner_starves_for_it() -> None:
    starved = Span(observed(0.0), observed(30.0, generated=60, taken=32, starved_by_actors_s=10.0))
    calm = Span(observed(3000.0), observed(3030.0, generated=60))
    known = actor_rate(starved, CONFIG, 2, None)
    assert known == ActorRate(1.0, 30.0)
    assert actor_rate(calm, CONFIG, 2, known) == known
    assert actor_rate(calm, CONFIG, 2, None) is None
    later = Span(observed(3630.0), observed(3631.0))
    assert actor_rate(later, CONFIG, 2, known) is None  # forgotten: completions may have become shorter
    assert actor_rate(starved, CONFIG, 0, known) == known
    short = Span(observed(0.0), observed(5.0, generated=60, taken=31, starved_by_actors_s=5.0))
    assert actor_rate(short, CONFIG, 2, None) is None


def test_starvation_is_judged_over_whole_publishes() -> None:
    def short(**after: Any) -> Wish:
        span = Span(observed(0.0), observed(5.0, starved_by_actors_s=5.0, **after))
        return wish_actors(span, span, CONFIG, 2, 2)

    wish = short(taken=31)
    assert wish.least == 2
    assert "too early to tell" in wish.detail
    assert short(taken=32).least == 3


def test_a_span_reaches_back_until_enough_was_taken() -> None:
    history = History(1000.0, gap_s=3.0)
    for at in range(100):
        history.add(observed(float(at), taken=16 * (at // 20)))
    assert history.span(5.0).seconds == 5.0
    assert history.span(5.0, taken=32).seconds == pytest.approx(40.0)
    assert history.span(5.0, taken=32, since=90.0).seconds == 9.0
    assert history.span(5.0, taken=9999).seconds == 99.0


# ------------------------------------------------------------------ observations


def test_status_is_read() -> None:
    seen = Observation.of(status(queues__grade=7, learner_waiting_s__actors=1.5, service__grade__leases=3), 12.0)
    assert (seen.at, seen.grade_queue, seen.starved_by_actors_s, seen.graded) == (12.0, 7, 1.5, 3)


def test_a_broker_that_does_not_tell_enough_is_none() -> None:
    report = status()
    del report["learner_waiting_s"]
    with pytest.raises(BrokerUnavailable, match="learner_waiting_s"):
        Observation.of(report, 0.0)


def test_history_covers_what_was_asked_for_and_forgets_the_rest() -> None:
    history = History(10.0, gap_s=3.0)
    for at in range(30):
        assert history.add(observed(float(at), generated=at))
    assert history.span(5.0).seconds == 5.0
    assert history.span(100.0).seconds == pytest.approx(10.0, abs=1.0)
    assert history.span(5.0).arrivals_per_s == 1.0


def test_another_broker_or_a_hole_makes_history_worthless() -> None:
    for second in (observed(1.0, broker="other"), observed(9.0)):
        history = History(10.0, gap_s=3.0)
        history.add(observed(0.0, generated=100))
        assert not history.add(second)
        assert history.span(10.0).seconds == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"service__grade__seconds": float("nan")},
        {"service__grade__running_s": float("inf")},
        {"learner_waiting_s__actors": float("nan")},
        {"queues__grade": None},
        {"counters__groups_generated": "many"},
        {"staleness": 3},
    ],
)
def test_a_report_of_nonsense_is_none(change: dict[str, Any]) -> None:
    """It costs rounds, and does not end the process."""
    with pytest.raises(BrokerUnavailable, match="of no use"):
        Observation.of(status(**change), 0.0)


COUNTS = st.integers(0, 10**9)
SECONDS = st.floats(0, 1e12)


@given(
    seconds=st.floats(0.001, 1e6),
    counts=st.fixed_dictionaries(dict.fromkeys(("grade_queue", "generate_queue", "ready_train", "generated"), COUNTS)),
    more=st.fixed_dictionaries(
        dict.fromkeys(("swept", "taken", "graded", "staleness_sum", "staleness_groups"), COUNTS)
    ),
    grading_s=SECONDS,
    running_s=st.none() | SECONDS,
    starved=st.fixed_dictionaries({f"starved_{n}_s": SECONDS for n in ("by_actors", "by_grading")}),
    current=st.integers(0, 50),
    ready=st.integers(0, 50),
    rate=st.none() | st.floats(0, 1e6),
)
def test_whatever_was_seen_a_wish_is_sane(
    seconds: float,
    counts: dict[str, int],
    more: dict[str, int],
    grading_s: float,
    running_s: float | None,
    starved: dict[str, float],
    current: int,
    ready: int,
    rate: float | None,
) -> None:
    """Never nobody where work waits, never more than one actor at a time, no exception for any numbers."""
    fields = {**counts, **more, **starved, "grading_s": grading_s, "grading_running_s": running_s}
    span = Span(observed(0.0), observed(seconds, **fields))
    wish = wish_evaluators(span, CONFIG)
    assert 0 <= wish.least <= wish.most
    assert wish.most >= 1
    known = None if rate is None else ActorRate(rate, 0.0)
    wish = wish_actors(span, span, CONFIG, current, min(ready, current), known)
    assert wish.least == wish.most
    assert max(min(1, current), current - 1) <= wish.most <= current + 1


def test_the_last_actor_stays_and_the_first_one_comes() -> None:
    """`actors.min=0` allows to have none by hand, not to have none by policy."""
    assert actors(current=1, ready_train=99, swept=50).most == 1
    assert actors(current=0, generate_queue=3).least == 1
    assert actors(current=0).least == 0

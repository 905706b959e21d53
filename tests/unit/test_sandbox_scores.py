"""From the outcomes of tests to a program's result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.sandbox import scores as tested
from evaluator.sandbox.scores import MAX_DETAIL, summarise

Score = tested.TestScore  # by a name that pytest does not collect

PASS, FAIL = Score("pass"), Score("fail", "line 1: '9', expected '8'")
TIMEOUT, ERROR = Score("timeout", "over the time limit of 1 s"), Score("error", "exit code 1")


@pytest.mark.parametrize("reward", ["all", "fraction"])
def test_no_tests_are_not_a_pass(reward: str) -> None:
    result = summarise([], reward, 0.5, 0.1)
    assert (result.verdict, result.reward, result.passed, result.total, result.per_test) == ("error", 0.0, 0, 0, [])
    assert "no tests" in result.detail


@pytest.mark.parametrize(
    ("scores", "verdict", "detail"),
    [
        ([PASS], "pass", "1 of 1 tests passed"),
        ([PASS, PASS], "pass", "2 of 2 tests passed"),
        ([PASS, FAIL], "fail", "test 2 of 2: line 1: '9', expected '8'"),
        ([FAIL, ERROR, TIMEOUT], "fail", "test 1 of 3: line 1: '9', expected '8'"),
        ([ERROR, FAIL], "error", "test 1 of 2: exit code 1"),
        ([PASS, TIMEOUT, FAIL, PASS], "timeout", "test 2 of 4: over the time limit of 1 s"),
        ([Score("error")], "error", "test 1 of 1: error"),
    ],
)
def test_the_first_that_is_not_a_pass_decides(scores: list[Score], verdict: str, detail: str) -> None:
    result = summarise(scores, "all", 1.0, 0.5)
    assert (result.verdict, result.detail) == (verdict, detail)
    assert result.reward == (1.0 if verdict == "pass" else 0.0)


def test_a_fraction_is_the_share_that_passed_and_does_not_change_the_verdict() -> None:
    result = summarise([PASS, FAIL, PASS, TIMEOUT], "fraction", 1.0, 0.5)
    assert (result.verdict, result.reward, result.passed, result.total) == ("fail", 0.5, 2, 4)
    assert result.per_test == [True, False, True, False]
    assert summarise([PASS, PASS], "fraction", 1.0, 0.5).reward == 1.0
    assert summarise([ERROR, ERROR], "fraction", 1.0, 0.5).reward == 0.0


def test_the_detail_is_one_short_line_and_times_are_rounded() -> None:
    result = summarise([Score("error", "Boom\n\tline two " + "x" * 10_000)], "all", 1 / 3, 2 / 3)
    assert "\n" not in result.detail
    assert len(result.detail) <= MAX_DETAIL
    assert (result.wall_s, result.cpu_s) == (0.333333, 0.666667)


@given(st.lists(st.sampled_from([PASS, FAIL, TIMEOUT, ERROR]), max_size=30), st.sampled_from(["all", "fraction"]))
def test_full_reward_and_pass_are_the_same_thing(scores: list[Score], reward: str) -> None:
    result = summarise(scores, reward, 0.0, 0.0)
    assert (result.reward == 1.0) == (result.verdict == "pass") == (bool(scores) and result.passed == result.total)
    assert result.passed == sum(result.per_test)
    assert len(result.per_test) == result.total == len(scores)

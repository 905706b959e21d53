"""Cold-start traces: each step is right, most stop early, and none of that depends on the problem's answer."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.cold_start import cold_start_traces, parse_expression, worked_response
from recipes.problems import Problem, reasoning_gym_problems

PROBLEM = Problem(id="p", prompt="State the final answer: 4 + 9 - 6 - 8 =", answer="-1")
RESPONSE = re.compile(r"<think>(.+)</think><answer>(-?\d+)</answer>", re.DOTALL)


def steps_of(response: str) -> int:
    """How many lines the trace works through."""
    found = RESPONSE.fullmatch(response)
    assert found is not None
    return len(found[1].split("\n"))


def test_never_stopping_works_to_the_end() -> None:
    expected = "<think>4 + 9 = 13\n13 - 6 = 7\n7 - 8 = -1</think><answer>-1</answer>"
    assert cold_start_traces([PROBLEM], seed=0, stop_probability=0.0) == [(PROBLEM.prompt + "\n", expected)]


def test_always_stopping_leaves_one_step() -> None:
    expected = "<think>4 + 9 = 13</think><answer>13</answer>"
    assert cold_start_traces([PROBLEM], seed=0, stop_probability=1.0) == [(PROBLEM.prompt + "\n", expected)]


def test_stop_probability_is_per_step() -> None:
    traces = cold_start_traces([PROBLEM] * 4000, seed=0, stop_probability=0.6)
    counts = [steps_of(response) for _, response in traces]
    # Expected 0.6, 0.24 and 0.16; the standard error of each share is below 0.008.
    assert [counts.count(n) / 4000 for n in (1, 2, 3)] == pytest.approx([0.6, 0.24, 0.16], abs=0.03)


def test_seed_decides_the_traces() -> None:
    first, again, other = (cold_start_traces([PROBLEM] * 50, seed=s, stop_probability=0.5) for s in (1, 1, 2))
    assert first == again != other


def test_answer_of_the_problem_is_not_read() -> None:
    changed = replace(PROBLEM, answer="99")
    for stop in (0.0, 0.6):
        assert cold_start_traces([PROBLEM], seed=0, stop_probability=stop) == cold_start_traces(
            [changed], seed=0, stop_probability=stop
        )


def test_full_traces_of_generated_problems_reach_their_answers() -> None:
    problems = reasoning_gym_problems("chain_sum", num=50, seed=0, min_digits=1, max_digits=1, min_terms=3, max_terms=5)
    traces = cold_start_traces(problems, seed=0, stop_probability=0.0)
    assert [RESPONSE.fullmatch(response)[2] for _, response in traces] == [p.answer for p in problems]  # type: ignore[index]


@given(st.integers(-9, 9), st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9)), min_size=1, max_size=6))
def test_parse_inverts_the_written_sum(first: int, steps: list[tuple[str, int]]) -> None:
    text = f"What is {first} " + " ".join(f"{operator} {term}" for operator, term in steps) + " ="
    assert parse_expression(text) == (first, steps)


def test_answer_is_the_running_total_reached() -> None:
    assert worked_response(3, [("-", 5), ("-", 4)]) == "<think>3 - 5 = -2\n-2 - 4 = -6</think><answer>-6</answer>"


@pytest.mark.parametrize("prompt", ["no sum here", "1 + 2 or 3 + 4", "7 ="])
def test_a_prompt_without_one_sum_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="want one sum"):
        parse_expression(prompt)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_stop_probability_outside_the_unit_interval_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="stop_probability"):
        cold_start_traces([PROBLEM], seed=0, stop_probability=probability)

"""What counts as reasoning, as the answer, and as well-formed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.extract import answer_block, final_answer, last_boxed, read
from evaluator.graders import format_tags

PLAIN = "User: 1+1?\nAssistant:"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer>5</answer>", "5"),
        ("<think>a</think>\n<answer>\n 5 \n</answer>\n", "5"),
        ("<think>a</think><answer>4</answer><answer>5</answer>", "5"),
        ("<think><answer>5</answer></think><answer>4</answer>", "4"),
        ("<think><answer>5</answer></think>", None),
        ("<think><answer>5</answer>", None),
        ("<think>a<think>b</think><answer>5</answer></think>", None),
        ("<think>a<think>b</think><answer>5</answer>", None),
        ("a</think><answer>5</answer>", "5"),
        ("<answer>5</answer></think>", None),
        ("<answer>5</answer>", "5"),
        ("<answer>5", None),
        ("5</answer>", None),
        ("<answer>4</answer><answer>5", "4"),
        ("<answer>4<answer>5</answer>", "5"),
        ("<think>a</think> the answer is 5", None),
        ("<think>a</think><answer></answer>", ""),
        ("<THINK>a</THINK><ANSWER>5</ANSWER>", None),
        ("", None),
    ],
)
def test_answer_block(completion: str, answer: str | None) -> None:
    assert answer_block(read(PLAIN, completion)) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so it is \\boxed{5}.", "5"),
        ("\\boxed{4} no, \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("<think>\\boxed{5}</think>", None),
        ("<think>\\boxed{5}</think> hence \\boxed{6}", "6"),
        ("<think>a</think><answer>The answer is \\boxed{7}</answer>", "7"),
        ("<think>a</think><answer>8</answer> \\boxed{9}", "8"),
        ("\\boxed{5", None),
        ("no answer", None),
    ],
)
def test_final_answer(completion: str, answer: str | None) -> None:
    assert final_answer(read(PLAIN, completion)) == answer


@pytest.mark.parametrize(
    ("completion", "well_formed"),
    [
        ("<think>a</think><answer>5</answer>", True),
        ("  <think>a\nb</think>\n\n<answer>5</answer>\n", True),
        ("<think>a</think><answer>5</answer> done", False),
        ("Sure! <think>a</think><answer>5</answer>", False),
        ("<think>a</think> so <answer>5</answer>", False),
        ("<think>a</think><answer>5</answer><answer>5</answer>", False),
        ("<think>a</think><think>b</think><answer>5</answer>", False),
        ("<answer>5</answer><think>a</think>", False),
        ("<think>a<answer>5</answer></think>", False),
        ("<think>a</think><answer>5", False),
        ("<think>a<answer>5</answer>", False),
        ("<think></think><answer>5</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        ("<answer>5</answer>", False),
        ("5", False),
        ("", False),
    ],
)
def test_format(completion: str, well_formed: bool) -> None:
    assert format_tags.score(read(PLAIN, completion)) == float(well_formed)


def test_prompt_that_opens_the_think_block_counts_as_part_of_the_response() -> None:
    opened = "User: 1+1?\nAssistant: <think>\n"
    response = read(opened, "a</think><answer>2</answer>")
    assert response.well_formed
    assert response.reasoning == "a"
    assert not read(PLAIN, "a</think><answer>2</answer>").well_formed
    assert not read(opened, "<think>a</think><answer>2</answer>").well_formed
    assert answer_block(read(opened, "<answer>2</answer>")) is None


UNTAGGED = st.text(max_size=80).filter(lambda text: "<" not in text)
PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "5", " x "]), max_size=12
).map("".join)


@given(UNTAGGED, UNTAGGED)
def test_any_well_formed_response_gives_back_its_parts(reasoning: str, answer: str) -> None:
    response = read(PLAIN, f"<think>{reasoning}</think><answer>{answer}</answer>")
    assert response.reasoning == reasoning
    assert answer_block(response) == answer.strip()
    assert response.well_formed == bool(reasoning.strip() and answer.strip())


@given(PIECES.filter(lambda text: "think>" not in text), PIECES)
def test_reasoning_never_decides_the_answer(inside: str, after: str) -> None:
    assert answer_block(read("", f"<think>{inside}</think>{after}")) == answer_block(
        read("", f"<think></think>{after}")
    )


@given(PIECES)
def test_no_text_is_both_reasoning_and_visible_or_breaks_the_reader(text: str) -> None:
    response = read("", text)
    assert len(response.reasoning) + len(response.visible) <= len(text) + 2 * text.count("think>")
    final_answer(response)


@given(st.recursive(st.just("x"), lambda inner: st.builds("{{{}}}{}".format, inner, inner), max_leaves=8))
def test_boxed_content_is_balanced(content: str) -> None:
    assert last_boxed(f"a \\boxed{{1}} b \\boxed{{{content}}} c }}") == content


def test_a_long_hostile_text_is_read_in_linear_time() -> None:
    for text in ("<think>" * 50_000, "\\boxed{" * 50_000, "<answer>" * 50_000, "</answer><answer>" * 50_000):
        response = read("", text)
        final_answer(response)
        assert not response.well_formed

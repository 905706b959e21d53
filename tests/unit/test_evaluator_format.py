"""The format reward: strict and lenient shapes, what is said of a fault, and the configuration key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config import RewardComponent, RewardSection
from evaluator.compose import grade_group
from evaluator.extract import read
from evaluator.graders.format_tags import MODES, fault, grade_response, score

RIGHT = "<think>a</think><answer>5</answer>"


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        (RIGHT, True, True),
        (f"  {RIGHT}\n\n", True, True),
        ("<think>\na\n\nb\n</think>\r\n\t<answer>\n5\n</answer>\n", True, True),
        ("<think>x < 3 </ b>&lt;think&gt;</think><answer>5</answer>", True, True),
        # text outside the parts
        (f"Sure! {RIGHT}", False, True),
        (f"{RIGHT} done", False, True),
        ("<think>a</think> so <answer>5</answer>", False, True),
        (f"<|im_start|>{RIGHT}<|im_end|>", False, True),
        # tags missing, repeated, unclosed
        ("", False, False),
        ("5", False, False),
        ("<answer>5</answer>", False, False),
        ("<think>a</think>", False, False),
        ("<think>a</think>5", False, False),
        ("a</think><answer>5</answer>", False, False),
        ("<think>a<answer>5</answer>", False, False),
        ("<think>a</think><answer>5", False, False),
        (f"{RIGHT}{RIGHT}", False, False),
        ("<think>a</think><answer>5</answer><answer>5</answer>", False, False),
        ("<think>a</think><think>b</think><answer>5</answer>", False, False),
        ("<think>a<think>b</think></think><answer>5</answer>", False, False),
        ("<think>I write <answer> now</think><answer>5</answer>", False, False),
        ("<THINK>a</THINK><ANSWER>5</ANSWER>", False, False),
        ("< think >a</think><answer>5</answer>", False, False),
        # out of order, nested
        ("<answer>5</answer><think>a</think>", False, False),
        ("<think>a<answer>5</answer></think>", False, False),
        ("<answer><think>a</think>5</answer>", False, False),
        ("<think>a<answer></think>5</answer>", False, False),
        ("</think>a<think><answer>5</answer>", False, False),
        # empty
        ("<think></think><answer>5</answer>", False, False),
        ("<think> \n\t</think><answer>5</answer>", False, False),
        ("<think>a</think><answer> </answer>", False, False),
        ("<think>\u200b\u00a0\ufeff</think><answer>5</answer>", False, False),
    ],
)
def test_shape(text: str, strict: bool, lenient: bool) -> None:
    assert [score(read("", text), mode) for mode in MODES] == [float(strict), float(lenient)]
    assert [grade_response(text, mode)["reward"] for mode in MODES] == [float(strict), float(lenient)]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (RIGHT, "one think part, then one answer part"),
        ("<think>a</think>", "<answer> stands there 0 times, not once"),
        (f"{RIGHT}</answer>", "</answer> stands there 2 times, not once"),
        (
            "<answer>5</answer><think>a</think>",
            "the tags are out of order: <answer> </answer> <think> </think>",
        ),
        ("<think> </think><answer>5</answer>", "the think part is empty"),
        ("<think>a</think><answer></answer>", "the answer part is empty"),
        (f"Sure!\n{RIGHT}", "text before the think part: 'Sure!'"),
        ("<think>a</think> so <answer>5</answer>", "text between the parts: 'so'"),
        (f"{RIGHT} {'x' * 1000}", f"text after the answer part: '{'x' * 40}'"),
    ],
)
def test_detail_says_what_is_wrong(text: str, detail: str) -> None:
    assert grade_response(text)["detail"] == detail


def test_prompt_that_opens_the_think_part_gives_the_tag_to_the_response() -> None:
    opened = "User: 1+1?\nAssistant: <think>\n"
    for mode in MODES:
        assert score(read(opened, "a</think><answer>2</answer>"), mode) == 1.0
        assert score(read("Assistant:", "a</think><answer>2</answer>"), mode) == 0.0
        assert score(read(opened, "<think>a</think><answer>2</answer>"), mode) == 0.0


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "x", "\u200b"]), max_size=9
).map("".join)


@given(PIECES)
def test_strict_is_what_the_reader_calls_well_formed_and_implies_lenient(text: str) -> None:
    strict, lenient = (fault(text, mode) is None for mode in MODES)
    assert strict <= lenient
    if "\u200b" not in text:
        assert strict == read("", text).well_formed


@given(PIECES, PIECES.filter(lambda text: "<" not in text), st.sampled_from(["", "before ", " after"]))
def test_text_around_never_matters_to_lenient(text: str, padding: str, more: str) -> None:
    assert (fault(f"{more}{padding}{text}{padding}{more}", "lenient") is None) == (fault(text, "lenient") is None)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode = 'loose': not a format mode; known: strict, lenient"):
        grade_response(RIGHT, "loose")


def test_mode_is_a_key_of_format_components_and_of_no_other() -> None:
    components = [
        RewardComponent(name="strict", kind="format"),
        RewardComponent(name="lenient", kind="format", mode="lenient", weight=0.5),
    ]
    verdicts = grade_group("", [RIGHT, f"Sure! {RIGHT}", "5"], {"kind": "none"}, RewardSection(components=components))
    assert [verdict.rewards for verdict in verdicts] == [
        {"strict": 1.0, "lenient": 1.0},
        {"strict": 0.0, "lenient": 1.0},
        {"strict": 0.0, "lenient": 0.0},
    ]
    assert [verdict.reward for verdict in verdicts] == [1.5, 0.5, 0.0]
    for kind in ("accuracy", "language"):
        with pytest.raises(ValidationError, match="mode: lenient is for kind: format; x is of kind"):
            RewardComponent.model_validate({"name": "x", "kind": kind, "mode": "lenient"})
    written = RewardComponent(name="x", kind="language").model_dump(mode="json")
    assert RewardComponent.model_validate(written).mode == "strict"


def test_long_texts_take_linear_time() -> None:
    for unit in ("<think>", "</answer>", " ", "\u200b", "<think>a</think><answer>5</answer>"):
        text = unit * (1_000_000 // len(unit))
        assert fault(text) is not None
    assert fault(f"<think>{' ' * 1_000_000}a</think>{' ' * 1_000_000}<answer>5</answer>") is None

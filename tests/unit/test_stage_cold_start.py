"""The cold start's sources: few-shot prompts and what comes back, and the joining of sources with counts."""

from __future__ import annotations

import pytest

from common.errors import UserError
from recipes.prompts import render_prompt
from recipes.stages.corpus import CorpusRow
from recipes.stages.few_shot import (
    WorkedExample,
    few_shot_prompt,
    few_shot_row,
    parse_few_shot,
    response_text,
    worked_examples,
)
from recipes.stages.filters import FilterSettings, Reason
from recipes.stages.merge import MergeSettings, corpus_view, merge_sources

EXAMPLES = [
    WorkedExample("What is 2 + 3?", "We count up from two.\nThree steps later we are at five.", "The sum is 5."),
    WorkedExample("What is 4 - 1?", "We count down.", "The difference is 3."),
]


def test_the_prompt_shows_every_example_and_ends_where_the_solution_begins() -> None:
    prompt = few_shot_prompt(EXAMPLES, " What is {6} x 7?\n")
    assert prompt.count("Problem:") == prompt.count("Solution:") == 3
    for example in EXAMPLES:
        assert f"<think>{example.reasoning}</think><answer>{example.summary}</answer>" in prompt
    assert prompt.endswith("\n\nProblem: What is {6} x 7?\nSolution:")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "at least one worked example"),
        ([WorkedExample("p", " ", "s")], "worked example 1: reasoning is empty"),
        ([EXAMPLES[0], WorkedExample("p", "r", "<answer>5</answer>")], "worked example 2: summary holds <answer>"),
    ],
)
def test_wrong_examples_are_named(examples: list[WorkedExample], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        few_shot_prompt(examples, "p")


def test_the_first_solution_is_read_and_the_inventions_after_it_are_not() -> None:
    solution = " <think>\nSix times seven\n</think>\n<answer> 42 </answer>"
    expected = "<think>Six times seven</think><answer>42</answer>"
    assert parse_few_shot(solution) == expected
    assert parse_few_shot(f"{solution}\n\nProblem: 1 + 1?\nSolution: <think>x</think><answer>2</answer>") == expected
    assert parse_few_shot(f"{solution}\n\nProblem: 1 + 1?\nSolution: <think>cut o") == expected
    assert parse_few_shot("<think>六乘七</think><answer>四十二</answer>") == response_text("六乘七", "四十二")


@pytest.mark.parametrize(
    ("completion", "detail"),
    [
        ("", "no whole answer"),
        (" <think>goes on and on", "no whole answer"),
        ("The answer is 42.", "no whole answer"),
        ("<answer>42</answer>", "0 of <think>"),
        ("42 </think><answer>42</answer>", "0 of <think>"),
        ("<think>a<think>b</think></think><answer>42</answer>", "2 of <think>"),
        ("<think>a</think>so <answer>42</answer>", "text outside"),
        ("<think> </think><answer>42</answer>", "empty reasoning"),
        ("<think>a</think><answer> </answer>", "empty summary"),
        ("<think>a\n\nProblem: other?\nSolution: b</think><answer>42</answer>", "another problem begins"),
    ],
)
def test_what_is_no_whole_solution_has_a_reason(completion: str, detail: str) -> None:
    reason = parse_few_shot(completion)
    assert isinstance(reason, Reason)
    assert reason.filter == "format"
    assert detail in reason.detail


def test_a_continuation_becomes_a_row_of_the_trained_models_prompt() -> None:
    row = few_shot_row(
        "<think>a</think><answer>42</answer> Problem: more",
        row_id="p/1#0",
        problem="6 x 7?",
        render=lambda problem: render_prompt("r1_zero", problem),
        source="sums",
        language="en",
    )
    assert isinstance(row, CorpusRow)
    assert row.prompt == render_prompt("r1_zero", "6 x 7?")
    assert (row.response, row.origin, row.num_tokens) == ("<think>a</think><answer>42</answer>", "few_shot", None)
    refused = few_shot_row("no", row_id="r", problem="p", render=str, source="s")
    assert isinstance(refused, Reason)


def test_examples_come_from_a_corpus() -> None:
    rows = [_row("1", "two, then three"), _row("2", "x</think><think>y"), _row("3", "z")]
    assert worked_examples(rows, 1) == [WorkedExample("problem", "two, then three", "5")]
    with pytest.raises(UserError, match="4 worked examples are asked for and the file has 3"):
        worked_examples(rows, 4)
    with pytest.raises(UserError, match="example '2' of o: 2 of <think>, one is expected; write it as <think>"):
        worked_examples(rows, 2)


# ------------------------------------------------------------------ joining sources


def _row(name: str, reasoning: str, *, prompt: str = "p", origin: str = "o", language: str | None = None) -> CorpusRow:
    response = f"<think>{reasoning}</think><answer>5</answer>"
    return CorpusRow(name, "sums", language, "problem", prompt, response, "reasoning", None, None, origin)


def test_sources_are_joined_with_their_counts() -> None:
    merged = merge_sources(
        {
            "few_shot": [_row("1", "counting up by fingers"), _row("2", "```\nx\n```"), _row("3", "by a number line")],
            "r1_zero": [_row("1", "Counting up, by fingers!", origin="z"), _row("2", "yet another way", origin="z")],
            "mine.jsonl": [_row("1", "counting up by fingers", prompt="q", origin="m")],
            "none": [],
        },
        MergeSettings(per_prompt=2, prefer="first"),
    )
    assert [(row.origin, row.id) for row in merged.rows] == [("o", "1"), ("o", "3"), ("m", "1")]
    assert merged.table() == [
        _counts("few_shot", offered=3, filtered_code_block=1, kept=2),
        _counts("r1_zero", offered=2, duplicate=1, capped=1),
        _counts("mine.jsonl", offered=1, kept=1),
        _counts("none"),
        _counts("all", offered=6, filtered_code_block=1, duplicate=1, capped=1, kept=3),
    ]
    assert merged.examples["few_shot"]["code_block"][0] == "2"


def _counts(source: str, **counts: int) -> dict[str, str | int]:
    zero = merge_sources({}, MergeSettings()).table()[0]
    assert zero["source"] == "all"
    return zero | {"source": source} | counts


def test_sources_are_capped_each() -> None:
    sources = {name: [_row(f"{k}", f"way {k}", prompt=f"{name}{k}", origin=name) for k in range(5)] for name in "ab"}
    merged = merge_sources(sources, MergeSettings(per_source=2))
    assert [row.origin for row in merged.rows] == ["a", "a", "b", "b"]
    assert merged.counts["a"]["capped"] == 3


def test_code_tasks_may_have_code_in_their_reasoning() -> None:
    rows = [_row("1", "```\nx\n```")]
    assert merge_sources({"a": rows}, MergeSettings(), domain=lambda row: "code").rows == rows
    assert corpus_view(rows[0]).domain == "math"


def test_a_row_in_two_sources_is_refused() -> None:
    with pytest.raises(UserError, match="b: row '1' of 'o' is in a already"):
        merge_sources({"a": [_row("1", "x")], "b": [_row("1", "x")]}, MergeSettings())


def test_languages_are_asked_for_by_row() -> None:
    rows = [_row("1", "some words", language="de"), _row("2", "einige Worte", language="de")]
    with pytest.raises(UserError, match="row '1': no share of its language is known"):
        merge_sources({"a": rows}, MergeSettings())
    merged = merge_sources({"a": rows}, MergeSettings(), language_share=lambda text, _: float("Worte" in text))
    assert [row.id for row in merged.rows] == ["2"]
    off = MergeSettings(filters=FilterSettings(min_language_share=None))
    assert merge_sources({"a": rows}, off).rows == rows

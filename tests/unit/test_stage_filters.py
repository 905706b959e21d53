"""Readability filters: each with what it keeps, what it refuses and the edges between."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from evaluator.extract import answer_block, read
from evaluator.graders.language import grade
from recipes.stages.filters import (
    FILTERS,
    KEPT,
    FilterInput,
    FilterReport,
    FilterSettings,
    Judgement,
    Reason,
    apply_filters,
    code_blocks,
    judge_response,
    language_mixing,
    length,
    long_paragraph,
    repetition,
    truncated,
    well_formed,
)
from recipes.stages.repetition import Loop, looping_tail, repeated_lines, repeated_ngrams
from recipes.stages.text import canonical_units, format_fault, normalised_units, split_response, units

GOOD = "<think>We add two and three.\nThat gives five.</think><answer>The sum is 5.</answer>"


def _said(reasoning: str, summary: str = "The answer is 5.") -> str:
    return f"<think>{reasoning}</think><answer>{summary}</answer>"


def _filter(judgement: Judgement) -> str | None:
    return judgement.filter if isinstance(judgement, Reason) else None


# ------------------------------------------------------------------ cutting text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two words, 3.14!", ["Two", "words", "3", "14"]),
        ("我有3个苹果。", ["我", "有", "3", "个", "苹", "果"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Πόσο κάνει", ["Πόσο", "κάνει"]),
        ("น้ำ", ["น้", "ำ"]),
        ("ガイド abc", ["ガ", "イ", "ド", "abc"]),
        ("", []),
        ("!?… 🙂", []),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert units(text) == expected


def test_normalised_units_fold_case_and_width() -> None:
    assert normalised_units("ＡＢＣ　１２ Straße") == ["abc", "12", "strasse"]


def test_canonical_units_keep_what_tells_sums_apart() -> None:
    assert canonical_units("What is 4 − 9 + 6?") == ["what", "is", "4", "-", "9", "+", "6"]
    assert canonical_units("well-known: 3.5, then.") == ["well", "known", "3", ".", "5", "then"]
    assert canonical_units("2*(3+4)") != canonical_units("2*3+4")


@pytest.mark.parametrize(
    ("response", "prompt", "reasoning", "summary"),
    [
        (GOOD, "", "We add two and three.\nThat gives five.", "The sum is 5."),
        ("a</think>b", "User: <think>", "a", "b"),
        ("a</think>b", "no tag", "a", "b"),
        ("<think>a<think>b</think>c</think>d", "", "a\nb\nc", "d"),
        ("<think>a</think>b<think>c</think>d", "", "a\nc", "d"),
        ("<think>never closed", "", "never closed", ""),
        ("<think>a</think>b<think>open", "", "a\nopen", ""),
        ("no tags at all", "", "", "no tags at all"),
        ("<think>a</think><answer>1</answer> or <answer>2</answer>", "", "a", "2"),
        ("<think>a</think><answer>open", "", "a", "<answer>open"),
        ("<think><answer>1</answer></think>", "", "<answer>1</answer>", ""),
        ("", "", "", ""),
    ],
)
def test_a_response_is_taken_apart(response: str, prompt: str, reasoning: str, summary: str) -> None:
    parts = split_response(response, prompt)
    assert (parts.reasoning, parts.summary) == (reasoning, summary)


_TAGGED = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n", "思"])).map("".join)


@settings(deadline=None)
@given(_TAGGED, st.sampled_from(["", "User: <think>\n"]))
def test_responses_are_read_as_the_evaluators_read_them(response: str, prompt: str) -> None:
    parts, theirs = split_response(response, prompt), read(prompt, response)
    block = answer_block(theirs)
    assert parts.text == theirs.text
    assert parts.reasoning == theirs.reasoning.strip()
    assert parts.summary == (theirs.visible.strip() if block is None else block)
    assert (format_fault(parts.text, "tags") is None) == theirs.well_formed


# ------------------------------------------------------------------ truncated and length


def test_truncated() -> None:
    assert truncated(GOOD, clipped=False) == KEPT
    assert _filter(truncated(GOOD, clipped=True)) == "truncated"


@pytest.mark.parametrize(
    ("num_tokens", "tokens", "characters", "kept"),
    [
        (10, (10, 10), (None, None), True),
        (9, (10, None), (None, None), False),
        (11, (None, 10), (None, None), False),
        (None, (None, None), (3, 3), True),
        (None, (None, None), (4, None), False),
        (None, (None, None), (None, 2), False),
    ],
)
def test_length_bounds_are_inclusive(num_tokens: Any, tokens: Any, characters: Any, kept: bool) -> None:
    judgement = length("数字3", num_tokens=num_tokens, tokens=tokens, characters=characters)
    assert (judgement == KEPT) is kept


def test_unknown_tokens_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="number of tokens is unknown"):
        length("text", tokens=(1, None))


# ------------------------------------------------------------------ format


@pytest.mark.parametrize(
    ("response", "style", "detail"),
    [
        (GOOD, "tags", None),
        (f"  {GOOD}\n", "tags", None),
        ("<think>a</think>\n\nThe answer is 5.", "think", None),
        ("<think>a</think>\n\nThe answer is 5.", "tags", "0 of <answer>"),
        ("<think>a</think> so <answer>5</answer>", "tags", "outside the tags"),
        ("<answer>5</answer><think>a</think>", "tags", "out of order"),
        ("<think>a<think>b</think></think><answer>5</answer>", "tags", "2 of <think>"),
        ("<think>a</think><answer>4</answer><answer>5</answer>", "tags", "2 of <answer>"),
        ("<think> \n</think><answer>5</answer>", "tags", "empty reasoning"),
        ("<think>a</think><answer> </answer>", "tags", "empty summary"),
        ("<think>a</think> \n", "think", "empty summary"),
        ("<think>a</think><answer>...</answer>", "tags", "summary of 0 words"),
        ("<think>a", "think", "0 of </think>"),
        ("", "tags", "0 of <think>"),
    ],
)
def test_format(response: str, style: Any, detail: str | None) -> None:
    judgement = well_formed(response, style=style)
    assert (detail is None) == (judgement == KEPT)
    assert detail is None or (isinstance(judgement, Reason) and detail in judgement.detail)


def test_format_when_the_prompt_opens_the_reasoning() -> None:
    assert well_formed("a</think><answer>5</answer>", prompt="Assistant: <think>\n") == KEPT
    assert _filter(well_formed("a</think><answer>5</answer>", prompt="Assistant:")) == "format"


def test_summaries_may_have_to_be_longer() -> None:
    assert well_formed(_said("a", "五个苹果"), min_summary=4) == KEPT
    assert _filter(well_formed(_said("a", "五个苹"), min_summary=4)) == "format"


# ------------------------------------------------------------------ code blocks and paragraphs


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (_said("so\n```python\nprint(5)\n```"), False),
        (_said("~~~\nx\n~~~"), False),
        (_said("> ```\n> x"), False),
        (_said("`x` and ``y`` in a line, even ``` in the middle"), True),
        (_said("no code", "```python\nprint(5)\n```"), True),
        ("<think>a<think>\n```\nx\n```</think>b</think><answer>5</answer>", False),
        (_said(""), True),
    ],
)
def test_code_blocks_in_reasoning(response: str, kept: bool) -> None:
    assert (code_blocks(response) == KEPT) is kept


def test_code_blocks_where_the_prompt_opens_the_reasoning() -> None:
    assert _filter(code_blocks("```\nx\n```</think>5", prompt="<think>")) == "code_block"


@pytest.mark.parametrize(
    ("reasoning", "units_limit", "kept"),
    [
        ("one two three\nfour five six", 3, True),
        ("one two three four", 3, False),
        ("我有三", 3, True),
        ("我有三个", 3, False),
        ("", 1, True),
        ("a b c\r\nd e f", 3, True),
        ("a b c\u2028d e f", 3, True),
    ],
)
def test_long_paragraphs(reasoning: str, units_limit: int, kept: bool) -> None:
    assert (long_paragraph(_said(reasoning), max_units=units_limit) == KEPT) is kept


def test_long_paragraphs_by_characters_and_blank_lines() -> None:
    lines = _said("one two\nthree four\n \nfive")
    assert long_paragraph(lines, max_units=2) == KEPT
    assert _filter(long_paragraph(lines, max_units=3, at_blank_lines=True)) == "long_paragraph"
    assert long_paragraph(lines, max_units=4, at_blank_lines=True) == KEPT
    assert _filter(long_paragraph(lines, max_characters=9)) == "long_paragraph"
    assert long_paragraph(lines, max_characters=10) == KEPT


def test_a_long_summary_is_no_long_paragraph_of_the_reasoning() -> None:
    assert long_paragraph(_said("short", "word " * 100), max_units=3) == KEPT


# ------------------------------------------------------------------ language


def test_language_mixing_compares_a_number_or_asks() -> None:
    asked: list[tuple[str, str]] = []

    def share(text: str, language: str) -> float:
        asked.append((text, language))
        return 0.8

    assert language_mixing(GOOD, language="en", share=0.9, minimum=0.9) == KEPT
    assert _filter(language_mixing(GOOD, language="en", share=0.89, minimum=0.9)) == "language_mixing"
    assert _filter(language_mixing(_said("Wir rechnen."), language="de", share=share, minimum=0.9)) == "language_mixing"
    assert asked == [("Wir rechnen.", "de")]


@pytest.mark.parametrize(
    "reasoning",
    [
        "4 + 9 = 13\n13 - 6 = 7",
        "",
        r"$\frac{ab}{2}$ \cdot \sqrt{9}",
        "x = 3; y = 4",
        r"\begin{align*} x &= 3 \end{align*}",
    ],
)
def test_formulas_alone_mix_no_languages(reasoning: str) -> None:
    assert language_mixing(_said(reasoning), language="en", share=0.0, minimum=0.9) == KEPT


@pytest.mark.parametrize("reasoning", ["是", "ค", "so"])
def test_one_word_is_enough_to_be_asked(reasoning: str) -> None:
    assert _filter(language_mixing(_said(reasoning), language="de", share=0.0, minimum=0.9)) == "language_mixing"


@pytest.mark.parametrize(
    ("reasoning", "language", "kept"),
    [
        ("First we add the two numbers, and then we take away what is left over.", "en", True),
        ("Zuerst addieren wir die beiden Zahlen, und dann ziehen wir den Rest davon ab.", "de", True),
        ("Zuerst addieren wir die beiden Zahlen, and then we take away what is left over.", "de", False),
        ("我们先把两个数字加起来，然后减去剩下的。", "zh", True),
        ("我们先把两个数字加起来, and then we take away what is left over.", "zh", False),
        ("First we add the two numbers, 然后减去剩下的一共是多少个苹果。", "en", False),
    ],
)
def test_language_mixing_with_the_evaluators_grader(reasoning: str, language: str, kept: bool) -> None:
    assert (language_mixing(_said(reasoning), language=language, share=grade, minimum=0.9) == KEPT) is kept


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="does not lie in 0 to 1"):
        language_mixing(GOOD, language="en", share=share, minimum=0.9)


# ------------------------------------------------------------------ repetition


def test_repeated_ngrams_by_hand() -> None:
    assert repeated_ngrams(["a", "b", "c", "a", "b", "c"], 3) == pytest.approx(1 - 3 / 4)
    assert repeated_ngrams(["a", "a", "a", "a"], 2) == pytest.approx(1 - 1 / 3)
    assert repeated_ngrams(["a", "b", "c", "d"], 2) == 0
    assert repeated_ngrams(["a", "b"], 3) == 0
    assert repeated_ngrams([], 3) == 0


def test_repeated_lines_by_hand() -> None:
    assert repeated_lines("long line\n long line \nother line\n\n}\n}\n}", 5) == pytest.approx(1 / 3)
    assert repeated_lines("", 5) == 0


@settings(deadline=None)
@given(st.text(alphabet="ab", max_size=40))
def test_looping_tail_against_brute_force(text: str) -> None:
    best = 1.0
    for period in range(1, len(text)):
        run = period
        while run < len(text) and text[-run - 1] == text[len(text) - run - 1 + period]:
            run += 1
        best = max(best, run / period)
    assert looping_tail(text).times == pytest.approx(best)


def test_looping_tail_by_hand() -> None:
    assert looping_tail("xyzabcabcabc") == Loop(3, 3.0)
    assert looping_tail("xcabcabc") == Loop(3, 7 / 3)
    assert looping_tail("") == Loop(1, 1.0)
    assert looping_tail(["wait", "so", "wait", "so"]) == Loop(2, 2.0)


def test_looping_tails_are_refused() -> None:
    loop = "Wait, let me check this once again. "
    assert _filter(repetition(_said("We add. " + loop * 5))) == "repetition"
    assert _filter(repetition("<think>We add. " + loop * 5)) == "repetition"
    assert _filter(repetition("等一下，让我再检查一遍。" * 8)) == "repetition"
    assert _filter(repetition(_said("We add.", "yes " * 30))) == "repetition"


def test_a_loop_that_was_cut_in_the_middle_is_still_one() -> None:
    text = "Wait, let me check this once again. " * 6
    assert _filter(repetition(f"<think>We add. {text[:-17]}", max_lines=None, max_ngrams=None)) == "repetition"


def test_short_rhythms_are_no_loops() -> None:
    assert repetition(_said("1 + 1 + 1 + 1 + 1 = 5"), max_ngrams=None) == KEPT
    assert repetition(_said("So " + "0" * 60)) == KEPT
    assert repetition(GOOD) == KEPT
    assert repetition("") == KEPT


def test_repeated_lines_are_refused_wherever_they_stand() -> None:
    lines = [f"Here is a thought of number {number} only" for number in range(6)]
    text = "\n".join([*lines, *lines[::-1], "And so we are done at last."])
    assert _filter(repetition(_said(text), max_ngrams=None)) == "repetition"
    assert repetition(_said(text), max_ngrams=None, max_lines=0.5) == KEPT


def test_repeated_ngrams_are_refused_without_regard_to_case() -> None:
    words = "the sum of the first two numbers is then added to the third number"
    text = f"{words}, well. {words.upper()}, right. Now {words.title()}! Fine"
    assert _filter(repetition(_said(text), ngram=4, max_lines=None, max_loops=None)) == "repetition"
    assert repetition(_said(text), ngram=4, max_ngrams=None, max_lines=None, max_loops=None) == KEPT


def test_arithmetic_that_goes_forward_is_kept() -> None:
    generator = random.Random(0)
    total, lines = 0, []
    for _ in range(60):
        term = generator.randint(1, 99)
        lines.append(f"{total} + {term} = {total + term}")
        total += term
    assert repetition(_said("\n".join(lines))) == KEPT


def test_the_window_of_loops_is_linear() -> None:
    assert _filter(repetition("a b " * 500_000, max_lines=None, max_ngrams=None)) == "repetition"


# ------------------------------------------------------------------ all together


def test_the_first_filter_in_order_is_the_reason() -> None:
    settings = FilterSettings(max_tokens=5)
    row = FilterInput("r", "<think>```\n", num_tokens=9, clipped=True)
    assert _filter(judge_response(row, settings)) == "truncated"
    assert _filter(judge_response(replace(row, clipped=False), settings)) == "length"
    assert _filter(judge_response(replace(row, clipped=False, num_tokens=5), settings)) == "format"


def test_rows_are_counted_by_reason_with_an_example_each() -> None:
    rows = [
        FilterInput("good", GOOD, language="en"),
        FilterInput("cut", GOOD, clipped=True),
        FilterInput("cut-2", GOOD, clipped=True),
        FilterInput("shape", "no tags"),
        FilterInput("fence", _said("```\nx\n```")),
        FilterInput("program", _said("```\nx\n```"), domain="code"),
        FilterInput("long", _said("word " * 201)),
        FilterInput("mixed", GOOD, language="de"),
        FilterInput("known", GOOD, language="de", language_share=0.95),
        FilterInput("loop", _said("and again\n" * 30)),
    ]
    kept, report = apply_filters(
        rows, FilterSettings(), view=lambda row: row, language_share=lambda _, language: float(language == "en")
    )
    assert [row.id for row in kept] == ["good", "program", "known"]
    counts = dict.fromkeys(FILTERS, 1) | {"truncated": 2, "length": 0}
    assert report.counts == counts
    assert (report.seen, report.kept) == (10, 3)
    examples = {row["filter"]: row["example"] for row in report.rows()}
    assert examples == {
        "truncated": "cut",
        "format": "shape",
        "code_block": "fence",
        "long_paragraph": "long",
        "language_mixing": "mixed",
        "repetition": "loop",
    }


def test_everything_can_be_switched_off() -> None:
    off = FilterSettings(
        truncated=False,
        format=None,
        code_blocks=False,
        max_paragraph_units=None,
        min_language_share=None,
        max_repeated_ngrams=None,
        max_repeated_lines=None,
        max_loops=None,
    )
    rows = [FilterInput("a", "```\n" + "same again " * 500, clipped=True, language="de")]
    assert apply_filters(rows, off, view=lambda row: row)[0] == rows


def test_a_report_goes_on() -> None:
    report = FilterReport()
    for _ in range(2):
        apply_filters([FilterInput("a", "")], FilterSettings(), view=lambda row: row, report=report)
    assert (report.seen, report.counts["format"]) == (2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 5, "min_language_share": None}, "filters: row 'r': the number of tokens is unknown"),
        ({}, "filters: row 'r': no share of its language is known"),
    ],
)
def test_what_a_filter_lacks_is_said_with_the_row(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_filters([FilterInput("r", GOOD, language="en")], FilterSettings(**settings), view=lambda row: row)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_paragraphs"):
        FilterSettings(max_paragraphs=3)  # type: ignore[call-arg]

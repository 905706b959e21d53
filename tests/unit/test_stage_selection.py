"""Rejection sampling's bookkeeping: what is kept, and an account in which every sample stands once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from common.errors import UserError
from recipes.stages.acceptance import COUNTS, Acceptance, difficulty_bucket
from recipes.stages.filters import FilterSettings
from recipes.stages.judge_contract import JudgeQuestion, Opinion
from recipes.stages.selection import GradedResponse, GradedTask, SelectionSettings, Selector

PLAIN = FilterSettings(min_language_share=None)


def _said(reasoning: str, answer: str = "5") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


def _response(reasoning: str, outcome: str = "pass", **more: Any) -> GradedResponse:
    return GradedResponse(_said(reasoning), outcome, float(outcome == "pass"), num_tokens=len(reasoning), **more)


def _task(name: str, *responses: GradedResponse, **more: Any) -> GradedTask:
    return GradedTask(name, more.pop("source", "sums"), f"problem {name}", f"prompt {name}", responses, **more)


class FixedJudge:
    """Answers by the prediction; remembers what it was asked."""

    def __init__(self, **opinions: Opinion) -> None:
        self.opinions = opinions
        self.asked: list[JudgeQuestion] = []

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Opinion]:
        self.asked += questions
        return [self.opinions[question.prediction] for question in questions]


def test_only_correct_readable_and_distinct_samples_are_kept() -> None:
    task = _task(
        "a",
        _response("two and three is five"),
        _response("three and two is four", "fail"),
        _response("Two and three, is five."),
        _response("never ends", clipped=True),
        _response("```\nprint(2 + 3)\n```"),
        _response("slow", "timeout"),
        _response("grader broke", "error"),
        _response("five because of counting up by fingers"),
        language="en",
        gold="5",
    )
    selector = Selector(SelectionSettings(filters=PLAIN), origin="rejection_sample")
    assert selector.add([task]) == 2
    rows, acceptance = (selection := selector.finish()).rows, selection.acceptance
    assert [(row.id, row.origin, row.kind, row.source) for row in rows] == [
        ("a#0", "rejection_sample", "reasoning", "sums"),
        ("a#7", "rejection_sample", "reasoning", "sums"),
    ]
    assert rows[0].difficulty == pytest.approx(1 - 5 / 7)
    assert (rows[0].prompt, rows[0].problem, rows[0].language) == ("prompt a", "problem a", "en")
    assert (rows[0].response, rows[0].num_tokens) == (_said("two and three is five"), 21)
    totals = acceptance.totals()
    assert {name: totals[name] for name in COUNTS if totals[name]} == {
        "prompts": 1,
        "sampled": 8,
        "ungraded": 1,
        "correct": 5,
        "filtered_truncated": 1,
        "filtered_code_block": 1,
        "duplicate": 1,
        "kept": 2,
    }
    assert acceptance.examples["code_block"][0] == "a#4"


def test_every_sample_is_counted_once() -> None:
    generator = random.Random(3)
    judge = FixedJudge(yes="correct", no="wrong", what="unclear")
    settings = SelectionSettings(filters=PLAIN, judge="confirm", per_prompt=3, per_source=20, near_duplicates=None)
    selector = Selector(settings, origin="o", judge=judge)
    total = 0
    for number in range(30):
        responses = []
        for _ in range(generator.randint(0, 10)):
            text = _said(f"thought {generator.randint(0, 8)}", generator.choice(["yes", "yes", "no", "what"]))
            outcome = generator.choice(["pass", "pass", "fail", "error"])
            responses.append(GradedResponse(text, outcome, 0.0, clipped=generator.random() < 0.2))
        total += len(responses)
        prompt = f"prompt {number // 2}"  # each prompt under two names
        selector.add([GradedTask(str(number), generator.choice("st"), "p", prompt, responses, gold="g")])
    selection = selector.finish()
    counts = selection.acceptance.totals()
    lost = [name for name in COUNTS if name.startswith(("filtered", "judged_", "duplicate", "capped"))]
    assert counts["sampled"] == total
    assert counts["correct"] == counts["kept"] + sum(counts[name] for name in lost)
    assert min(counts[name] for name in ("judged_wrong", "judged_unclear", "duplicate", "capped", "ungraded")) > 0
    assert counts["kept"] == len(selection.rows)
    by_prompt = [row.prompt for row in selection.rows]
    assert max(by_prompt.count(prompt) for prompt in by_prompt) <= 3
    assert all([row.source for row in selection.rows].count(source) <= 20 for source in "st")


def test_the_judge_confirms_what_is_left_after_the_cheap_filters() -> None:
    judge = FixedJudge(right="correct", bad="wrong", odd="unclear")
    responses = [
        GradedResponse(_said("one", "right"), "pass", 1.0),
        GradedResponse(_said("two", "bad"), "pass", 1.0),
        GradedResponse(_said("three", "odd"), "pass", 1.0),
        GradedResponse(_said("four", "right"), "fail", 0.0),
        GradedResponse(_said("five", "right"), "pass", 1.0, clipped=True),
    ]
    selector = Selector(SelectionSettings(filters=PLAIN, judge="confirm"), origin="o", judge=judge)
    selector.add([_task("a", *responses, gold="gold")])
    selection = selector.finish()
    assert [question.id for question in judge.asked] == ["a#0", "a#1", "a#2"]
    assert judge.asked[0] == JudgeQuestion("a#0", "problem a", "gold", "right")
    assert [row.id for row in selection.rows] == ["a#0"]
    assert selection.rows[0].difficulty == pytest.approx(1 / 5)
    counts = selection.acceptance.totals()
    assert (counts["judged"], counts["judged_wrong"], counts["judged_unclear"]) == (3, 1, 1)


def test_the_judge_decides_in_the_place_of_rules() -> None:
    judge = FixedJudge(right="correct", bad="wrong", odd="unclear")
    responses = [
        GradedResponse(_said("one", "right"), "fail", 0.0),
        GradedResponse(_said("two", "bad"), "pass", 1.0),
        GradedResponse(_said("three", "odd"), "error", 0.0),
        GradedResponse(_said("four", "right"), "fail", 0.0, clipped=True),
    ]
    selector = Selector(SelectionSettings(filters=PLAIN, judge="decide"), origin="o", judge=judge)
    selector.add([_task("a", *responses, gold="gold")])
    selection = selector.finish()
    assert [row.id for row in selection.rows] == ["a#0"]
    assert selection.rows[0].difficulty == pytest.approx(2 / 3)
    counts = selection.acceptance.totals()
    assert (counts["judged"], counts["correct"], counts["judged_wrong"], counts["judged_unclear"]) == (3, 1, 1, 1)


def test_a_judge_needs_a_gold_answer_and_to_exist() -> None:
    settings = SelectionSettings(filters=PLAIN, judge="confirm")
    with pytest.raises(UserError, match="no judge is configured"):
        Selector(settings, origin="o")
    with pytest.raises(UserError, match="problem 'a' has no gold answer"):
        Selector(settings, origin="o", judge=FixedJudge()).add([_task("a", _response("x"))])


def test_general_samples_pass_by_reward_and_have_no_difficulty() -> None:
    responses = [GradedResponse(_said(f"thought number {k}", "hi"), "fail", k / 2) for k in range(4)]
    settings = SelectionSettings(filters=PLAIN, min_general_reward=1.0, judge="confirm")
    selector = Selector(settings, origin="o", judge=FixedJudge())
    selector.add([_task("g", *responses, kind="general", domain="general")])
    selection = selector.finish()
    assert [(row.id, row.kind, row.difficulty) for row in selection.rows] == [
        ("g#2", "general", None),
        ("g#3", "general", None),
    ]
    assert [row["difficulty"] for row in selection.acceptance.rows()] == ["none", "all"]


def test_one_prompt_under_two_names_is_one_prompt() -> None:
    selector = Selector(SelectionSettings(filters=PLAIN, per_prompt=2, prefer="first"), origin="o")
    for name in ("a", "b"):
        responses = [_response(text) for text in ("counting up by one", "adding all at once")]
        selector.add([GradedTask(name, "sums", "p", "The same prompt!", responses)])
    selector.add([GradedTask("c", "sums", "p", "the same prompt", [_response("third way, by subtracting")])])
    selection = selector.finish()
    assert [row.id for row in selection.rows] == ["a#0", "a#1"]
    assert (selection.acceptance.totals()["duplicate"], selection.acceptance.totals()["capped"]) == (2, 1)


def test_a_task_given_twice_is_refused() -> None:
    selector = Selector(SelectionSettings(), origin="rejection_sample")
    selector.add([_task("a")])
    with pytest.raises(UserError, match="rejection_sample: problem 'a' was given twice"):
        selector.add([_task("a")])


def test_a_filter_that_lacks_something_names_the_sample() -> None:
    selector = Selector(SelectionSettings(), origin="o")
    with pytest.raises(UserError, match="row 'a#0': no share of its language is known"):
        selector.add([_task("a", _response("x"), language="en")])
    shared = Selector(SelectionSettings(), origin="o", language_share=lambda text, language: 1.0)
    assert shared.add([_task("a", _response("some words"), language="en")]) == 1


def test_what_is_kept_does_not_hold_what_is_not() -> None:
    selector = Selector(SelectionSettings(filters=PLAIN), origin="o")
    selector.add([_task("a", _response("one"), _response("two", "fail"))])
    assert [sample.task.responses for sample in selector._samples] == [()]


def test_nothing_in_nothing_out() -> None:
    selection = Selector(SelectionSettings(), origin="o").finish()
    assert selection.rows == []
    assert selection.acceptance.rows()[-1]["acceptance"] == 0
    assert "| all | all | 0 | 0 | 0 | 0 | 0.0 % |" in selection.acceptance.markdown()


@pytest.mark.parametrize(
    ("difficulty", "bucket"),
    [
        (None, "none"),
        (0.0, "0"),
        (1e-9, "0-0.25"),
        (0.25, "0-0.25"),
        (0.26, "0.25-0.5"),
        (0.75, "0.5-0.75"),
        (0.99, "0.75-1"),
        (1.0, "1"),
    ],
)
def test_difficulty_buckets(difficulty: float | None, bucket: str) -> None:
    assert difficulty_bucket(difficulty) == bucket


def test_the_table_is_ordered_and_adds_up() -> None:
    acceptance = Acceptance()
    for source, bucket in [("b", "1"), ("a", "0.75-1"), ("a", "0-0.25"), ("a", "0"), ("a", "none"), ("a", "0")]:
        acceptance.add(source, bucket, {"prompts": 1, "sampled": 4, "correct": 2, "kept": 1})
    rows = acceptance.rows()
    assert [(row["source"], row["difficulty"], row["sampled"]) for row in rows] == [
        ("a", "none", 4),
        ("a", "0", 8),
        ("a", "0-0.25", 4),
        ("a", "0.75-1", 4),
        ("b", "1", 4),
        ("all", "all", 24),
    ]
    assert acceptance.markdown().splitlines()[0] == (
        "| source | difficulty | prompts | sampled | correct | kept | acceptance |"
    )
    assert acceptance.markdown().splitlines()[-1] == "| all | all | 6 | 24 | 12 | 6 | 25.0 % |"
    with pytest.raises(ValueError, match="no column correkt"):
        acceptance.add("a", "0", {"correkt": 1})

"""Decontamination: by hand, against brute force, and on the real sets whose overlaps are known."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from common.errors import UserError
from recipes.datasets import load_examples
from recipes.stages.decontaminate import (
    EvaluationIndex,
    Overlap,
    decontaminate,
    overlapping,
    refuse_overlap,
)
from recipes.stages.text import normalised_units

DATA = Path(os.environ.get("ZEROQ_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many."


def test_ten_words_in_a_row_are_an_overlap_and_nine_are_not() -> None:
    words = [f"w{number}" for number in range(20)]
    evaluation = ["Before it: " + " ".join(words[:12]) + " after"]
    ten, nine = "Some " + " ".join(words[2:12]) + " x", "Some " + " ".join(words[3:12]) + " x"
    assert overlapping([nine, ten], evaluation) == [Overlap(1, 0, " ".join(words[2:12]))]
    assert overlapping([nine], evaluation, n=9) == [Overlap(0, 0, " ".join(words[3:12]))]


def test_case_punctuation_and_width_do_not_hide_an_overlap_but_digits_count() -> None:
    assert overlapping([LONG.upper().replace(",", " -"), "NATALIA " + LONG.replace("４８", "48")], [LONG]) != []
    other = "Natalia sold clips to 49 of her friends in May, and then she sold half as many."
    assert overlapping([other], [LONG]) == []


def test_short_problems_are_compared_whole() -> None:
    evaluation = ["What is 4 + 9 - 6?", "Compute $2+3$.", "三加二是多少？", " ", ""]
    assert overlapping(["what is 4+9-6", "Compute 2 + 3"], evaluation) == [
        Overlap(0, 0, "the whole problem"),
        Overlap(1, 1, "the whole problem"),
    ]
    assert overlapping(["What is 4 - 9 + 6?", "What is 4 + 9 - 6 today?", "", "  \n"], evaluation) == []
    assert overlapping(["三加二是多少"], evaluation) == [Overlap(0, 2, "the whole problem")]


def test_chinese_overlaps_within_longer_texts() -> None:
    text = "一个农场有三十只鸡和二十头牛请问一共有多少条腿"
    assert [(hit.train, hit.evaluation) for hit in overlapping(["短", "小明问：" + text[3:16]], ["x", text])] == [
        (1, 1)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_against_brute_force(seed: int) -> None:
    generator = random.Random(seed)

    def texts(count: int) -> list[str]:
        return [" ".join(generator.choice("abc") for _ in range(generator.randint(1, 12))) for _ in range(count)]

    train, evaluation = texts(60), texts(25)
    expected = set()
    for number, text in enumerate(train):
        words = normalised_units(text)
        for other in evaluation:
            grams = [other.split()[start : start + 5] for start in range(len(other.split()) - 4)]
            if text == other or any(words[start : start + 5] in grams for start in range(len(words) - 4)):
                expected.add(number)
    found = overlapping(train, evaluation, n=5)
    assert {hit.train for hit in found} == expected
    assert 0 < len(expected) < 60
    for hit in found:
        assert hit.shared == "the whole problem" or hit.shared in evaluation[hit.evaluation]


def test_families_share_their_template() -> None:
    def problem(number: int) -> str:
        return f"State the final answer to the following arithmetic problem, as one number: {number} + 7 ="

    evaluation = [problem(number) for number in range(100)] + [LONG]
    train = [problem(99), problem(100), "Here again: " + LONG]
    assert [hit.train for hit in overlapping(train, evaluation)] == [0, 1, 2]
    assert [hit.train for hit in overlapping(train, evaluation, n=None)] == [0]
    assert [hit.train for hit in overlapping(train, evaluation, max_share=0.5)] == [0, 2]
    assert EvaluationIndex(evaluation, max_share=0.5).num_ignored == 3
    assert EvaluationIndex(evaluation, max_share=1.0).num_ignored == 0


def test_one_row_is_never_common_whatever_the_share() -> None:
    assert [hit.train for hit in overlapping(["Well: " + LONG], [LONG], max_share=0.01)] == [0]


@pytest.mark.parametrize("settings", [{"n": 0}, {"max_share": 0.0}, {"max_share": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|must lie in 0 to 1"):
        EvaluationIndex([LONG], **settings)  # type: ignore[arg-type]


def test_removed_rows_are_counted_by_suite() -> None:
    rows = [("t1", LONG), ("t2", "What is 2 + 2?"), ("t3", "Something else."), ("t4", "Hm, " + LONG)]
    suites = {"gsm8k": ["no", LONG], "sums": ["what is 2+2", LONG], "empty": []}
    kept, report = decontaminate(rows, suites, problem=lambda row: row[1], name=lambda row: row[0])
    assert kept == [rows[2]]
    assert (report.seen, report.removed) == (4, 3)
    assert report.by_suite == {"gsm8k": 2, "sums": 3, "empty": 0}
    assert report.examples == {"gsm8k": ("t1", 1, "the whole problem"), "sums": ("t1", 1, "the whole problem")}
    assert report.rows()[2] == {
        "suite": "empty",
        "removed": 0,
        "ignored_ngrams": 0,
        "example": "",
        "eval_row": "",
        "shared": "",
    }


def test_an_overlap_is_refused_with_both_rows() -> None:
    evaluation = [("e.jsonl:1", "What is it?"), ("e.jsonl:2", LONG)]
    refuse_overlap([("t.jsonl:1", "Other.")], evaluation)
    with pytest.raises(
        UserError, match=r"evaluation set overlaps training data: e\.jsonl:2 and t\.jsonl:7 share \"nat"
    ):
        refuse_overlap([("t.jsonl:6", "Other."), ("t.jsonl:7", "Oh: " + LONG)], evaluation)
    with pytest.raises(UserError, match=r"e\.jsonl:1 and t\.jsonl:7 share the whole problem; remove the training row"):
        refuse_overlap([("t.jsonl:7", "what is it")], evaluation)


# ------------------------------------------------------------------ real sets


def _problems(name: str) -> list[tuple[str, str]]:
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in {DATA}; set ZEROQ_DATA")
    examples = load_examples(str(DATA / name), training=False, need_answer=False)
    return [(example.id, example.prompt) for example in examples]


def test_mgsm_is_the_beginning_of_gsm8k_test() -> None:
    """All 250 English problems of MGSM are GSM8K test problems (the data's README)."""
    test = [text for _, text in _problems("gsm8k_test.jsonl")]
    english = [text for name, text in _problems("mgsm.jsonl") if "/en/" in name or "_en" in name]
    assert len(english) == 250
    hits = overlapping(english, test, n=None)
    assert [(hit.train, hit.evaluation) for hit in hits] == [(number, number) for number in range(250)]
    assert len(overlapping(english, test)) == 250


def test_of_seven_alike_math_problems_two_are_the_same() -> None:
    """Letters and digits of seven agree (the data's README); five of them differ in a sign, bracket or point."""
    train = [text for _, text in _problems("math_train.jsonl.gz")]
    rest = [text for _, text in _problems("math_test_rest.jsonl.gz")]
    letters = {re.sub(r"[\W_]+", "", text.lower()) for text in rest}
    alike = {number for number, text in enumerate(train) if re.sub(r"[\W_]+", "", text.lower()) in letters}
    whole = {hit.train for hit in overlapping(train, rest, n=None)}
    assert (len(alike), len(whole)) == (7, 2)
    assert whole < alike
    assert {r"Compute $\tan 225^\circ$.", r"Compute $\cos 150^\circ$."} <= {train[number] for number in alike - whole}


def test_gsm8k_train_and_test_share_no_problem() -> None:
    train = [text for _, text in _problems("gsm8k_train.jsonl.gz")]
    test = [text for _, text in _problems("gsm8k_test.jsonl")]
    assert overlapping(train, test, n=None) == []
    hits = overlapping(train, test)
    assert 0 < len(hits) < 30  # phrases such as "how much money will she have left over after she"
    for hit in hits:
        assert f" {hit.shared} " in f" {' '.join(normalised_units(train[hit.train]))} "
        assert f" {hit.shared} " in f" {' '.join(normalised_units(test[hit.evaluation]))} "

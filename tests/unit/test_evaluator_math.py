"""Mathematical answers: hand-worked pairs, gaming, and the real golds of GSM8K and MATH-500."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.graders import math_answer
from evaluator.graders.math_answer import compare, grade
from evaluator.graders.mathematics import verifier as math_verifier
from evaluator.graders.mathematics.text import clean
from evaluator.graders.mathematics.words import is_words

RIGHT = [
    ("72", "72"),
    ("72", " 72 "),
    ("72", "72."),
    ("72", "72.0"),
    ("72", "$72$"),
    ("72", "**72**"),
    ("72", "+72"),
    ("72", "\\(72\\)"),
    ("1000", "1,000"),
    ("1000", "$1,000"),
    ("1000", "\\$1{,}000"),
    ("1000", "1\\,000"),
    ("1000", "$1,000.00"),
    ("1234567", "1,234,567"),
    ("18", "18 dollars"),
    ("18", "The answer is 18."),
    ("18", "18 dollars per day"),
    ("18", "$18"),
    ("10", "10 \\text{ cm}^2"),
    ("50\\%", "50"),
    ("50\\%", "0.5"),
    ("50", "50%"),
    ("-3", "-3"),
    ("-3", "−3"),
    ("-3", "-$3"),
    ("0", "0"),
    ("0.5", "1/2"),
    ("\\frac12", "\\frac{1}{2}"),
    ("\\frac{1}{2}", "\\dfrac{1}{2}"),
    ("\\frac{1}{2}", ".5"),
    ("11\\frac{1}{2}", "11.5"),
    ("2\\sqrt{3}", "2√3"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("(3,\\frac{\\pi}{2})", "(3, π/2)"),
    ("\\{1,2\\}", "{2, 1}"),
    ("1,2", "2,1"),
    ("[-2,7]", "-2\\le x\\le 7"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(-\\infty, 2) ∪ (3, ∞)"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("x^2+1", "1+x^2"),
    ("90^\\circ", "90°"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("\\text{Evelyn}", "evelyn"),
    ("\\text{(C)}", "C"),
    ("\\text{June 20}", "June 20"),
    ("Monday", "\\text{Monday}"),
    ("120", "5!"),
]
INTEGRAL = "\\int_0^1 x dx"  # for math-verify: our own reader knows none
WRONG = [
    ("72", "73"),
    ("72", "-72"),
    ("72", "7.2"),
    ("72", "720"),
    ("72", "72.01"),
    ("72", "172"),
    ("72", ""),
    ("72", "$$"),
    ("72", "seventy-two"),
    ("72", "x"),
    ("18", "18 thousand"),
    ("18", "minus 18"),
    ("18", "not 18"),
    ("18", "18 or 19"),
    ("18", "17 18"),
    ("18", "17, 18"),
    ("18", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"),
    ("18", "$17$ then $18$"),
    ("18", "\\{17,18\\}"),
    ("18", "x18"),
    ("5", "5!"),
    ("4", "\\pm 4"),
    ("0.5", "0.6"),
    ("1/3", "0.33"),
    ("1/3", "0.333333"),
    ("\\frac{1}{2}", "\\frac{2}{1}"),
    ("2", "2√3"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("\\{1,2\\}", "\\{1,2,3\\}"),
    ("x^2+1", "x^2-1"),
    ("1", "\\frac{0}{0}"),
    ("5", "\\frac{5}{0}"),
    ("\\text{east}", "seat"),
    ("east", "seat"),
    ("\\text{Evelyn}", "Eve"),
    ("5", "\\frac{"),
    ("5", "}}}{{{"),
    ("5", "\\text{5 or 6}"),
]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_equal(gold: str, answer: str) -> None:
    assert compare(gold, answer)[0]


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_not_equal(gold: str, answer: str) -> None:
    assert not compare(gold, answer)[0]


def test_detail_says_what_was_compared() -> None:
    assert grade("0.5", {"answer": "1/2"}) == {"score": 1.0, "detail": "extracted 0.5, equal to 1/2"}


@pytest.mark.parametrize("gold", [None, "", "  ", 5])
def test_a_task_without_a_gold_answer_is_no_wrong_answer(gold: Any) -> None:
    with pytest.raises(ValueError, match="no gold answer"):
        grade("5", {"answer": gold})


def test_error_that_only_the_answer_provokes_is_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = math_verifier._verify

    def verify(gold: Any, parsed: Any) -> bool:
        if parsed is not gold:
            raise TypeError("odd answer")
        return real(gold, parsed)

    monkeypatch.setattr(math_verifier, "_verify", verify)
    assert compare(INTEGRAL, "\\frac{1}{8}") == (False, "not comparable: TypeError")


def test_error_that_the_gold_provokes_too_is_a_broken_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(gold: Any, parsed: Any) -> bool:
        raise TypeError("broken")

    monkeypatch.setattr(math_verifier, "_verify", verify)
    with pytest.raises(ValueError, match="breaks math-verify"):
        compare(INTEGRAL, "\\frac{1}{8}")


def test_gold_that_does_not_equal_itself_is_a_broken_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(gold: Any, parsed: Any) -> bool:
        if parsed is not gold:
            raise TypeError("odd answer")
        return False

    monkeypatch.setattr(math_verifier, "_verify", verify)
    with pytest.raises(ValueError, match="does not equal itself"):
        compare(INTEGRAL, "\\frac{1}{8}")


def test_self_test_finds_a_parser_that_fails_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    math_answer.self_test()
    math_verifier._parsed_gold.cache_clear()
    monkeypatch.setattr(math_verifier, "_parse", lambda text: [text])  # what math-verify gives when ANTLR is broken
    with pytest.raises(RuntimeError, match="installation is broken"):
        math_answer.self_test()
    math_verifier._parsed_gold.cache_clear()


def test_comparison_works_outside_the_main_thread() -> None:
    found: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: found.append(compare(INTEGRAL, "1/2")))
    thread.start()
    thread.join(30)
    assert found == [(True, "math-verify")]


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_only_to_themselves_however_written(a: int, b: int) -> None:
    for written in (str(b), f"{b:,}", f"{b}.00", f"${b}$", f"{b} apples"):
        assert compare(str(a), written)[0] == (a == b)


@given(st.text(alphabet="0123456789+-*/^(){}[]\\$.,x =frac", max_size=20))
def test_no_short_text_breaks_the_numeric_rules(text: str) -> None:
    """Whatever the model writes, the cheap rules end without an exception."""
    math_answer._number_in_phrase(clean(text))
    assert compare("5", text)[0] in (True, False)


DATA = Path(os.environ.get("ZEROQ_DATA", Path(__file__).parents[3] / "shared" / "data"))


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ZEROQ_DATA ({DATA})")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl.gz", "gsm8k_test.jsonl"])
def test_gsm8k_golds_pass_and_their_successors_fail(name: str) -> None:
    for row in random.Random(0).sample(rows(name), 300):
        gold = row["answer"]
        successor = str(int(gold) + 1)
        for written in (gold, f"${gold}$", f"{int(gold):,}", f"\\boxed{{{gold}}}"):
            assert grade(written, {"answer": gold})["score"] == 1.0
        for written in (successor, f"${successor}$", f"{successor} dollars"):
            assert grade(written, {"answer": gold})["score"] == 0.0


def test_math500_golds_equal_themselves() -> None:
    golds = [row["answer"] for row in rows("math500_dev.jsonl")]
    unequal = [gold for gold in golds if not compare(gold, f"${gold}$")[0]]
    assert len(unequal) <= 0.01 * len(golds), unequal


def test_math500_golds_parse_and_equal_themselves_in_math_verify() -> None:
    """As above, without the shortcut for equal texts."""
    golds = [clean(row["answer"]) for row in rows("math500_dev.jsonl")]
    golds = [gold for gold in golds if not is_words(gold) and math_verifier.admits(gold)]
    unequal = [gold for gold in golds if not math_verifier.agrees(gold, gold)[0]]
    assert len(unequal) <= 0.01 * len(golds), unequal


def test_math500_golds_differ_from_each_other() -> None:
    golds = [row["answer"] for row in rows("math500_dev.jsonl")]
    pairs = itertools.pairwise(golds)
    equal = [pair for pair in pairs if compare(*pair)[0] and clean(pair[0]) != clean(pair[1])]
    assert not equal

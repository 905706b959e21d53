r"""Accuracy of a mathematical answer against a gold answer, by rule.

Cheapest test first; each later one only sees what the earlier could not settle:

    same text after cleaning                 spelling only: delimiters, colours, Unicode, thousands
    words ("\text{Evelyn}", "Monday")        letters and digits compared, case ignored
    values (mathematics/)                   numbers, sets, tuples, intervals, equations, bases, units: exact
    a phrase with one number ("18 dollars")  that number, unless a word changes it ("about 18", "minus 18")
    math-verify                              what our reader does not know (sums, integrals, products of matrices)

Nothing is evaluated by `eval`, no signal or alarm is used, no numeric tolerance is applied. What an answer can ask for
is bounded (size of numbers, depth, terms): beyond it is a wrong answer. math-verify alone can take long; the limit on
it is its caller's, from outside. `self_test` finds an installation that fails on everything.
"""

from __future__ import annotations

import contextlib
import functools
import re
from fractions import Fraction
from typing import Any

from evaluator.extract import final_answer, read
from evaluator.graders import MAX_ANSWER_BYTES
from evaluator.graders.mathematics.equal import same
from evaluator.graders.mathematics.reader import LETTER_UNITS, TOP
from evaluator.graders.mathematics.reader import read as read_value
from evaluator.graders.mathematics.text import clean
from evaluator.graders.mathematics.tree import Contradiction, Node, Refused, Unreadable, number, symbols
from evaluator.graders.mathematics.units import CHANGING
from evaluator.graders.mathematics.values import Labelled, Scalar, Value
from evaluator.graders.mathematics.verifier import admits, agrees
from evaluator.graders.mathematics.words import is_words, same_words

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)")
_PHRASE_LENGTH = 200
_FORMULA = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BEYOND_US = re.compile(r"\\(?:int|iint|oint|sum|prod|lim|det|begin)(?![A-Za-z])")
_WORDED = re.compile(r"\\text\{([^{}]*)\}")


def grade(answer: str, spec: dict[str, Any]) -> dict[str, Any]:
    """1.0 if `answer` equals spec["answer"], else 0.0. ValueError if the gold answer is empty or breaks the grader."""
    gold = spec.get("answer")
    if not isinstance(gold, str) or not gold.strip():
        raise ValueError(f"the task has no gold answer (answer: {gold!r})")
    equal, how = compare(gold, answer)
    relation = "equal to" if equal else "not equal to"
    reason = "" if equal or how not in _TOLD else f" ({how})"
    return {"score": float(equal), "detail": f"extracted {answer[:80]}, {relation} {gold[:80]}{reason}"}


_TOLD = frozenset(("blank", "too large", "contradicts itself"))


def grade_response(gold: str, response: str) -> dict[str, Any]:
    """Verdict on a whole response: {"correct", "reward", "detail"}, by the extraction that training uses.

    ValueError if the gold answer is empty or breaks the grader.
    """
    answer = final_answer(read("", response))
    if answer is None:
        return {"correct": False, "reward": 0.0, "detail": "no answer found outside the reasoning"}
    size = len(answer.encode("utf-8", "surrogatepass"))
    if size > MAX_ANSWER_BYTES:
        detail = f"answer of {size} bytes refused (at most {MAX_ANSWER_BYTES})"
        return {"correct": False, "reward": 0.0, "detail": detail}
    found = grade(answer, {"answer": gold})
    return {"correct": found["score"] >= 1.0, "reward": found["score"], "detail": found["detail"]}


def compare(gold: str, answer: str) -> tuple[bool, str]:
    """Whether `answer` equals `gold`, and by which rule that was found."""
    clean_gold, clean_answer = clean(gold), clean(_only_formula(answer))
    if not clean_answer:
        return False, "blank"
    if clean_gold == clean_answer:
        return True, "same text"
    if is_words(clean_gold):
        return same_words(clean_gold, clean_answer), "words"
    gold_value = _gold_value(clean_gold)
    try:
        if gold_value is not None:
            settled = _by_value(gold_value, clean_answer)
            if settled is not None:
                return settled
    except Contradiction:
        return False, "contradicts itself"
    except (Refused, RecursionError):
        return False, "too large"
    except MemoryError:
        raise
    except Exception as error:
        if gold_value is None or not same(gold_value, gold_value):
            raise
        return False, f"not comparable: {type(error).__name__}"  # only the answer provokes it
    if gold_value is not None and not _BEYOND_US.search(clean_answer):
        return False, "not readable"
    if not (admits(clean_gold) and admits(clean_answer)):
        return gold_value is None and same_words(clean_gold, clean_answer), "words"
    try:
        return agrees(clean_gold, clean_answer)
    except ValueError:
        if gold_value is None:
            raise
        return False, "not comparable"  # the gold answer is sound: we can read it


def self_test() -> None:
    """RuntimeError unless equal and unequal are told apart here (a broken ANTLR runtime makes all unequal)."""
    for gold, answer, expected in (
        (r"\frac{1}{2}", "0.5", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        ("(1,2)", "[1,2]", False),
    ):
        if compare(gold, answer)[0] is not expected or agrees(gold, answer)[0] is not expected:
            raise RuntimeError(
                f"math-verify finds {answer} {'unequal' if expected else 'equal'} to {gold} here: "
                "its installation is broken (math-verify, latex2sympy2_extended, antlr4-python3-runtime versions)"
            )


@functools.lru_cache(maxsize=1024)
def _gold_value(gold: str) -> Value | None:
    try:
        return read_value(gold)
    except (Unreadable, Refused, RecursionError):
        return None


def _by_value(gold: Value, answer: str) -> tuple[bool, str] | None:
    """What our own reader says; None if it cannot read the answer."""
    try:
        algebra = isinstance(gold, Labelled) or (isinstance(gold, Scalar) and symbols(gold.node))
        place = TOP if algebra else LETTER_UNITS
        return same(gold, read_value(answer, place)), "value"
    except Unreadable:
        found = _number_in_phrase(answer) if isinstance(gold, Scalar) else None
    if found is not None:
        return same(gold, Scalar(found)), "number in a phrase"
    return None


def _only_formula(text: str) -> str:
    r"""The formula of a sentence that has one: `The sum is $\frac{1}{2}$.` What follows it stays, as a unit may."""
    found = _FORMULA.search(text)
    if found is None:
        return text
    before, after = text[: found.start()], text[found.end() :].strip(" .!\n")
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", f"{before} {after}".lower())
    plain = not re.search(r"[\d$\\=<>+*/{}]", before + after)
    if not plain or not re.search(r"[^\W\d_]{2}", before) or CHANGING.intersection(words):
        return text
    inner = next(part for part in found.groups() if part is not None).strip()
    return rf"{inner} \text{{{after}}}" if after else inner


def _number_in_phrase(text: str) -> Node | None:
    """The number of a phrase that holds exactly one and no word that changes it."""
    if len(text) > _PHRASE_LENGTH:
        return None
    text = _WORDED.sub(r" \1 ", text).replace(r"\$", " ").replace("$", " ").strip(" .!")
    numbers = list(_NUMBER.finditer(text))
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())
    if len(numbers) != 1 or not words or CHANGING.intersection(words):
        return None
    around = text[: numbers[0].start()], text[numbers[0].end() :]
    if not re.fullmatch(r"(?:[\w\s,.:'-]*[\s:])?", around[0]) or not re.fullmatch(
        r"(?:[\s,.:][\w\s,.:'/-]*)?", around[1]
    ):
        return None
    if not all(len(word) > 1 or word == "a" for word in words):
        return None
    return number(Fraction(numbers[0][0]))


with contextlib.suppress(
    Exception
):  # fills ANTLR's tables before workers are forked (0.3 s each); a failing test speaks up in the workers
    self_test()

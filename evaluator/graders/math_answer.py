r"""Accuracy of a mathematical answer against a gold answer, by rule.

Cheapest test first; each later one only sees what the earlier could not settle:

    plain numbers ("1,000", "$18", "-3.50")  exact arithmetic
    text golds ("\text{Evelyn}", "Monday")   letters and digits compared, case ignored
    a phrase with one number ("18 dollars")  that number, unless a word changes it ("18 thousand", "minus 18")
    all else                                 math-verify: LaTeX, fractions, sets, intervals, matrices, percent, units

math-verify's own time limits (SIGALRM: main thread only) are off; whoever calls this enforces one from outside.
Its errors are not swallowed: an error that the gold answer provokes too is a broken grader and is raised; one that
only the answer provokes is a wrong answer. `self_test` finds an installation that fails on everything.
Accepted on purpose, as in math-verify: an unevaluated equal ("48/2"), `x=5` for 5, a percent sign or unit left out.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from fractions import Fraction
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once that its time limit is off: so it should be

_CONFIG = [LatexExtractionConfig()]
_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "÷": "/",
        "·": r"\cdot ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "°": r"^\circ ",
        "\u00a0": " ",
        "\u202f": " ",
    }
)
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\!|\\ )(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[+-]?\.\d+")
_CURRENCY = r"(?:\\?\$|[€£¥₹])"
_PRICE = re.compile(rf"([+-]?)\s*{_CURRENCY}\s*(?=[\d.])")
_TEXT_GOLD = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\{[^{}]*\}|[^\W\d_]{4,}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_PLAIN = r"(?:[^\W\d_]|[\s,.:'’])*"
_PHRASE = re.compile(rf"(?P<before>{_PLAIN})(?P<number>{_NUMBER.pattern})(?P<after>{_PLAIN})")
_CHANGES_NUMBER = frozenset(
    {
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "dozen",
        "score",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "fifth",
        "tenth",
        "minus",
        "negative",
        "plus",
        "times",
        "twice",
        "double",
        "triple",
        "squared",
        "cubed",
        "percent",
        "pct",
        "not",
        "no",
        "over",
        "point",
        "and",
        "or",
        "to",
    }
)


def grade(answer: str, spec: dict[str, Any]) -> dict[str, Any]:
    """1.0 if `answer` equals spec["answer"], else 0.0. ValueError if the gold answer is empty or breaks the grader."""
    gold = spec.get("answer")
    if not isinstance(gold, str) or not gold.strip():
        raise ValueError(f"the task has no gold answer (answer: {gold!r})")
    equal, how = compare(gold, answer)
    relation = "equal to" if equal else "not equal to"
    return {"score": float(equal), "detail": f"extracted {answer[:80]}, {relation} {gold[:80]} ({how})"}


def compare(gold: str, answer: str) -> tuple[bool, str]:
    """Whether `answer` equals `gold`, and by which rule that was found."""
    clean_gold, clean_answer = _clean(gold), _clean(answer)
    if not clean_answer:
        return False, "blank"
    if clean_gold == clean_answer:
        return True, "same text"
    if _TEXT_GOLD.fullmatch(clean_gold):
        return _letters(clean_gold) == _letters(clean_answer) != "", "text"
    gold_number, number = _number(clean_gold), _number(clean_answer)
    if gold_number is not None and number is None:
        number = _number_in_phrase(clean_answer)
    if gold_number is not None and number is not None:
        if gold_number == number:
            return True, "number"
        if gold_number.denominator == number.denominator == 1:
            return False, "number"
    return _symbolic(clean_gold, clean_answer)


def self_test() -> None:
    """RuntimeError unless math-verify tells equal from unequal here (a broken ANTLR runtime makes all unequal)."""
    for gold, answer, expected in (
        (r"\frac{1}{2}", "0.5", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        ("(1,2)", "[1,2]", False),
    ):
        if compare(gold, answer)[0] is not expected:
            raise RuntimeError(
                f"math-verify finds {answer} {'unequal' if expected else 'equal'} to {gold} here: "
                "its installation is broken (math-verify, latex2sympy2_extended, antlr4-python3-runtime versions)"
            )


def _symbolic(gold: str, answer: str) -> tuple[bool, str]:
    parsed_gold = _parsed_gold(gold)
    try:
        parsed = _parse(answer)
        return bool(parsed) and _verify(parsed_gold, parsed), "math-verify"
    except MemoryError:
        raise
    except Exception as error:
        try:
            sound = _verify(parsed_gold, parsed_gold)
        except Exception as broken:
            raise ValueError(f"gold answer {gold[:80]!r} breaks math-verify: {broken}") from broken
        if not sound:
            raise ValueError(f"gold answer {gold[:80]!r} does not equal itself in math-verify") from error
        return False, f"not comparable: {type(error).__name__}"


@functools.lru_cache(maxsize=1024)
def _parsed_gold(gold: str) -> Any:
    parsed = _parse(gold)
    if not parsed:
        raise ValueError(f"gold answer {gold[:80]!r} cannot be read by math-verify")
    return parsed


def _parse(text: str) -> Any:
    """Sympy expression and its source text, as math-verify wants them."""
    segments = len(re.findall(r"(?<!\\)\$", text)) // 2 + text.count(r"\(") + text.count(r"\[")
    if segments != 1:  # of several segments math-verify would believe the last one: several guesses
        text = re.sub(r"(?<!\\)\$|\\[()\[\]]", " ", text)
        text = f"${text}$"
    return parse(text, extraction_config=_CONFIG, parsing_timeout=None, raise_on_error=True)


def _verify(gold: Any, parsed: Any) -> bool:
    return bool(verify(gold, parsed, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True))


def _clean(text: str) -> str:
    """Same mathematics, fewer spellings: one pair of delimiters off, Unicode signs as LaTeX, 1{,}000 as 1000."""
    text = text.strip()
    for opening, closing in (("**", "**"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(opening) : -len(closing)]
        long_enough = len(text) > len(opening) + len(closing)
        if long_enough and text.startswith(opening) and text.endswith(closing) and opening not in inner:
            text = inner.strip()
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text.translate(_UNICODE))
    text = _GROUPED.sub("", text)
    text = _PRICE.sub(r"\1", text)
    return text.rstrip(".").strip() if not text.endswith("..") else text


def _number(text: str) -> Fraction | None:
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _number_in_phrase(text: str) -> Fraction | None:
    """The number of a phrase that holds exactly one and no word that changes it."""
    phrase = _PHRASE.fullmatch(text) if len(text) <= 200 else None
    if (
        phrase is None
        or not re.fullmatch(r"(.*\s)?", phrase["before"])
        or not re.fullmatch(r"([\s,.:].*)?", phrase["after"])
    ):
        return None
    words = re.findall(r"[^\W\d_]+", f"{phrase['before']} {phrase['after']}".lower())
    return None if _CHANGES_NUMBER.intersection(words) else _number(phrase["number"])


def _letters(text: str) -> str:
    text = _TEXT_COMMAND.sub(r"\1", text)
    return "".join(character for character in text.casefold() if character.isalnum() or character in "+-.")


with contextlib.suppress(
    Exception
):  # fills ANTLR's tables before workers are forked (0.3 s each); a failing test speaks up in the workers
    self_test()

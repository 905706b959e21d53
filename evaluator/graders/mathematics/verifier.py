"""math-verify, for what our own reader does not know: sums, integrals, products of matrices, higher inequalities.

Its own time limits (SIGALRM: main thread only) are off; whoever calls this enforces one from outside. Its tolerance is
off too (floats are compared to 40 decimals). Texts that are long, deep, wordy or ask for huge powers never reach it.
Its errors are not swallowed: an error that the gold answer provokes too is a broken grader and is raised; one that
only the answer provokes is a wrong answer.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once that its time limit is off: so it should be

MAX_CHARACTERS = 300
MAX_NESTING = 12
_CONFIG = [LatexExtractionConfig()]
_DECIMALS = 40
_HUGE = re.compile(r"\d{16}|\^\s*\{?\s*[-+(]*\d{3}|\d{3}\s*!|!\s*!|\^\s*(?:\{[^{}]*\^|[\w.]+\s*\^)|\)\s*!")
_WORDS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}|\\text|__|_\s*_|@|#|\?|[\"'`]|\\(?:input|write|def|include)")


def admits(text: str) -> bool:
    """Whether a text is small and mathematical enough to be read by math-verify."""
    if len(text) > MAX_CHARACTERS or _HUGE.search(text) or _WORDS.search(text):
        return False
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING


def agrees(gold: str, answer: str) -> tuple[bool, str]:
    """Whether math-verify finds the answer equal, and how. ValueError if the gold answer breaks it."""
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
    """Sympy expression and its source text, as math-verify wants them. LaTeX only: its reader of plain expressions
    uses `eval`."""
    text = re.sub(r"(?<!\\)\$|\\[()\[\]]", " ", text).replace(r"\R", r"\mathbb{R}").replace(r"\deg", r"^{\circ}")
    return parse(f"${text}$", extraction_config=_CONFIG, parsing_timeout=None, raise_on_error=True)


def _verify(gold: Any, parsed: Any) -> bool:
    return bool(
        verify(
            gold,
            parsed,
            float_rounding=_DECIMALS,
            numeric_precision=_DECIMALS,
            timeout_seconds=None,
            raise_on_error=True,
            allow_set_relation_comp=True,
        )
    )

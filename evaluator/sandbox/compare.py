"""Whether an output or a value is the expected one. Pure; runs outside the sandbox.

default   blanks at the ends of lines, blank lines at the end, and CR LF do not matter; all else does
tokens    equal after splitting at white space
float     as tokens, and number tokens may differ by 1e-6, absolute or relative to the expected; nan and inf never match
"""

from __future__ import annotations

import math
import re
from itertools import zip_longest
from typing import Any

from evaluator.sandbox.job import Compare

TOLERANCE = 1e-6
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_MAX_NUMBER_CHARACTERS = 400


def outputs_match(expected: str, actual: str, how: Compare) -> tuple[bool, str]:
    """Whether `actual` passes for `expected`, and where they part if not."""
    if how == "default":
        wanted, got = _lines(expected), _lines(actual)
    else:
        wanted, got = expected.split(), actual.split()
    what = "line" if how == "default" else "token"
    for number, (left, right) in enumerate(zip_longest(wanted, got), start=1):
        if left == right and not (how == "float" and _NOT_FINITE.fullmatch(left or "")):
            continue
        if left is None:
            return False, f"{what} {number}: {_short(right)} where nothing was expected"
        if right is None:
            return False, f"{what} {number}: missing, expected {_short(left)}"
        if how != "float" or not _close(left, right):
            return False, f"{what} {number}: {_short(right)}, expected {_short(left)}"
    return True, ""


def values_match(expected: Any, actual: Any) -> bool:
    """Python's equality on plain values; a tuple may stand for a list at the top."""
    return bool((list(actual) if isinstance(actual, tuple) else actual) == expected)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip(" \t\r\f\v") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _close(expected: str, actual: str) -> bool:
    wanted, got = _number(expected), _number(actual)
    if wanted is None or got is None:
        return False
    return abs(wanted - got) <= TOLERANCE * max(1.0, abs(wanted))


def _number(token: str) -> float | None:
    if len(token) > _MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(token):
        return None
    value = float(token)
    return value if math.isfinite(value) else None


def _short(text: str | None) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."

r"""Tokens of a mathematical text: numbers (`2.3e4`, `0.\overline{3}`), letters, commands, signs. Bounded in number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from evaluator.graders.mathematics.tree import TooLarge

MAX_TOKENS = 1500
MAX_DIGITS = 1000  # of one number

_TOKEN = re.compile(
    r"(?P<repeat>\d*\.\d*\\(?:overline|bar|dot)\s*(?:\{\d+\}|\d))"
    r"|(?P<power>(?:\d+(?:\.\d+)?|\.\d+)[eE][+-]?\d{1,4}(?![\d.]))"
    r"|(?P<number>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<letter>[^\W\d_])|(?P<space>\s+)|(?P<sign>.)",
    re.DOTALL,
)
_REPEAT = re.compile(r"(\d*)\.(\d*)\\[a-z]+\s*\{?(\d+)\}?")


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: number (with `value`), letter, command or sign; `spaced`: white space came before it."""

    kind: str
    text: str
    spaced: bool
    value: Fraction = Fraction(0)


def tokens(text: str) -> list[Token]:
    """Tokens of a text; TooLarge past the bounds."""
    found: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        piece = match.group()
        if kind == "space":
            spaced = True
            continue
        value = Fraction(0)
        if kind in ("repeat", "power", "number"):
            if len(piece) > MAX_DIGITS:
                raise TooLarge(f"a number of {len(piece)} digits")
            value = _constant(kind, piece)
            kind = "number"
        found.append(Token(kind, piece, spaced, value))
        spaced = False
        if len(found) > MAX_TOKENS:
            raise TooLarge(f"more than {MAX_TOKENS} tokens")
    return found


def _constant(kind: str, piece: str) -> Fraction:
    if kind == "repeat":
        match = _REPEAT.fullmatch(piece)
        assert match is not None
        whole, head, tail = match.groups()
        fixed = Fraction(int(f"{whole}{head}" or "0"), 10 ** len(head))
        return fixed + Fraction(int(tail), (10 ** len(tail) - 1) * 10 ** len(head))
    if kind == "power":
        mantissa, _, exponent = piece.lower().partition("e")
        if abs(int(exponent)) > MAX_DIGITS:
            raise TooLarge(f"an exponent of {exponent}")
        return Fraction(mantissa) * Fraction(10) ** int(exponent)
    return Fraction(piece)

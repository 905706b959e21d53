"""Owns how the data stages cut a text: into words that need no blanks between them, and a response into its parts.

`units` are what every count here is made in: a word of a script that is written with blanks, or one character of a
script that is not (Chinese, Japanese, Thai, Lao, Khmer, Burmese). So n-grams, repetition and lengths mean something in
every language, and ten units of Chinese are fewer words than ten of English.

Responses are read by common/response.py, as the evaluators read them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from common.response import ANSWER, END_ANSWER, END_THINK, THINK, read, summary

ResponseFormat = Literal["tags", "think"]

_SHAPES: dict[str, tuple[re.Pattern[str], tuple[str, ...]]] = {
    "tags": (
        re.compile(r"\s*<think>(?P<reasoning>.*?)</think>\s*<answer>(?P<summary>.*?)</answer>\s*", re.DOTALL),
        (THINK, END_THINK, ANSWER, END_ANSWER),
    ),
    "think": (re.compile(r"\s*<think>(?P<reasoning>.*?)</think>(?P<summary>.*)", re.DOTALL), (THINK, END_THINK)),
}
_WITHOUT_BLANKS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNIT = rf"[{_WITHOUT_BLANKS}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_WITHOUT_BLANKS}]]+"
# Operators and brackets. A hyphen within a word and marks at the end of a sentence are prose, $ \ { } are TeX's markup.
_SIGN = r"[\p{S}--[$]]|[*/%&#@()\[\]]|(?<!\p{L})-|-(?!\p{L})|(?<=\p{N})[.,:](?=\p{N})|(?<=[\p{N})])!"


@dataclass(frozen=True)
class Parts:
    """A response taken apart. `text` includes a `<think>` that its prompt ended with; `summary` is what a reader sees:
    the last complete answer block's content, else all visible text; both stripped."""

    text: str
    reasoning: str
    summary: str


def split_response(response: str, prompt: str = "") -> Parts:
    """Take `response`, which followed `prompt`, apart; nested and unclosed blocks are read as the module says."""
    found = read(prompt, response)
    return Parts(found.text, found.reasoning.strip(), summary(found))


def format_fault(text: str, style: ResponseFormat) -> str | None:
    """What is wrong with the shape of a whole response (`Parts.text`); None if it is well formed.

    `tags`: one think block, one answer block, nothing but white space around them; `think`: one think block first,
    then free text. Neither part may be blank.
    """
    shape, tags = _SHAPES[style]
    for tag in tags:
        if (count := text.count(tag)) != 1:
            return f"{count} of {tag}, one is expected"
    found = shape.fullmatch(text)
    if found is None:
        return "text outside the tags, or tags out of order"
    if not found["reasoning"].strip():
        return "empty reasoning"
    return None if found["summary"].strip() else "empty summary"


def units(text: str) -> list[str]:
    """Words of `text` as written; characters (with their marks) where the script has no blanks. No punctuation."""
    found: list[str] = _unit_pattern().findall(text)
    return found


def normalised_units(text: str) -> list[str]:
    """`units` of the text in compatibility form (full-width digits are digits) and without case; digits are kept."""
    return units(unicodedata.normalize("NFKC", text).casefold())


def canonical_units(text: str) -> list[str]:
    """`normalised_units` and, between them, the signs that tell two problems apart: operators, brackets, points.

    Equal for texts equal but for case, width, white space and the punctuation of prose; "4 - 9 + 6" is not "4 + 9 - 6".
    """
    found: list[str] = _canonical_pattern().findall(
        unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    )
    return found


@functools.cache
def _unit_pattern() -> Any:
    import regex  # re's \w splits words at combining marks, which Hindi and Thai are full of

    return regex.compile(_UNIT, flags=regex.VERSION1)


@functools.cache
def _canonical_pattern() -> Any:
    import regex

    return regex.compile(rf"{_UNIT}|{_SIGN}", flags=regex.VERSION1)

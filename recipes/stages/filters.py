"""Owns which responses are readable enough to train on (arXiv 2501.12948, 2.3.1 and 2.3.3: a readable format with a
summary; chains of mixed languages, long paragraphs and code blocks are filtered out).

Each filter is a pure function of one response that answers `KEPT` or a `Reason`. `apply_filters` asks them in the order
of `FILTERS`, the cheap ones first; a response counts under the first that refuses it. A limit of null turns a filter
off. What a filter needs and does not have (the number of tokens, a language's share) is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import Field

from common.config import Section
from common.errors import UserError
from recipes.stages.repetition import looping_tail, repeated_lines, repeated_ngrams
from recipes.stages.text import Parts, ResponseFormat, format_fault, normalised_units, split_response, units

FILTERS = ("truncated", "length", "format", "code_block", "long_paragraph", "language_mixing", "repetition")
LanguageShare = Callable[[str, str], float]  # (reasoning, ISO 639-1 code) -> share of words in that language, 0 to 1

_CODE_FENCE = re.compile(r"^[ \t>]*(?:```|~~~)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n[ \t]*\n")
_HAS_WORD = re.compile(r"[^\W\d_]{2}|[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_FORMULA = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+", re.DOTALL)
_LOOP_WINDOW = 4000  # characters of the end in which a loop is looked for


@dataclass(frozen=True)
class Kept:
    """The filter has nothing against the response."""


@dataclass(frozen=True)
class Reason:
    """Why a response is left out; `filter` is one of FILTERS."""

    filter: str
    detail: str


KEPT = Kept()
Judgement = Kept | Reason


class FilterSettings(Section):
    """Limits of the readability filters. null switches one off; lengths in units are words, or characters of scripts
    without blanks."""

    truncated: bool = Field(True, description="Leave out responses that were cut off at the token limit.")
    format: ResponseFormat | None = Field(
        "tags", description="tags: <think>..</think><answer>..</answer>; think: <think>..</think> and free text."
    )
    min_summary_units: int = Field(1, ge=0, description="Shortest part after the reasoning.")
    min_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    min_characters: int | None = Field(None, ge=1)
    max_characters: int | None = Field(None, ge=1)
    code_blocks: bool = Field(True, description="Leave out fenced code in the reasoning, but in code_domains.")
    code_domains: tuple[str, ...] = ("code",)
    max_paragraph_units: int | None = Field(200, ge=1, description="Longest stretch of reasoning without a break.")
    max_paragraph_characters: int | None = Field(None, ge=1)
    paragraph_break: Literal["line", "blank_line"] = Field("line", description="What ends a paragraph.")
    min_language_share: float | None = Field(
        0.9, ge=0, le=1, description="Smallest share of words in the row's language; rows without one are not checked."
    )
    ngram: int = Field(10, ge=2, description="Units of an n-gram whose repetition counts.")
    max_repeated_ngrams: float | None = Field(0.3, ge=0, le=1, description="Share of n-grams that stood earlier.")
    max_repeated_lines: float | None = Field(0.3, ge=0, le=1, description="Share of long lines that stood earlier.")
    min_line_characters: int = Field(20, ge=1, description="Lines shorter than this may be repeated.")
    max_loops: float | None = Field(4, gt=1, description="Copies of one block at the end that make a loop.")
    min_loop_characters: int = Field(80, ge=2, description="Length of all copies from which an end counts as a loop.")


@dataclass(frozen=True)
class FilterInput:
    """What the filters may look at. `language_share`: of the reasoning, if it is known already."""

    id: str
    response: str
    prompt: str = ""
    language: str | None = None
    domain: str = "math"
    num_tokens: int | None = None
    clipped: bool = False
    language_share: float | None = None


@dataclass
class FilterReport:
    """What `apply_filters` left out: how many rows by filter, and one example each (id and detail)."""

    seen: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILTERS, 0))
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, row_id: str, judgement: Judgement) -> None:
        """Count one row's judgement."""
        self.seen += 1
        if isinstance(judgement, Reason):
            self.counts[judgement.filter] += 1
            self.examples.setdefault(judgement.filter, (row_id, judgement.detail))

    @property
    def kept(self) -> int:
        """Rows that no filter refused."""
        return self.seen - sum(self.counts.values())

    def rows(self) -> list[dict[str, str | int]]:
        """One row a filter that left something out, for a results table."""
        return [
            {"filter": name, "rows": count, "example": self.examples[name][0], "detail": self.examples[name][1]}
            for name, count in self.counts.items()
            if count
        ]


def truncated(response: str, *, clipped: bool) -> Judgement:
    """`clipped`: sampling ended at the token limit and not at an end token."""
    return Reason("truncated", f"cut off after {len(response)} characters") if clipped else KEPT


def length(
    response: str,
    *,
    num_tokens: int | None = None,
    tokens: tuple[int | None, int | None] = (None, None),
    characters: tuple[int | None, int | None] = (None, None),
) -> Judgement:
    """Bounds (least, most; both allowed) on tokens and on characters. ValueError: token bounds without `num_tokens`."""
    if num_tokens is None and tokens != (None, None):
        raise ValueError("the number of tokens is unknown; use min_characters and max_characters, or set num_tokens")
    for value, (least, most), unit in ((num_tokens or 0, tokens, "tokens"), (len(response), characters, "characters")):
        if least is not None and value < least:
            return Reason("length", f"{value} {unit}, at least {least}")
        if most is not None and value > most:
            return Reason("length", f"{value} {unit}, at most {most}")
    return KEPT


def well_formed(response: str, *, prompt: str = "", style: ResponseFormat = "tags", min_summary: int = 1) -> Judgement:
    """The shape that `style` names, and a summary of at least `min_summary` units after the reasoning.

    A prompt that ends with `<think>` belongs to the response. A summary of symbols alone ("= ?") has no unit.
    """
    parts = split_response(response, prompt)
    if fault := format_fault(parts.text, style):
        return Reason("format", fault)
    if (count := len(units(parts.summary))) < min_summary:
        return Reason("format", f"summary of {count} words, at least {min_summary}")
    return KEPT


def code_blocks(response: str, *, prompt: str = "") -> Judgement:
    """No fenced code (``` or ~~~ at a line's beginning) in the reasoning; the summary may have some."""
    reasoning = split_response(response, prompt).reasoning
    if found := _CODE_FENCE.search(reasoning):
        return Reason("code_block", f"code fence at character {found.start()} of the reasoning")
    return KEPT


def long_paragraph(
    response: str,
    *,
    prompt: str = "",
    max_units: int | None = None,
    max_characters: int | None = None,
    at_blank_lines: bool = False,
) -> Judgement:
    """No stretch of reasoning longer than a limit without a line break (`at_blank_lines`: without a blank line)."""
    reasoning = split_response(response, prompt).reasoning
    for paragraph in _BLANK_LINES.split(reasoning) if at_blank_lines else reasoning.splitlines():
        if max_characters is not None and (size := len(paragraph.strip())) > max_characters:
            return Reason("long_paragraph", f"{size} characters without a break, at most {max_characters}")
        if max_units is None or len(paragraph) <= max_units:
            continue  # a unit has at least one character
        if (size := len(units(paragraph))) > max_units:
            return Reason("long_paragraph", f"{size} words without a break, at most {max_units}")
    return KEPT


def language_mixing(
    response: str,
    *,
    language: str,
    share: float | LanguageShare,
    minimum: float,
    prompt: str = "",
) -> Judgement:
    """At least `minimum` of the reasoning's words in `language`; `share`: that number, or who counts it.

    Reasoning without words, formulas alone, mixes no languages and is kept.
    """
    reasoning = split_response(response, prompt).reasoning
    if not _HAS_WORD.search(_FORMULA.sub(" ", reasoning)):
        return KEPT
    value = share(reasoning, language) if callable(share) else share
    if not 0 <= value <= 1:
        raise ValueError(f"the language share of a response is {value}, which does not lie in 0 to 1")
    if value < minimum:
        return Reason("language_mixing", f"{value:.2f} of the words in {language}, at least {minimum:g}")
    return KEPT


def repetition(
    response: str,
    *,
    ngram: int = 10,
    max_ngrams: float | None = 0.3,
    max_lines: float | None = 0.3,
    min_line_characters: int = 20,
    max_loops: float | None = 4,
    min_loop_characters: int = 80,
    prompt: str = "",
) -> Judgement:
    """No loop at the end of the reasoning or of the whole, few lines and n-grams that stood before.

    An end loops if it is at least `max_loops` copies of one block and these are at least `min_loop_characters` long.
    """
    parts = split_response(response, prompt)
    if max_loops is not None and (reason := _loops(parts, max_loops, min_loop_characters)):
        return reason
    if max_lines is not None and (share := repeated_lines(parts.text, min_line_characters)) > max_lines:
        return Reason("repetition", f"{share:.2f} of the lines stood before, at most {max_lines:g}")
    if max_ngrams is not None and (share := repeated_ngrams(normalised_units(parts.text), ngram)) > max_ngrams:
        return Reason("repetition", f"{share:.2f} of the {ngram}-grams stood before, at most {max_ngrams:g}")
    return KEPT


def _loops(parts: Parts, max_loops: float, min_characters: int) -> Reason | None:
    for name, text in (("reasoning", parts.reasoning), ("summary", parts.summary), ("response", parts.text)):
        loop = looping_tail(" ".join(text.split())[-_LOOP_WINDOW:])
        if loop.times >= max_loops and loop.period * loop.times >= min_characters:
            return Reason("repetition", f"the {name} ends in {loop.times:.0f} copies of {loop.period} characters")
    return None


def judge_response(
    row: FilterInput, settings: FilterSettings, language_share: LanguageShare | None = None
) -> Judgement:
    """The first filter's refusal of `row`, or KEPT. Raises ValueError when a filter lacks what it needs."""
    text, prompt, s = row.response, row.prompt, settings
    checks: list[Callable[[], Judgement]] = []
    if s.truncated:
        checks.append(lambda: truncated(text, clipped=row.clipped))
    bounds = ((s.min_tokens, s.max_tokens), (s.min_characters, s.max_characters))
    checks.append(lambda: length(text, num_tokens=row.num_tokens, tokens=bounds[0], characters=bounds[1]))
    if (style := s.format) is not None:
        checks.append(lambda: well_formed(text, prompt=prompt, style=style, min_summary=s.min_summary_units))
    if s.code_blocks and row.domain not in s.code_domains:
        checks.append(lambda: code_blocks(text, prompt=prompt))
    if s.max_paragraph_units is not None or s.max_paragraph_characters is not None:
        checks.append(
            lambda: long_paragraph(
                text,
                prompt=prompt,
                max_units=s.max_paragraph_units,
                max_characters=s.max_paragraph_characters,
                at_blank_lines=s.paragraph_break == "blank_line",
            )
        )
    if (minimum := s.min_language_share) is not None and (language := row.language) is not None:
        share = row.language_share if row.language_share is not None else language_share
        if share is None:
            raise ValueError(
                "no share of its language is known; pass language_share, or set min_language_share to null"
            )
        checks.append(lambda: language_mixing(text, language=language, share=share, minimum=minimum, prompt=prompt))
    checks.append(lambda: _repetition(row, s))
    for check in checks:
        if isinstance(judgement := check(), Reason):
            return judgement
    return KEPT


def _repetition(row: FilterInput, s: FilterSettings) -> Judgement:
    return repetition(
        row.response,
        ngram=s.ngram,
        max_ngrams=s.max_repeated_ngrams,
        max_lines=s.max_repeated_lines,
        min_line_characters=s.min_line_characters,
        max_loops=s.max_loops,
        min_loop_characters=s.min_loop_characters,
        prompt=row.prompt,
    )


T = TypeVar("T")


def apply_filters(
    rows: Iterable[T],
    settings: FilterSettings,
    *,
    view: Callable[[T], FilterInput],
    language_share: LanguageShare | None = None,
    report: FilterReport | None = None,
) -> tuple[list[T], FilterReport]:
    """The rows that pass every filter, in order, and what was left out; `report` goes on with an earlier one.

    `view` shows the filters what they need of a row (`merge.corpus_view` for corpus rows). Raises UserError naming
    the row when a filter lacks what it needs.
    """
    report = report or FilterReport()
    kept: list[T] = []
    for row in rows:
        given = view(row)
        try:
            judgement = judge_response(given, settings, language_share)
        except ValueError as error:
            raise UserError(f"filters: row {given.id!r}: {error}") from None
        report.add(given.id, judgement)
        if isinstance(judgement, Kept):
            kept.append(row)
    return kept, report

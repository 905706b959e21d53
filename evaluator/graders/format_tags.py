"""Format reward: one think part, then one answer part (R1's format reward).

    strict    <think> ... </think> <answer> ... </answer>    each tag once, in this order, neither part blank,
                                                             nothing but white space before, between and after
    lenient   as strict, but any text may stand before, between and after the parts ("Sure! <think>...")

Blank: nothing visible (white space and characters without a shape, such as a zero-width space). A tag counts wherever
it stands, so a response that quotes `<answer>` in its reasoning has it twice. A prompt that ended with `<think>` gives
that tag to the response (`evaluator.extract.read`).
"""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

from evaluator.extract import Response

Mode = Literal["strict", "lenient"]
MODES: tuple[Mode, ...] = ("strict", "lenient")
THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
_TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")


def score(response: Response, mode: Mode = "strict") -> float:
    """1.0 when the response has the shape, else 0.0."""
    return 1.0 if fault(response.text, mode) is None else 0.0


def grade_response(response_text: str, mode: str = "strict") -> dict[str, Any]:
    """Reward and detail for a whole response. ValueError: unknown mode."""
    found = fault(response_text, mode)
    return {"reward": 1.0 if found is None else 0.0, "detail": found or "one think part, then one answer part"}


def fault(text: str, mode: str = "strict") -> str | None:
    """The first thing wrong with the shape of `text`; None if it is right. ValueError: unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode = {mode!r}: not a format mode; known: {', '.join(MODES)}")
    for tag in _TAGS:
        if (count := text.count(tag)) != 1:
            return f"{tag} stands there {count} times, not once"
    starts = [text.index(tag) for tag in _TAGS]
    if starts != sorted(starts):
        return f"the tags are out of order: {' '.join(tag for _, tag in sorted(zip(starts, _TAGS, strict=True)))}"
    think, end_think, answer, end_answer = starts
    parts = {
        "think": text[think + len(THINK) : end_think],
        "answer": text[answer + len(ANSWER) : end_answer],
    }
    for name, part in parts.items():
        if not any(unicodedata.category(character) not in _INVISIBLE for character in part):
            return f"the {name} part is empty"
    outside = {
        "before the think part": text[:think],
        "between the parts": text[end_think + len(END_THINK) : answer],
        "after the answer part": text[end_answer + len(END_ANSWER) :],
    }
    if mode == "strict":
        for where, piece in outside.items():
            if shown := piece.strip():
                return f"text {where}: {shown[:40]!r}"
    return None

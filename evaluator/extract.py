r"""Finds the mathematical answer in a response that common.response has taken apart.

It is the last box of the final part (empty or unclosed: no answer), else the last "the answer is X" in it, else, within
answer tags, all of it. The final part is the last complete `<answer>...</answer>` of the visible text, else that text.

Everything here is linear in the length of the text, so no limit is needed.
"""

from __future__ import annotations

import re

from common.response import Response, answer_block, read
from evaluator.stated import stated_answer

__all__ = ["Response", "answer_block", "final_answer", "last_boxed", "read"]

_BOXES = ("\\boxed", "\\fbox")
_BARE_BOX = re.compile(r"[^\s$]+")


def final_answer(response: Response) -> str | None:
    r"""The final mathematical answer, as written; None if there is none (see the rules above)."""
    block = answer_block(response)
    part = response.visible if block is None else block
    if any(box in part for box in _BOXES):
        return last_boxed(part) or None
    stated = stated_answer(part)
    return block or None if stated is None else stated


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (else `\fbox{...}`), braces balanced; None without one or if it stays open.

    Without a brace the box holds what follows, up to white space or a dollar sign: `\boxed 5`.
    """
    for box in _BOXES:
        start = text.rfind(box)
        if start >= 0:
            return _content(text, start + len(box))
    return None


def _content(text: str, start: int) -> str | None:
    """What a box whose command ends at `start` holds."""
    while start < len(text) and text[start] in " \t":
        start += 1
    if text[start : start + 1] != "{":
        bare = _BARE_BOX.match(text, start)
        return bare.group().rstrip(".,;:!?*)") or None if bare else None
    start += 1
    depth, index = 1, start
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 2
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[start:index].strip()
        index += 1
    return None

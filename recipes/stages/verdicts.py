"""Owns reading a judge's reply: a last line `VERDICT: WORD`, strictly, and the share of replies without one.

A reply that does not end in exactly one known verdict is never guessed at: it is unclear, its row is kept out and
counted, and past a share of unclear replies the judge is taken to be broken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.errors import RunFailure

_LINE = re.compile(r"[\s*_`#>]*VERDICT\s*:[*_`\s]*(?P<word>[A-Z]+|[AB][<>=]{1,2}[AB])[\s*_`.]*", re.IGNORECASE)
_DECORATION = "*_`#> \t."
_SHOWN = 80


def parse_verdict(reply: str, allowed: Sequence[str]) -> str | None:
    """The verdict that `reply` ends with, as spelled in `allowed`; None if there is none or it contradicts itself.

    What a reasoning judge thinks (`<think>...</think>`) is not read. The last line that is not blank or decoration
    must be a verdict; an earlier line with another verdict makes the reply unclear.
    """
    visible = reply.rpartition("</think>")[2]
    if "<think>" in visible:
        return None  # cut off while thinking
    lines = [line for line in visible.splitlines() if line.strip(_DECORATION)]
    words = {word.upper(): word for word in allowed}
    found = [match["word"].upper() if (match := _LINE.fullmatch(line)) else None for line in lines]
    stated = {word for word in found if word is not None}
    return words.get(found[-1] or "") if found and len(stated) == 1 else None


def quoted(name: str, text: str, max_characters: int) -> str:
    """`text` between tags of `name`, which it cannot close itself; of a longer one its end, where answers stand."""
    if len(text) > max_characters:
        text = "[...]" + text[-max_characters:]
    return f"<{name}>\n{text.replace(f'</{name}>', f'< /{name}>').strip()}\n</{name}>"


class ClarityWatch:
    """Counts replies and unclear ones; RunFailure once too many are unclear."""

    def __init__(self, where: str, *, max_unclear: float, least: int = 20) -> None:
        """`max_unclear`: share of unclear replies that is still borne; judged from `least` replies on."""
        self.num_replies = 0
        self.num_unclear = 0
        self._where = where
        self._max_unclear = max_unclear
        self._least = least

    def add(self, row: str, reply: str, *, clear: bool) -> None:
        """Count one reply to `row`. Raises RunFailure naming endpoint, row and what it said."""
        self.num_replies += 1
        self.num_unclear += not clear
        if clear or self.num_replies < self._least or self.num_unclear <= self._max_unclear * self.num_replies:
            return
        end = " ".join(reply.split())[-_SHOWN:]
        raise RunFailure(
            f"judge {self._where}: {self.num_unclear} of {self.num_replies} replies end in no verdict, at most "
            f"{self._max_unclear:.0%} may; the last, to row {row!r}, ends {end!r}. See whether this model can follow "
            "the judge's prompt and has tokens enough. Clear answers are kept: run it again to go on"
        )

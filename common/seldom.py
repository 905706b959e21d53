"""Log lines that a peer can cause as often as it likes, and that must not fill the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

EVERY_S = 60.0
MAX_LINE = 300


def one_line(text: object) -> str:
    """What a peer has a say in, for the log: it can neither begin a line of its own nor command a terminal."""
    printable = "".join(char if char.isprintable() else " " for char in str(text)[: 4 * MAX_LINE])
    return " ".join(printable.split())[:MAX_LINE]


class Seldom:
    """Lets `lines` lines a minute through for each key, and says with the next one how many it did not.

    Keys are few and fixed, such as (socket, cause); never what a peer has sent.
    """

    def __init__(self, lines: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines, self._clock = lines, clock
        self._minutes: dict[Hashable, tuple[float, int]] = {}  # when it began, how many lines came in it

    def note(self, *key: Hashable) -> str | None:
        """What to end a line with, mostly nothing; None: do not write it."""
        now = self._clock()
        began, came = self._minutes.get(key, (now - EVERY_S, 0))
        if now - began < EVERY_S:
            self._minutes[key] = began, came + 1
            return "" if came < self._lines else None
        self._minutes[key] = now, 1
        kept_back = max(0, came - self._lines)
        return f" ({kept_back} more like it since the last line)" if kept_back else ""

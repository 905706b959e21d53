"""How much of a large thing to ask the learner for at once: weights that are pulled, and a model's files.

A connection whose peer is not heard for 1.5 s is given up (common/client.py, heartbeats), and a message is heard when
all of it is there. On a slow link, or one that many actors share, a chunk that takes longer never arrives, however
often it is asked for: measured, 8 MiB at 4 MiB/s and 2 MiB at 1 MiB/s are lost every time (docs/log.md).
"""

from __future__ import annotations

SMALLEST_BYTES = 64 * 1024
FIRST_BYTES = 256 * 1024
LARGEST_BYTES = 16 * 1024 * 1024
QUICK_S = 0.25
GOOD_S = 0.6
SLOW_S = 1.0
"""An answer may take so long before the next chunk is a smaller one: well within a heartbeat's time."""
_GROWTH = 4


class ChunkSize:
    """`num_bytes`: what to ask for next. It follows the link."""

    def __init__(self) -> None:
        self.num_bytes = FIRST_BYTES

    def arrived(self, seconds: float) -> None:
        """The answer came `seconds` after it was asked for.

        It grows as long as the next answer will come within SLOW_S even if its time grows as much, and so also where a
        round trip is most of that time.
        """
        if seconds < QUICK_S:
            self._set(_GROWTH * self.num_bytes)
        elif seconds < GOOD_S:
            self._set(self.num_bytes * 3 // 2)
        elif seconds > SLOW_S:
            self._set(int(self.num_bytes * GOOD_S / seconds))

    def lost(self) -> None:
        """An answer did not come in time."""
        self._set(self.num_bytes // _GROWTH)

    def _set(self, num_bytes: int) -> None:
        self.num_bytes = min(max(num_bytes, SMALLEST_BYTES), LARGEST_BYTES)

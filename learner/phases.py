"""Owns what every job of the learner does between its steps: announce and time its phases, ask whether to stop."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from common.lifecycle import RunPaths, StopFlag, record_event
from learner.ranks import Ranks

log = logging.getLogger(__name__)

PHASE_LIMIT_S = {"loading": 3600.0, "tokenising": 3600.0}
"""How long a phase may be silent, seconds, if not as long as a collective may take: large models, slow volumes."""


class Phases:
    """One rank's phases. `phase_seconds`: time spent in each so far, by name."""

    def __init__(self, paths: RunPaths, ranks: Ranks, stop: StopFlag) -> None:
        self.paths, self.ranks, self._stop = paths, ranks, stop
        self.phase_seconds: dict[str, float] = defaultdict(float)

    def stopping(self) -> bool:
        """Has any rank been asked to stop? Collective."""
        self.ranks.beat("between steps")
        return self.ranks.any(bool(self._stop))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase of the run and measure it."""
        if self.ranks.first:
            record_event(self.paths, "phase", name=name)
            log.info("%s", name.replace("_", " "))
        self.ranks.beat(name, PHASE_LIMIT_S.get(name))
        began = time.monotonic()
        try:
            yield
        finally:
            self.phase_seconds[name] += time.monotonic() - began


def never(_seconds: float) -> bool:
    """What ranks other than the first poll: nothing, they only wait to be told."""
    raise AssertionError("only rank 0 polls")

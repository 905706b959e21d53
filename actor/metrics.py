"""What an actor counts. One process, one actor: no labels but the outcome of a group."""

from __future__ import annotations

import time
from collections import deque

from prometheus_client import Counter, Gauge, Histogram

from common.metrics import REGISTRY

TOKENS = Counter("zeroq_actor_tokens_generated", "Tokens of finished groups.", registry=REGISTRY)
GROUPS = Counter(
    "zeroq_actor_groups",
    "Groups by what became of them: submitted, refused, lost, returned, failed.",
    ["outcome"],
    registry=REGISTRY,
)
RUNNING = Gauge("zeroq_actor_running_requests", "Groups leased and not yet done with.", registry=REGISTRY)
VERSION = Gauge("zeroq_actor_policy_version", "Policy version of the weights served; -1: none yet.", registry=REGISTRY)
GENERATION_SECONDS = Histogram(
    "zeroq_actor_generation_seconds",
    "From lease to finished group.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000),
    registry=REGISTRY,
)
TOKENS_PER_SECOND = Gauge("zeroq_actor_tokens_per_second", "Tokens of groups finished lately.", registry=REGISTRY)
for _outcome in ("submitted", "refused", "lost", "returned", "failed"):
    GROUPS.labels(_outcome)


class RateMeter:
    """Tokens per second over the last `window_s` seconds."""

    def __init__(self, window_s: float = 30.0) -> None:
        self._window_s = window_s
        self._began: float | None = None
        self._entries: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float | None = None) -> None:
        """Count `count` tokens at `now` (monotonic seconds)."""
        now = time.monotonic() if now is None else now
        if self._began is None:
            self._began = now
        self._entries.append((now, count))

    def rate(self, now: float | None = None) -> float:
        """Average since the window's start, or since the first entry while the meter is younger than its window."""
        now = time.monotonic() if now is None else now
        while self._entries and self._entries[0][0] < now - self._window_s:
            self._entries.popleft()
        if self._began is None or now <= self._began:
            return 0.0
        return sum(count for _, count in self._entries) / min(self._window_s, now - self._began)


METER = RateMeter()
TOKENS_PER_SECOND.set_function(METER.rate)
VERSION.set(-1)

"""What a process says of itself to probes: is it alive (does its work get on), and is it ready (can it be used)?

    loop --beat(part, doing, limit_s)--> Health <--/livez-- kubelet    503 once a part is silent beyond its limit
    loop --ready(...) / not_ready(why)-->       <--/readyz- kubelet    503 with the reason

A part is one loop or thread of the process. It says what it does now and within what time it will be heard again, so
that what may take long (loading a model) has a long limit, and what must not has a short one. Waiting for other
processes is progress: whoever waits beats. Restarting this process would not bring the others back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_LIMIT_S = 60.0

Check = Callable[[], str | None]
"""Why something does not hold; None if it does."""


@dataclass
class _Part:
    doing: str
    limit_s: float
    heard_at: float


class Health:
    """The health of one process. Thread-safe; every method is cheap enough for a hot loop.

    `stopping`: whether the process was asked to stop, which makes it unready.
    """

    def __init__(
        self, *, stopping: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopping, self._clock = stopping, clock
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._objection: Check = lambda: "starting"

    def beat(self, part: str, doing: str = "running", limit_s: float = DEFAULT_LIMIT_S) -> None:
        """`part` gets on: it is `doing` something now, and silence beyond `limit_s` seconds means that it is stuck."""
        with self._lock:
            self._parts[part] = _Part(doing, limit_s, self._clock())

    def finish(self, part: str) -> None:
        """`part` has ended; nothing more is to be heard of it."""
        with self._lock:
            self._parts.pop(part, None)

    def ready(self, unless: Check = lambda: None) -> None:
        """The process can be used, unless `unless` says, when somebody asks, why not."""
        self._objection = unless

    def not_ready(self, reason: str) -> None:
        """The process cannot be used now."""
        self._objection = lambda: reason

    def why_not_alive(self) -> str | None:
        """The part that is stuck, what it was doing and for how long; None while all get on."""
        now = self._clock()
        with self._lock:
            for name, part in self._parts.items():
                silent_s = now - part.heard_at
                if silent_s > part.limit_s:
                    return f"{name}: {part.doing} for {silent_s:.0f} s without progress (limit {part.limit_s:.0f} s)"
        return None

    def why_not_ready(self) -> str | None:
        """One line; None when the process can be used."""
        return "stopping" if self._stopping() else self._objection()

    def seconds_since_progress(self) -> float:
        """Of the part that has been silent longest; 0 before the first beat."""
        now = self._clock()
        with self._lock:
            return max((now - part.heard_at for part in self._parts.values()), default=0.0)

    def doing(self) -> str:
        """What each part is at, for people: `loop: waiting for groups`."""
        with self._lock:
            return "; ".join(f"{name}: {part.doing}" for name, part in self._parts.items())

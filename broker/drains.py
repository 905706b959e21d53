"""Processes that get no new leases, because they are about to be removed. They keep what they have.

A drain ends by itself: whoever asked for it may die before the process is gone, and nobody must stay idle for ever.
It is a name's, and ends when a new incarnation of that name says hello: the process that was to go is gone.
"""

from __future__ import annotations

MAX_DRAINS = 128


class Drains:
    """Names that are being drained, each until a moment of the broker's clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, names: list[str], until: float, now: float) -> None:
        """No leases for `names` until then; a moment that has passed ends their drain."""
        for name in names:
            self.end(name)
            if until > now:
                self._until[name] = until
        for name in [name for name, end in self._until.items() if end <= now]:
            del self._until[name]
        while len(self._until) > MAX_DRAINS:
            del self._until[next(iter(self._until))]

    def end(self, name: str) -> None:
        """Leases again, if it was being drained."""
        self._until.pop(name, None)

    def holds(self, name: str, now: float) -> bool:
        """Whether `name` gets no leases now."""
        return bool(self._until) and self._until.get(name, now) > now

    def remaining(self, now: float) -> dict[str, float]:
        """Seconds that are left, by name."""
        return {name: until - now for name, until in self._until.items() if until > now}

"""Processes that get no new leases, because they are about to be removed. They keep what they have.

A drain ends by itself: whoever asked for it may die before the process is gone, and nobody must stay idle for ever.
It is a name's in its role, and ends when a new incarnation says hello as both: the process that was to go is gone.
"""

from __future__ import annotations

from common.messages import Role, WorkRole

MAX_DRAINS = 128


class Drains:
    """Processes that are being drained, by role and name, each until a moment of the broker's clock."""

    def __init__(self) -> None:
        self._until: dict[tuple[Role, str], float] = {}

    def begin(self, role: WorkRole, names: list[str], until: float, now: float) -> None:
        """No leases for `names` of `role` until then; a moment that has passed ends their drain."""
        for name in names:
            self.end(role, name)
            if until > now:
                self._until[role, name] = until
        for key in [key for key, end in self._until.items() if end <= now]:
            del self._until[key]
        while len(self._until) > MAX_DRAINS:
            del self._until[next(iter(self._until))]

    def end(self, role: Role, name: str) -> None:
        """Leases again, if it was being drained."""
        self._until.pop((role, name), None)

    def holds(self, role: Role, name: str, now: float) -> bool:
        """Whether `name` of `role` gets no leases now."""
        return bool(self._until) and self._until.get((role, name), now) > now

    def remaining(self, now: float) -> dict[str, float]:
        """Seconds that are left, by name: no two processes of a run that are drained have the same."""
        return {name: until - now for (_, name), until in self._until.items() if until > now}

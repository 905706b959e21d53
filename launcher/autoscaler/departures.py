"""Processes on their way out: they get no new work (Drain at the broker), finish what they have, and only then go.

Nothing is lost either way, since a process that is stopped returns its leases. Draining first means that no work is
done twice. It is bounded: who does not finish within `autoscaler.drain_s` is stopped all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.autoscaler.damper import Decision
from launcher.autoscaler.policy import ScaleRole

Drain = Callable[[ScaleRole, list[str], float], None]
"""Tell the broker to give these processes of a role no work for so many seconds; 0: give them work again."""

GRACE_S = 30.0
"""The broker goes on withholding work for so long after the deadline: until the process has really been stopped."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A decision to have fewer, the names of those that go, and when they go at the latest (monotonic seconds).

    `found`: how many were asked for when it began. If that changes, somebody else had a hand in it.
    """

    decision: Decision
    found: int
    names: tuple[str, ...]
    deadline: float

    @classmethod
    def begin(
        cls, decision: Decision, found: int, names: list[str], drain: Drain, now: float, drain_s: float
    ) -> Departure:
        """Drain `names` at the broker."""
        if names:
            drain(decision.role, names, drain_s + GRACE_S)
        return cls(decision, found, tuple(names), now + drain_s)

    def again(self, draining: Mapping[str, float], drain: Drain, now: float) -> bool:
        """Tell the broker anew if it does not withhold work from all of them (it restarted, or did not hear of it, or
        a process came back under its old name); whether that was so. `draining`: what its status says."""
        forgotten = [name for name in self.names if name not in draining]
        if not forgotten or now >= self.deadline:
            return False
        drain(self.decision.role, forgotten, self.deadline - now + GRACE_S)
        return True

    def due(self, leases: Mapping[str, int] | None, now: float) -> bool:
        """Whether they may be stopped: none holds a lease, or time is up. `leases` None: not known at the moment."""
        if now >= self.deadline or not self.names:
            return True
        return leases is not None and not any(leases.get(name, 0) for name in self.names)

    def call_off(self, drain: Drain) -> None:
        """They stay after all."""
        if self.names:
            drain(self.decision.role, list(self.names), 0.0)

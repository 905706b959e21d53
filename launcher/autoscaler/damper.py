"""Hysteresis and rate limits: from wishes, which jump about, to decisions, which do not. Pure; one `Damper` per role.

More are added when every wish of the last `scale_up_after_s` asked for more than there are, and then as many as the
most modest of them asked for. Some are removed when every wish of the last `scale_down_after_s` was content with
fewer, and then no more than the greediest of them allowed. No decision changes the number by more than `max_step`, and
after each the waiting starts anew. Floor and ceiling are kept at once (the ceiling in steps of MOST_AT_ONCE).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from common.config import ScaleLimits
from launcher.autoscaler.policy import Reason, ScaleRole, Wish

MOST_AT_ONCE = 50
"""No more go in one decision: the broker's list of peers has room for about sixty, and a Drain for 128 names."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Change the number of `role` from `before` to `after`, because of `reason`; `detail` has the figures."""

    role: ScaleRole
    before: int
    after: int
    reason: Reason
    detail: str

    @property
    def direction(self) -> str:
        """up or down."""
        return "up" if self.after > self.before else "down"

    def __str__(self) -> str:
        return f"{self.role}s {self.before} -> {self.after} ({self.reason}: {self.detail})"


class Damper:
    """Remembers the wishes for one role as long as they matter."""

    def __init__(self, role: ScaleRole, limits: ScaleLimits) -> None:
        self._role, self._limits = role, limits
        self._wishes: deque[tuple[float, Wish]] = deque()

    def forget(self) -> None:
        """Start anew: something happened that makes earlier wishes meaningless."""
        self._wishes.clear()

    def within_limits(self, current: int) -> Decision | None:
        """The decision that brings `current` back between floor and ceiling; None if it is there."""
        limits = self._limits
        if current < limits.min:
            return Decision(self._role, current, limits.min, "floor", f"never fewer than {limits.min}")
        if current > limits.max:
            after = max(limits.max, current - MOST_AT_ONCE)
            return Decision(self._role, current, after, "ceiling", f"never more than {limits.max}")
        return None

    def decide(self, now: float, current: int, wish: Wish) -> Decision | None:
        """Take in a wish; a decision if it is time for one. `now`: monotonic seconds."""
        limits = self._limits
        self._wishes.append((now, wish))
        keep_s = max(limits.scale_up_after_s, limits.scale_down_after_s)
        while len(self._wishes) > 1 and self._wishes[1][0] <= now - keep_s:
            self._wishes.popleft()
        least = min((w.least for w in self._since(now, limits.scale_up_after_s)), default=None)
        if least is not None and min(least, limits.max) > current:
            return self._change(current, min(least, limits.max, current + limits.max_step), wish)
        most = max((w.most for w in self._since(now, limits.scale_down_after_s)), default=None)
        if most is not None and max(most, limits.min) < current:
            return self._change(current, max(most, limits.min, current - min(limits.max_step, MOST_AT_ONCE)), wish)
        return None

    def _since(self, now: float, seconds: float) -> list[Wish]:
        """The wishes of the last `seconds`; none if the memory does not reach so far back."""
        if not self._wishes or self._wishes[0][0] > now - seconds:
            return []
        kept = [wish for at, wish in self._wishes if at >= now - seconds]
        return kept or [self._wishes[-1][1]]

    def _change(self, current: int, after: int, wish: Wish) -> Decision:
        self.forget()
        reason: Reason = "surplus" if after < current and wish.reason == "backlog" else wish.reason
        return Decision(self._role, current, after, reason, wish.detail)

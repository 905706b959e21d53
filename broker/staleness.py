"""Staleness: which groups are too old at a version, and how `pace` keeps any token from getting too old.

A token of version v trained on while version c is current has staleness c - v, in publishes; the bound is eta.
Gate 1 (credit) lives in ledger.py, gate 3 (the hard check per token) in the learner; this is gate 2.

    mask   a group is swept once ALL its tokens are past the bound; the learner masks single tokens
    drop   a group is swept once ANY token is past the bound; leases granted past it are cancelled
    pace   nothing is swept. A task whose oldest token has version s must be trained on while a version of at most
           s + eta is current. Windows (from one publish to the next) have `groups_per_publish` slots each, so all
           deadlines can be met exactly if, for every k >= 0, at most `slots left now + k * groups_per_publish` untaken
           tasks have s <= c - eta + k (Hall's condition, earliest deadline first). A group is handed out, and a lease
           granted to an actor that is behind, only if the condition still holds afterwards. Looking at k = 0 alone, the
           tasks due right now, is not enough for eta >= 2: a younger group could use a slot that two older tasks,
           both due in the next window, cannot share. Credit makes the condition hold for tasks that start at the
           current version, because untaken tasks plus those taken in this window never exceed
           groups_per_publish * (eta + 1).
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

Policy = Literal["mask", "drop", "pace"]


def too_old(policy: Policy, *, oldest: int, newest: int, version: int, max_staleness: int) -> bool:
    """Must a generated group be discarded when `version` is current? `oldest`, `newest`: versions of its tokens."""
    limit = version - max_staleness
    if policy == "mask":
        return newest < limit
    if policy == "drop":
        return oldest < limit
    return False


def cancels_lease(policy: Policy, *, lease_version: int, version: int, max_staleness: int) -> bool:
    """Must a running generation lease be cancelled? `mask` never does: in-flight updates give it newer tokens."""
    return policy == "drop" and lease_version < version - max_staleness


class PaceWindow:
    """Slots of the current publish window, and how many untaken train tasks started at which version."""

    def __init__(self, groups_per_publish: int, max_staleness: int) -> None:
        self.groups_per_publish = groups_per_publish
        self.max_staleness = max_staleness
        self.num_taken = 0
        self.starts: Counter[int] = Counter()

    def restart(self) -> None:
        """A new window begins: a publish, or a learner that starts over."""
        self.num_taken = 0

    def may_take(self, start: int, version: int) -> bool:
        """May a ready group with oldest version `start` use one of this window's slots?"""
        slots = self.groups_per_publish - self.num_taken - 1
        if slots < 0:
            return False
        due = version - self.max_staleness
        return self._fits(range(due, start), due, slots, extra=0)

    def may_start(self, start: int, version: int) -> bool:
        """May another task begin with weights of version `start`, which can be older than the current one?"""
        if start >= version:
            return True
        slots = self.groups_per_publish - self.num_taken
        due = version - self.max_staleness
        return self._fits(range(start, version), due, slots, extra=1)

    def _fits(self, bounds: range, due: int, slots: int, extra: int) -> bool:
        """Hall's condition: for each bound, tasks started by then, plus `extra`, fit the slots before they are due."""
        if not bounds:
            return True
        num = extra + sum(n for started, n in self.starts.items() if started < bounds.start)
        for bound in bounds:
            num += self.starts.get(bound, 0)
            if num > slots + (bound - due) * self.groups_per_publish:
                return False
        return True

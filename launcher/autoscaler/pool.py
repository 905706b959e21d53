"""What the autoscaler needs of those who run processes: how many there are, their names, and a way to change that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from launcher.autoscaler.policy import ScaleRole

MAX_NAMES = 128
"""What one Drain takes. Pods beyond the wanted number (of an update, say) may be more; they go as any pod does."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The processes of one role.

    `wanted`: how many were asked for. `members`: names, as the broker knows them, of those that exist and are not
    leaving; the first ones are to be kept longest (at work, and for the longest time). `ready`: how many of them are
    at work.
    """

    wanted: int
    ready: int
    members: tuple[str, ...]


class ReplicaPool(Protocol):
    """Processes whose number can be changed: local.py, kubernetes.py."""

    def fleet(self, role: ScaleRole) -> Fleet:
        """What there is now."""

    def scale(self, role: ScaleRole, count: int, leaving: Sequence[str]) -> None:
        """Have `count` processes; when they become fewer, those named `leaving` are the ones to go."""


def choose_leaving(fleet: Fleet, leases: Mapping[str, int], count: int) -> list[str]:
    """Who goes when `count` are to remain: who holds the fewest leases, and among equals who is to be kept least."""
    surplus = len(fleet.members) - count
    by_worth = sorted(enumerate(fleet.members), key=lambda item: (leases.get(item[1], 0), -item[0]))
    return [name for _, name in by_worth[: max(0, min(surplus, MAX_NAMES))]]

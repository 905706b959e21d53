"""How publishes went, for metrics: seconds by phase, epochs and aborted broadcasts by cause. Pure, as epochs.py."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

PublishPhase = Literal["propose", "transfer", "commit"]
EpochCause = Literal["first", "joined", "left", "both", "aborted"]
"""Why the members' communicator would not do: there was none, membership changed, it broke or was given up."""
AbortCause = Literal["member_lost", "transfer_failed", "timeout"]


@dataclass
class Story:
    """One publish."""

    seconds: defaultdict[PublishPhase, float] = field(default_factory=lambda: defaultdict(float))
    epochs: Counter[EpochCause] = field(default_factory=Counter)
    aborts: Counter[AbortCause] = field(default_factory=Counter)


class Chronicle:
    """Writes the story of the publish under way, with what must be remembered from those before."""

    def __init__(self) -> None:
        self.story = Story()
        self._phase: PublishPhase | None = None
        self._phase_began = 0.0
        self._members: set[bytes] = set()

    def enter(self, phase: PublishPhase, now: float) -> None:
        """The phase before ends, and `phase` begins (perhaps anew)."""
        if self._phase is not None:
            self.story.seconds[self._phase] += now - self._phase_began
        self._phase, self._phase_began = phase, now

    def begin_epoch(self, members: set[bytes], *, repeated: bool) -> None:
        """An epoch of `members` begins; `repeated`: because a broadcast of this publish was aborted."""
        joined, left = members - self._members, self._members - members
        cause: EpochCause
        if repeated or not (joined or left):
            cause = "aborted"
        elif not self._members:
            cause = "first"
        else:
            cause = "both" if joined and left else "joined" if joined else "left"
        if members:
            self.story.epochs[cause] += 1
        self._members = members

    def end(self, now: float) -> Story:
        """The publish is over; its story. The next one begins."""
        if self._phase is not None:
            self.story.seconds[self._phase] += now - self._phase_began
        told, self.story, self._phase = self.story, Story(), None
        return told


def members_by_state(versions: Iterable[int | None], latest: int | None) -> dict[str, int]:
    """Actors with the newest version, with an older one, with none."""
    states = {"current": 0, "stale": 0, "joining": 0}
    for version in versions:
        states["joining" if version is None else "current" if version == latest else "stale"] += 1
    return states

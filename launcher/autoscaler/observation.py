"""What the autoscaler knows of the river at one moment, and what changed between two moments.

Read from the broker's status (broker/status.py). Counters and seconds are cumulative since the broker started; a
`Span` is the difference of two observations of the same broker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import BrokerUnavailable


@dataclass(frozen=True, slots=True)
class Observation:
    """One look. `at`: seconds of the observer's monotonic clock; `*_s`: seconds; everything else counts groups."""

    at: float
    broker: str
    grade_queue: int
    generate_queue: int
    ready_train: int
    generated: int
    swept: int
    taken: int
    graded: int
    grading_s: float
    grading_running_s: float | None
    starved_by_actors_s: float
    starved_by_grading_s: float
    starved_otherwise_s: float
    staleness_sum: int
    staleness_groups: int

    @classmethod
    def of(cls, status: Mapping[str, Any], at: float) -> Observation:
        """From a status report; BrokerUnavailable if the broker does not tell what is needed, or no numbers."""
        try:
            found = cls._of(status, at)
        except KeyError as missing:
            raise BrokerUnavailable(f"the broker's status has no {missing}: it is of another version") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise BrokerUnavailable(f"the broker's status is of no use: {error}") from None
        for name in cls.__dataclass_fields__:
            value = getattr(found, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise BrokerUnavailable(f"the broker's status is of no use: {name} is {value}")
        return found

    @classmethod
    def _of(cls, status: Mapping[str, Any], at: float) -> Observation:
        counters, queues = status["counters"], status["queues"]
        grading, waiting = status["service"]["grade"], status["learner_waiting_s"]
        return cls(
            at=at,
            broker=str(status["incarnation"]),
            grade_queue=int(queues["grade"]),
            generate_queue=int(queues["generate"]),
            ready_train=int(queues["ready_train"]),
            generated=int(counters["groups_generated"]),
            swept=int(counters["groups_swept"]),
            taken=int(status["staleness"]["groups"]),
            graded=int(grading["leases"]),
            grading_s=float(grading["seconds"]),
            grading_running_s=None if grading["running_s"] is None else float(grading["running_s"]),
            starved_by_actors_s=float(waiting["actors"]),
            starved_by_grading_s=float(waiting["grading"]),
            starved_otherwise_s=float(waiting["other"]),
            staleness_sum=int(status["staleness"]["sum"]),
            staleness_groups=int(status["staleness"]["groups"]),
        )


@dataclass(frozen=True, slots=True)
class Span:
    """From one observation to a later one of the same broker."""

    first: Observation
    last: Observation

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.last.at - self.first.at

    def share(self, name: str) -> float:
        """Growth of a field that counts seconds, as a share of the span (0 to 1)."""
        grown = float(getattr(self.last, name)) - float(getattr(self.first, name))
        return min(1.0, max(0.0, grown / self.seconds)) if self.seconds > 0 else 0.0

    def grown(self, name: str) -> int:
        """Growth of a field that counts groups."""
        return int(getattr(self.last, name)) - int(getattr(self.first, name))

    @property
    def starved(self) -> float:
        """Share of the time in which the learner waited for groups, whoever was to blame."""
        names = ("starved_by_actors_s", "starved_by_grading_s", "starved_otherwise_s")
        return min(1.0, sum(self.share(name) for name in names))

    @property
    def arrivals_per_s(self) -> float:
        """Groups that came in for grading, per second."""
        return self.grown("generated") / self.seconds if self.seconds > 0 else 0.0

    @property
    def grading_s(self) -> float | None:
        """Mean seconds from grade lease to verdicts; None while nothing is known.

        Leases that ended within the span count. Only if none did, the age of those that run: their mean age is no
        estimate otherwise, because one lease that hangs would outweigh a thousand short ones that ended.
        """
        if self.grown("graded"):
            return (self.last.grading_s - self.first.grading_s) / self.grown("graded")
        if self.last.grading_running_s is not None:
            return self.last.grading_running_s
        return self.last.grading_s / self.last.graded if self.last.graded else None

    @property
    def staleness(self) -> float | None:
        """Mean staleness, in publishes, of the oldest token of the groups that the learner took; None if it took
        none."""
        taken = self.grown("staleness_groups")
        return self.grown("staleness_sum") / taken if taken else None


class History:
    """Observations of the last `keep_s` seconds, of one broker incarnation, without holes.

    `gap_s`: a longer silence makes what came before worthless, since nobody knows what happened meanwhile.
    """

    def __init__(self, keep_s: float, gap_s: float) -> None:
        self._keep_s, self._gap_s = keep_s, gap_s
        self._seen: deque[Observation] = deque()

    def add(self, observation: Observation) -> bool:
        """Take one in; False if those before it had to be forgotten (another broker, or a hole)."""
        last = self._seen[-1] if self._seen else None
        continues = last is None or (last.broker == observation.broker and observation.at - last.at <= self._gap_s)
        if not continues:
            self._seen.clear()
        self._seen.append(observation)
        while len(self._seen) > 2 and self._seen[1].at <= observation.at - self._keep_s:
            self._seen.popleft()
        return continues

    def span(self, seconds: float, *, taken: int = 0, since: float = float("-inf")) -> Span:
        """The last `seconds`, or longer until the learner took so many groups in them; or as much of that as is known
        and lies after `since` (monotonic seconds). ValueError before the first observation."""
        if not self._seen:
            raise ValueError("nothing has been observed yet")
        last = first = self._seen[-1]
        for seen in reversed(self._seen):
            if seen.at < since or (last.at - first.at >= seconds and last.taken - first.taken >= taken):
                break
            first = seen
        return Span(first, last)

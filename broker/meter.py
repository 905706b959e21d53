"""What the learner waits for, in seconds: by it somebody can decide on the number of actors and evaluators.

Integrated from event to event: what holds when an event comes has held since the one before it. A reader takes
differences of two reports. Pure, like the rest of the state machine.
"""

from __future__ import annotations

from typing import Literal

WaitCause = Literal["grading", "actors", "other"]
"""What the learner waits for: groups that wait for an evaluator; groups that all actors together have not made yet,
with none of them idle; anything else (groups in work while actors are idle for lack of credit, or no task was
added)."""


class Meter:
    """The learner's waiting for train groups by cause, since the broker started."""

    def __init__(self, now: float) -> None:
        self.learner_waiting_s: dict[WaitCause, float] = {"grading": 0.0, "actors": 0.0, "other": 0.0}
        self._advanced_to = now

    def advance(self, waits_for: WaitCause | None, now: float) -> None:
        """Account for the time since the last event, in which the learner waited for that (None: not at all)."""
        passed_s, self._advanced_to = now - self._advanced_to, max(now, self._advanced_to)
        if passed_s > 0 and waits_for is not None:
            self.learner_waiting_s[waits_for] += passed_s

"""What the learner waits for, in seconds: by it somebody can decide on the number of actors and evaluators.

Integrated from event to event: what holds when an event comes has held since the one before it. A reader takes
differences of two reports. Pure, like the rest of the state machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from broker.core import Core

WaitCause = Literal["grading", "actors", "other"]
"""What the learner waits for: groups that wait for an evaluator; groups that all actors together have not made yet,
with none of them idle; anything else (groups in work while actors are idle for lack of credit, or no task was
added)."""


class Meter:
    """The learner's waiting for train groups by cause, since the broker started."""

    def __init__(self, now: float) -> None:
        self.learner_waiting_s: dict[WaitCause, float] = {"grading": 0.0, "actors": 0.0, "other": 0.0}
        self._advanced_to = now

    def advance(self, core: Core, now: float) -> None:
        """Account for the time since the last event; called before `core` changes."""
        passed_s, self._advanced_to = now - self._advanced_to, max(now, self._advanced_to)
        if passed_s > 0 and core.waiting.lines["train"]:
            self.learner_waiting_s[wait_cause(core, now)] += passed_s


def wait_cause(core: Core, now: float) -> WaitCause:
    """Why there is no group for a learner that waits for one."""
    ledger = core.ledger
    if ledger.queues["grade"]:
        return "grading"
    idle = any(not core.drains.holds(waiter.name, now) for waiter in core.waiting.lines["generate"].values())
    in_work = bool(ledger.queues["generate"]) or core.leases.num_active["generate"] > 0
    return "actors" if in_work and not idle else "other"

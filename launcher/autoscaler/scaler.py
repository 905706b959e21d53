"""One autoscaler over one pool: each step takes in the broker's status, decides, drains and scales.

A state machine without clock and sockets: the caller brings the time and the status, and carries out nothing itself. On
Kubernetes it is stepped by loop.py, in `zeroq run` by the launcher's own loop (local.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.config import RunConfig
from common.errors import ZeroqError
from launcher.autoscaler import metrics
from launcher.autoscaler.damper import Damper, Decision
from launcher.autoscaler.departures import GRACE_S, Departure, Drain
from launcher.autoscaler.observation import History, Observation
from launcher.autoscaler.policy import (
    EVIDENCE,
    ActorRate,
    ScaleRole,
    Wish,
    actor_rate,
    wish_actors,
    wish_evaluators,
)
from launcher.autoscaler.pool import Fleet, ReplicaPool, choose_leaving

log = logging.getLogger(__name__)

MEMORY_S = 1800.0  # a publish may take many minutes, and starvation is measured over some of them
MIN_LOOKS = 3  # rates are taken over this many looks at the least


class Autoscaler:
    """Keeps the number of evaluators and actors where the policy wants it.

    `drain` tells the broker (see Departure). `may_act()` is asked right before every change: a leader that could not
    renew its Lease must not act any more. `dry_run`: decide and tell, change nothing. `tell(decision, done)` hears of
    every decision when it is taken (done false) and when it has been carried out (true).
    """

    def __init__(
        self,
        config: RunConfig,
        pool: ReplicaPool,
        drain: Drain,
        *,
        roles: Sequence[ScaleRole] = ("evaluator", "actor"),
        dry_run: bool = False,
        may_act: Callable[[], bool] = lambda: True,
        tell: Callable[[Decision, bool], None] = lambda decision, done: None,
    ) -> None:
        section = config.autoscaler
        self._config, self._pool, self._drain = config, pool, drain
        self._roles, self._dry_run, self._may_act, self._tell = tuple(roles), dry_run, may_act, tell
        self._limits = {"evaluator": section.evaluators, "actor": section.actors}
        self._dampers = {role: Damper(role, self._limits[role]) for role in roles}
        slowest = max(max(self._limits[r].scale_up_after_s, self._limits[r].scale_down_after_s) for r in roles)
        short_s = MIN_LOOKS * section.every_s
        self._history = History(max(slowest, short_s, MEMORY_S), gap_s=max(2 * short_s, 10.0))
        for role in roles:
            metrics.FLOOR.labels(role).set(self._limits[role].min)
            for direction, reason in metrics.FORESEEN[role]:
                metrics.DECISIONS.labels(role, direction, reason)
        self._leaving: dict[ScaleRole, Departure] = {}
        self._last_set: dict[ScaleRole, int] = {}
        self._decided_at: float | None = None
        self._actor_rate: ActorRate | None = None
        self._actors_at_work = (-1, 0.0)  # how many, and since when

    @property
    def leaving(self) -> dict[ScaleRole, tuple[str, ...]]:
        """Names of the processes that are being drained."""
        return {role: departure.names for role, departure in self._leaving.items()}

    def forget(self) -> None:
        """Start anew: another autoscaler acted meanwhile. Those that are being drained get work again by themselves."""
        self._leaving.clear()
        self._last_set.clear()
        self._decided_at = None
        metrics.ACTUAL.clear()
        metrics.DESIRED.clear()
        for damper in self._dampers.values():
            damper.forget()

    def step(self, now: float, status: Mapping[str, Any] | None) -> list[Decision]:
        """What can be done now; the decisions taken. `status` None: the broker does not answer, so nothing is decided.

        Call it often: departures are looked after at each call, decisions are taken every `autoscaler.every_s`.
        """
        leases = None if status is None else leases_of(status)
        fault: ZeroqError | None = None
        for role in list(self._leaving):
            try:
                self._look_after(role, leases, None if status is None else status.get("draining"), now)
            except ZeroqError as error:  # somebody who cannot be let go must not keep others from being added
                fault = error
                if now >= self._leaving[role].deadline + GRACE_S:
                    self._leaving.pop(role).call_off(self._drain)
        due = self._decided_at is None or now - self._decided_at >= self._config.autoscaler.every_s
        decisions = self._decide_all(status, leases or {}, now) if status is not None and due else []
        if fault is not None:
            raise fault
        return decisions

    def _decide_all(self, status: Mapping[str, Any], leases: Mapping[str, int], now: float) -> list[Decision]:
        self._decided_at = now
        if not self._history.add(Observation.of(status, now)):
            for damper in self._dampers.values():
                damper.forget()
        return [decision for role in self._roles if (decision := self._decide(role, leases, now)) is not None]

    def _decide(self, role: ScaleRole, leases: Mapping[str, int], now: float) -> Decision | None:
        fleet = self._pool.fleet(role)
        if self._last_set.pop(role, fleet.wanted) != fleet.wanted:
            log.warning("%ss: somebody else set their number to %d (an HPA, KEDA, kubectl scale?)", role, fleet.wanted)
        self._last_set[role] = fleet.wanted
        departure = self._leaving.get(role)
        if departure is not None and departure.found != fleet.wanted:
            departure.call_off(self._drain)
            del self._leaving[role]
            departure = None
        current = fleet.wanted if departure is None else departure.decision.after
        metrics.ACTUAL.labels(role).set(fleet.ready)
        metrics.DESIRED.labels(role).set(current)
        damper = self._dampers[role]
        if departure is not None and current > self._limits[role].max:
            return None  # on the way down to the ceiling, in several steps
        decision = damper.within_limits(current) or damper.decide(now, current, self._wish(role, fleet, current))
        if decision is None:
            return None
        metrics.DECISIONS.labels(role, decision.direction, decision.reason).inc()
        metrics.DESIRED.labels(role).set(decision.after)
        self._tell(decision, False)
        if not self._dry_run:
            self._carry_out(decision, fleet, leases, now)
        return decision

    def _wish(self, role: ScaleRole, fleet: Fleet, current: int) -> Wish:
        limits, short_s = self._limits[role], MIN_LOOKS * self._config.autoscaler.every_s
        up = self._history.span(max(short_s, limits.scale_up_after_s))
        if role == "evaluator":
            return wish_evaluators(up, self._config)
        if fleet.ready != self._actors_at_work[0]:
            self._actors_at_work = fleet.ready, up.last.at
        groups = EVIDENCE * self._config.groups_per_publish
        up = self._history.span(up.seconds, taken=groups, since=self._actors_at_work[1])
        down = self._history.span(max(short_s, limits.scale_down_after_s))
        self._actor_rate = actor_rate(up, self._config, fleet.ready, self._actor_rate)
        return wish_actors(up, down, self._config, current, fleet.ready, self._actor_rate)

    def _carry_out(self, decision: Decision, fleet: Fleet, leases: Mapping[str, int], now: float) -> None:
        """More at once; fewer after those that go have finished. A change of mind calls off what has not happened."""
        role = decision.role
        if not self._may_act():
            return
        departure = self._leaving.pop(role, None)
        if departure is not None:
            departure.call_off(self._drain)
        if decision.after >= fleet.wanted:
            if decision.after > fleet.wanted:
                self._scale(decision, ())
            return
        names = choose_leaving(fleet, leases, decision.after)
        drain_s = self._config.autoscaler.drain_s
        self._leaving[role] = Departure.begin(decision, fleet.wanted, names, self._drain, now, drain_s)

    def _look_after(
        self, role: ScaleRole, leases: Mapping[str, int] | None, draining: Mapping[str, float] | None, now: float
    ) -> None:
        departure = self._leaving[role]
        if draining is not None and departure.again(draining, self._drain, now):
            return  # leases of this status may be some that it has given them since
        if not departure.due(leases, now):
            return
        if self._pool.fleet(role).wanted != departure.found:  # somebody else's number is not to be overwritten
            departure.call_off(self._drain)
        else:
            self._scale(departure.decision, departure.names)
        del self._leaving[role]

    def _scale(self, decision: Decision, leaving: Sequence[str]) -> None:
        if self._may_act():
            self._pool.scale(decision.role, decision.after, leaving)
            self._last_set[decision.role] = decision.after
            self._tell(decision, True)


def leases_of(status: Mapping[str, Any]) -> dict[str, int]:
    """Leases that each process holds, by its name."""
    held: dict[str, int] = {}
    for peer in status["peers"]:
        held[peer["name"]] = max(held.get(peer["name"], 0), int(peer["leases"]))
    return held

"""What the actor's probes are told: whether the event loop and the engine get on, and whether its weights are current.

event loop   looked at every second: a loop that is blocked stops looking
engine       alive while nothing is sampled, or tokens come; standing still for a publish has its time, too
ready        weights are loaded, the broker takes their version, and it answers
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from actor import metrics
from common.config import RunConfig
from common.health import Health

_LOOK_EVERY_S = 1.0
_LOOP_LIMIT_S = 60.0  # loading weights blocks vLLM's front end, and with it this loop, for a while
_SPARE_S = 60.0


class Engine(Protocol):
    """actor.engine.Engine."""

    @property
    def num_running(self) -> int: ...
    @property
    def tokens_generated(self) -> int: ...


class Weights(Protocol):
    """actor.follow.WeightFollower."""

    version: int | None


class Worker(Protocol):
    """actor.loop.Actor."""

    refused_version: int | None


class Vitals:
    """Keeps `health` current while the actor serves. `trouble`: of the connection to the broker."""

    def __init__(
        self,
        health: Health,
        config: RunConfig,
        engine: Engine,
        weights: Weights,
        worker: Worker,
        trouble: Callable[[], str | None],
    ) -> None:
        self._health, self._engine, self._weights, self._worker = health, engine, weights, worker
        self._trouble = trouble
        weights_s = config.weights.ready_timeout_s + config.weights.transfer_timeout_s
        self._engine_limit_s = config.broker.generate_lease_s + 2 * weights_s + _SPARE_S
        self._tokens = -1
        self._busy = False

    async def run(self) -> None:
        """Until cancelled."""
        self._health.ready(self.why_not_ready)
        while True:
            self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """One look at everything."""
        self._health.beat("events", "serving", _LOOP_LIMIT_S)
        num_running, tokens = self._engine.num_running, self._engine.tokens_generated
        if not num_running or tokens != self._tokens or not self._busy:
            doing = f"sampling {num_running} rollouts" if num_running else "idle"
            self._health.beat("engine", doing, self._engine_limit_s)
        self._tokens, self._busy = tokens, num_running > 0
        metrics.enter(self.state)

    @property
    def state(self) -> metrics.State:
        """Of the weights: there, too old, or not there yet."""
        version = self._weights.version
        if version is None:
            return "joining"
        return "stale" if version == self._worker.refused_version else "current"

    def why_not_ready(self) -> str | None:
        """An actor is ready while it may sample: its weights are there and not too old for the broker."""
        version = self._weights.version
        if version is None:
            return "no weights yet"
        if version == self._worker.refused_version:
            return f"weights of version {version} are too old; waiting for newer ones"
        return self._trouble()

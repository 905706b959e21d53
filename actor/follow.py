"""Which weights this actor serves, and keeping them up to date.

Says hello to the broker until the learner has registered the endpoint of its weights, then runs a receiver on it. Goes
on saying hello, so that a learner that comes back elsewhere is followed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from actor import metrics
from common.errors import RunFailure
from common.messages import Header, Hello, Welcome
from common.wire import Envelope

log = logging.getLogger(__name__)

STATIC = "static"
"""Weights endpoint of a run without a learner's updates: what the model directory holds is version 0."""

_LEAVE_S = 2.0


class Receiver(Protocol):
    """Receives and loads weights until cancelled, when it takes leave (actor.weights.WeightReceiver)."""

    async def run(self) -> None: ...


class Asker(Protocol):
    """Sends a request to the broker and awaits the reply (actor.broker.Broker)."""

    async def ask(self, header: Header) -> Envelope: ...


class WeightFollower:
    """Keeps `version`: None until usable weights are loaded."""

    def __init__(
        self,
        broker: Asker,
        *,
        name: str,
        incarnation: str,
        make_receiver: Callable[[str, Callable[[int], None]], Receiver],
        on_version: Callable[[int], None],
        hello_every_s: float = 0.5,
        follow_every_s: float = 5.0,
        has_weights: bool = True,
    ) -> None:
        """`has_weights`: the engine was started with usable weights, which `STATIC` then names version 0."""
        self.version: int | None = None
        self._broker = broker
        self._name = name
        self._incarnation = incarnation
        self._make_receiver = make_receiver
        self._on_version = on_version
        self._hello_every_s = hello_every_s
        self._follow_every_s = follow_every_s
        self._has_weights = has_weights
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. RunFailure when the receiver ends by itself; whatever it raises is passed on."""
        endpoint: str | None = None
        learner: str | None = None
        receiving: asyncio.Task[None] | None = None
        try:
            while True:
                welcome = await self._hello()
                found = welcome.weights_endpoint
                if found is not None and (found, welcome.learner) != (endpoint, learner):
                    log.info("weights come from %s, learner %s", found, welcome.learner)
                    self.version = None  # may be of a history that another learner does not go on from
                    await _end(receiving)
                    endpoint, learner, receiving = found, welcome.learner, self._follow(found)
                pause = self._hello_every_s if endpoint is None else self._follow_every_s
                if receiving is None:
                    await asyncio.sleep(pause)
                elif (await asyncio.wait({receiving}, timeout=pause))[0]:
                    receiving.result()
                    raise RunFailure(f"{self._name}: the weight receiver ended by itself")
        finally:
            await _end(receiving)

    async def changed(self, version: int | None, timeout_s: float) -> None:
        """Wait until other weights than `version` are loaded, `timeout_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.version == version:
                    self._changed.clear()
                    await self._changed.wait()

    def _follow(self, endpoint: str) -> asyncio.Task[None] | None:
        self.version = None
        if endpoint == STATIC:
            if not self._has_weights:
                raise RunFailure(f"{self._name}: started without weights, and this run has no learner that sends any")
            self._loaded(0)
            return None
        return asyncio.create_task(self._make_receiver(endpoint, self._loaded).run())

    def _loaded(self, version: int) -> None:
        self.version = version
        self._on_version(version)
        metrics.VERSION.set(version)
        self._changed.set()

    async def _hello(self) -> Welcome:
        hello = Hello(role="actor", name=self._name, incarnation=self._incarnation, version=self.version)
        reply = (await self._broker.ask(hello)).header
        if not isinstance(reply, Welcome):
            raise RunFailure(f"{self._name}: the broker does not welcome this actor: {reply}")
        return reply


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel the receiver and give it the time to take leave."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_LEAVE_S)

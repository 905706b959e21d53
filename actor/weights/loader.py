"""vLLM's update sequence: pause (requests keep their place) -> start, update, finish -> resume.

The key-value cache is kept: tokens already sampled stay, later ones come from the new weights, and vLLM's spans say
which is which. If an update fails the engine stays paused, because its weights are a mixture; the next update that
succeeds resumes it. Every call has a deadline: an engine that does not come back is of no use, so the actor ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from actor.weights import metrics
from actor.weights.update import Connect, Update
from common.errors import RunFailure, ZeroqError

log = logging.getLogger(__name__)


class LoadFailed(ZeroqError):
    """vLLM could not load the weights; it is paused and must not sample until an update succeeds."""


class Loader:
    """Drives one AsyncLLM."""

    def __init__(self, llm: Any, timeout_s: float, on_pause: Callable[[], None] = lambda: None) -> None:
        """`on_pause` is called as sampling stops, and again once it has: before other weights come, whichever way."""
        self._llm = llm
        self._on_pause = on_pause
        self._timeout_s = timeout_s
        self._paused_at: float | None = None
        self._unfinished = False  # vLLM's worker counts an update as active

    @property
    def paused(self) -> bool:
        """True while sampling stands still."""
        return self._paused_at is not None

    async def load(self, version: int, update: Update) -> float:
        """Pause, load, resume; returns how long sampling stood still (seconds). LoadFailed leaves it paused."""
        await self.pause()
        await self.update(update)
        return await self.resume(version)

    async def pause(self) -> None:
        """Stop sampling, keeping requests and their cache."""
        if self._paused_at is None:
            began = time.monotonic()
            # AsyncLLM.pause_generation is this and a sleep of 20 ms, so that outputs of before come first; ours carry
            # their versions. In a small model's step those 20 ms are a twentieth.
            self._on_pause()
            await self._in_time(self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False), "pause")
            self._on_pause()
            self._paused_at = began

    async def connect(self, connect: Connect) -> None:
        """nccl: have the worker join a communicator. LoadFailed if it cannot."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._call(self._llm.init_weight_transfer_engine(WeightTransferInitRequest(asdict(connect))), "connect")

    async def update(self, update: Update) -> None:
        """Replace the weights while paused. LoadFailed: they are a mixture now."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        assert self.paused
        if self._unfinished:
            await self._call(self._llm.finish_weight_update(), "finish")
            self._unfinished = False
        await self._call(self._llm.start_weight_update(), "start")
        await self._call(self._llm.update_weights(WeightTransferUpdateRequest(asdict(update))), "update")
        self._unfinished = True

    async def resume(self, version: int) -> float:
        """Label the new weights and sample on."""
        assert self._paused_at is not None
        await self._call(self._llm.finish_weight_update(weight_version=str(version)), "finish")
        self._unfinished = False
        await self._in_time(self._llm.resume_generation(), "resume")
        pause_s = time.monotonic() - self._paused_at
        self._paused_at = None
        metrics.PAUSE_SECONDS.observe(pause_s)
        return pause_s

    async def label(self, version: int) -> None:
        """Name the weights that are loaded already."""
        await self._in_time(self._llm.update_weight_version(str(version)), "label")

    async def _call(self, call: Awaitable[None], what: str) -> None:
        try:
            await self._in_time(call, what)
        except (RunFailure, asyncio.CancelledError):
            raise
        except Exception as error:  # vLLM sends a worker's error over as a plain Exception
            raise LoadFailed(f"vLLM: {what} of weights failed: {error}") from error

    async def _in_time(self, call: Awaitable[None], what: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await call
        except TimeoutError:
            raise RunFailure(
                f"vLLM did not {what} within {self._timeout_s:g} s during a weight update; the actor must be restarted"
            ) from None

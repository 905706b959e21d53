"""The seam between the epoch protocol and what brings the bytes: gloo, CUDA IPC, NCCL.

receive(transfer)   at Begin: get hold of all bytes (nccl: of the new weights themselves); returns their digest
load(transfer)      at Commit: sample from them
discard()           at Abort: whatever was received is void
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from common.errors import ZeroqError
from common.messages import Begin, Propose
from common.weights import Layout

T = TypeVar("T")


class TransferFailed(ZeroqError):
    """The bytes did not come; the old weights go on serving, unless the loader is paused."""


@dataclass(frozen=True)
class Transfer:
    """One broadcast that this actor takes part in."""

    propose: Propose
    begin: Begin
    layout: Layout
    handles: bytes

    @property
    def key(self) -> tuple[int, int]:
        """Epoch and version, which together name an attempt."""
        return self.begin.epoch, self.begin.version


class Transport(Protocol):
    """Actor's side of a backend."""

    async def receive(self, transfer: Transfer) -> str:
        """Digest of what came; TransferFailed or LoadFailed when it did not. Ends by the transfer's time-out."""

    async def load(self, transfer: Transfer) -> float:
        """Sample from what was received; seconds for which sampling stood still."""

    def discard(self) -> None:
        """Drop what was received and the communicator it came by."""

    def close(self) -> None:
        """Release everything."""


async def in_thread(function: Callable[[], T], dispose: Callable[[T], None]) -> T:
    """Run a blocking function in a daemon thread. If the waiting task is cancelled, `dispose` gets the late result.

    asyncio's own executor would be waited for at exit; a network operation that nobody wants any more must not be.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def dispose_late(done: Future[T]) -> None:
        if done.exception() is None:
            dispose(done.result())

    threading.Thread(target=run, name="weights-receive", daemon=True).start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        future.add_done_callback(dispose_late)
        raise


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await something that must not be left half-done: a cancellation is delivered when it has ended."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(ZeroqError):
            await task
        raise

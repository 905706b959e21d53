"""Weights over CUDA IPC: the learner's buffer lies on our own card, so vLLM copies straight from it at Commit."""

from __future__ import annotations

from actor.weights.loader import Loader
from actor.weights.transport import Transfer, TransferFailed
from actor.weights.update import Update
from common.errors import WireError
from common.weights import IpcHandle, digest_of


class IpcTransport:
    """Actor's side of the ipc backend."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    async def receive(self, transfer: Transfer) -> str:
        """The bytes are there already; check the handle and tell which version we understood."""
        try:
            IpcHandle.from_json(transfer.handles)
        except WireError as error:
            raise TransferFailed(str(error)) from error
        return digest_of(transfer.layout.manifest(), str(transfer.begin.version).encode())

    async def load(self, transfer: Transfer) -> float:
        """Map, copy, unmap. LoadFailed if the learner wrote the buffer over meanwhile."""
        update = Update(
            "ipc",
            transfer.begin.version,
            transfer.layout.manifest().decode(),
            handle=transfer.handles.decode("ascii"),
        )
        return await self._loader.load(transfer.begin.version, update)

    def discard(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

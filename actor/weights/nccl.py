"""Weights over NCCL: vLLM's worker receives straight into its model, paused from Begin until Commit.

There is no staging on the card, so a broadcast that fails leaves a mixture: the engine stays paused until the next
epoch, or a pull, has brought all of it.
"""

from __future__ import annotations

import json

from actor.weights.loader import Loader
from actor.weights.transport import Transfer, TransferFailed, to_its_end
from actor.weights.update import Connect, Update
from common.weights import digest_of


class NcclTransport:
    """Actor's side of the nccl backend."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._epoch: int | None = None

    async def receive(self, transfer: Transfer) -> str:
        """Pause, join the epoch's communicator if it is new, receive into the model. Not to be interrupted."""
        return await to_its_end(self._receive(transfer))

    async def _receive(self, transfer: Transfer) -> str:
        propose = transfer.propose
        unique_id = _unique_id(transfer.handles)
        await self._loader.pause()
        if self._epoch != propose.epoch:
            self._epoch = None
            await self._loader.connect(
                Connect(
                    rank=propose.rank,
                    world_size=propose.world_size,
                    nccl_unique_id=unique_id,
                    bucket_bytes=propose.bucket_bytes,
                    timeout_s=propose.timeout_s,
                )
            )
            self._epoch = propose.epoch
        await self._loader.update(
            Update(
                "nccl",
                transfer.begin.version,
                transfer.layout.manifest().decode(),
                timeout_s=propose.timeout_s,
            )
        )
        return digest_of(transfer.layout.manifest(), str(transfer.begin.version).encode())

    async def load(self, transfer: Transfer) -> float:
        """Sample on."""
        return await self._loader.resume(transfer.begin.version)

    def discard(self) -> None:
        """The communicator is not to be used again."""
        self._epoch = None

    def close(self) -> None:
        """The worker holds the communicator and ends it."""


def _unique_id(handles: bytes) -> str:
    try:
        unique_id = json.loads(handles)["nccl_unique_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise TransferFailed(f"nccl: Begin carries no usable id: {error!r}") from error
    if not isinstance(unique_id, str):
        raise TransferFailed("nccl: the id is no string")
    return unique_id

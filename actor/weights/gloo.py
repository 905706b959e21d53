"""Weights over gloo: a background thread of the actor's main process receives into a staging file.

vLLM knows nothing of it until everything has come and its digest is right, so a learner that dies or stalls in the
middle costs no token. gloo's operations cannot be interrupted; an abandoned one ends with its time-out.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from actor.weights.loader import Loader
from actor.weights.staging import StagingFile
from actor.weights.transport import Transfer, TransferFailed, in_thread
from actor.weights.update import Update
from common.weights import digest_of


class GlooTransport:
    """Actor's side of the gloo backend."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._group: tuple[int, dist.ProcessGroupGloo] | None = None  # epoch and its communicator
        self._generation = 0  # grows when what is under way is void
        self._staged: StagingFile | None = None

    async def receive(self, transfer: Transfer) -> str:
        """Receive into a new staging file; returns blake2b over it."""
        self._drop_staged()
        generation = self._generation
        staged, digest = await in_thread(lambda: self._receive(transfer, generation), lambda late: late[0].close())
        self._staged = staged
        return digest

    async def load(self, transfer: Transfer) -> float:
        """Have vLLM load the staging file."""
        assert self._staged is not None
        try:
            return await self._loader.load(
                transfer.begin.version,
                Update("staged", transfer.begin.version, transfer.layout.manifest().decode(), path=self._staged.path),
            )
        finally:
            self._drop_staged()

    def discard(self) -> None:
        """Forget the file and the communicator."""
        self._drop_staged()
        with self._lock:
            self._generation += 1
            group, self._group = self._group, None
        if group is not None:  # its destructor waits for operations under way
            threading.Thread(target=_destroy, args=([group],), name="weights-gloo-close", daemon=True).start()
            del group

    def close(self) -> None:
        """Release everything."""
        self.discard()

    def _drop_staged(self) -> None:
        if self._staged is not None:
            self._staged.close()
            self._staged = None

    def _receive(self, transfer: Transfer, generation: int) -> tuple[StagingFile, str]:
        deadline = time.monotonic() + transfer.propose.timeout_s
        staged = StagingFile(transfer.layout.total_bytes)
        try:
            group = self._connect(transfer, generation)
            flat_B = torch.frombuffer(staged.buffer, dtype=torch.uint8)
            for start, stop in transfer.layout.buckets(transfer.propose.bucket_bytes):
                _receive_bucket(group, flat_B[start:stop], deadline)
            return staged, digest_of(staged.buffer)
        except RuntimeError as error:
            staged.close()
            raise TransferFailed(f"gloo, epoch {transfer.begin.epoch}: {error}") from error

    def _connect(self, transfer: Transfer, generation: int) -> dist.ProcessGroupGloo:
        propose = transfer.propose
        if self._group is not None and self._group[0] == propose.epoch:
            return self._group[1]
        timeout = timedelta(seconds=propose.timeout_s)
        store = TCPStore(propose.store_host, propose.store_port, is_master=False, timeout=timeout)
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_own_address(propose.store_host))]
        options._timeout = timeout
        group = dist.ProcessGroupGloo(
            PrefixStore(propose.prefix, store),
            propose.rank,
            propose.world_size,
            options,
        )
        with self._lock:
            if generation != self._generation:
                raise RuntimeError("given up while connecting")
            self._group = (propose.epoch, group)
        return group


def _destroy(groups: list[object]) -> None:
    groups.clear()


def _own_address(peer_host: str) -> str:
    """Address of this machine by which `peer_host` can reach it (no packet is sent)."""
    family, kind, _, _, address = socket.getaddrinfo(peer_host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _receive_bucket(group: dist.ProcessGroupGloo, bucket_B: torch.Tensor, deadline: float) -> None:
    left = timedelta(seconds=max(0.001, deadline - time.monotonic()))
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = left
    group.broadcast([bucket_B], options).wait(left)  # type: ignore[attr-defined]

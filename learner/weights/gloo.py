"""Weights over gloo (CPUs): broadcast from host memory, bucket by bucket, to the actors' main processes.

The rendezvous store lives here, so it dies with the publisher; each epoch has a key prefix of its own. gloo's
operations cannot be interrupted, only timed out: a broadcast that was given up keeps its thread until then, while the
next epoch uses a communicator of its own. The buffer that it reads from is never written again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from common.config import RunConfig
from common.errors import UserError
from common.weights import Layout
from learner.weights.epochs import Backend
from learner.weights.transport import (
    Channel,
    Snapshot,
    Staged,
    Tensors,
    TransferFailed,
    fill,
    snapshot_of,
    torch_dtype,
)


@dataclass(frozen=True)
class HostStaged:
    """Weights in host memory: what is broadcast is also what is pulled."""

    data: Snapshot

    @property
    def version(self) -> int:
        return self.data.version

    @property
    def layout(self) -> Layout:
        return self.data.layout

    @property
    def digest(self) -> str:
        return self.data.digest

    def snapshot(self) -> Snapshot | None:
        return self.data


class GlooTransport:
    """Learner's side of the gloo backend."""

    backend: Backend = "gloo"

    def __init__(self, config: RunConfig, host: str, address: str | None = None) -> None:
        """`host`: address to bind; `address`: name or address by which actors reach this machine, if another."""
        self._dtype = torch_dtype(config.actor.dtype)
        self._address = address or host  # gloo tells the others where it listens, so it must not be a wildcard
        self._bucket_bytes = config.weights.bucket_bytes
        self._connect_timeout = timedelta(seconds=config.weights.ready_timeout_s)
        self._store = _store(host, config.weights.store_port, self._connect_timeout)
        self.store_port = int(self._store.port)
        self._layout: Layout | None = None
        self._lock = threading.Lock()
        self._channels: dict[int, dist.ProcessGroupGloo] = {}
        self._given_up: set[int] = set()

    def stage(self, version: int, tensors: Tensors) -> HostStaged:
        """A new buffer each time: pulls and abandoned broadcasts may still read the old one."""
        self._layout, flat_B = fill(
            tensors, self._dtype, self._layout, lambda size: torch.zeros(size, dtype=torch.uint8)
        )
        return HostStaged(snapshot_of(version, self._layout, flat_B.numpy()))

    def handles(self, epoch: int, staged: Staged, rank: int) -> bytes:
        """gloo needs none: rendezvous is by the store."""
        return b""

    def broadcast(self, channel: Channel, staged: Staged, deadline: float) -> None:
        """Connect if the epoch is new, then send all buckets."""
        data = staged.snapshot()
        assert data is not None
        flat_B = torch.from_numpy(data.data_B)
        try:
            group = self._connect(channel) if channel.fresh else self._channels[channel.epoch]
            for start, stop in data.layout.buckets(self._bucket_bytes):
                _broadcast(group, flat_B[start:stop], deadline)
        except (RuntimeError, KeyError) as error:
            self.close_channel(channel.epoch)
            raise TransferFailed(f"gloo, epoch {channel.epoch}: {error}") from error

    def close_channel(self, epoch: int) -> None:
        """Forget a process group. Its destructor waits for operations under way, so it runs in a thread."""
        with self._lock:
            self._given_up.add(epoch)
            group = self._channels.pop(epoch, None)
        if group is not None:
            threading.Thread(target=_destroy, args=([group],), name="weights-gloo-close", daemon=True).start()

    def close(self) -> None:
        """Drop all process groups."""
        for epoch in list(self._channels):
            self.close_channel(epoch)

    def _connect(self, channel: Channel) -> dist.ProcessGroupGloo:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._address)]
        options._timeout = self._connect_timeout
        store = PrefixStore(channel.prefix, self._store)
        group = dist.ProcessGroupGloo(store, 0, channel.world_size, options)
        with self._lock:
            if channel.epoch in self._given_up:
                raise RuntimeError("given up while connecting")
            self._channels[channel.epoch] = group
        return group


def _store(host: str, port: int, timeout: timedelta) -> TCPStore:
    try:
        return TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timeout)
    except (RuntimeError, OSError) as error:  # DistNetworkError is the former
        raise UserError(
            f"weights.store_port={port}: cannot listen there; choose another, or 0 for a free one"
        ) from error


def _destroy(groups: list[dist.ProcessGroupGloo]) -> None:
    groups.clear()


def _broadcast(group: dist.ProcessGroupGloo, bucket_B: torch.Tensor, deadline: float) -> None:
    left = timedelta(seconds=max(0.001, deadline - time.monotonic()))
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = left
    group.broadcast([bucket_B], options).wait(left)  # type: ignore[attr-defined]

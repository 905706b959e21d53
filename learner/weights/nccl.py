"""Weights over NCCL: broadcast from the learner's card into vLLM's workers, with vLLM's own packing.

The NCCL id is made here and travels in Begin's `handles` frame as plain base64, which spares the pickled rendezvous.
Every epoch with new members has a communicator of its own. NCCL's calls block without a time-out, so a watchdog aborts
the communicator at the deadline; a thread stuck in the set-up of one (no communicator to abort yet) is left behind.
Needs vLLM in the learner's environment.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import torch

from common.config import RunConfig
from common.weights import STAMP_BYTES
from learner.weights.device import DeviceBuffer, DeviceStaged
from learner.weights.epochs import Backend
from learner.weights.transport import Channel, Staged, Tensors, TransferFailed, slot_view, torch_dtype


class NcclTransport:
    """Learner's side of the nccl backend."""

    backend: Backend = "nccl"
    store_port = 0

    def __init__(self, config: RunConfig) -> None:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

        self._library = NCCLLibrary()
        self._dtype = torch_dtype(config.actor.dtype)
        self._bucket_bytes = config.weights.bucket_bytes
        self._buffer = DeviceBuffer(self._dtype)
        self._ids: dict[int, bytes] = {}
        self._communicators: dict[int, Any] = {}
        self._given_up: set[int] = set()
        self._lock = threading.Lock()

    def stage(self, version: int, tensors: Tensors) -> DeviceStaged:
        """Copy into the flat device buffer."""
        return self._buffer.stage(version, tensors)

    def handles(self, epoch: int, staged: Staged, rank: int) -> bytes:
        """The epoch's NCCL id."""
        encoded = base64.b64encode(self._id(epoch)).decode("ascii")
        return json.dumps({"nccl_unique_id": encoded}).encode()

    def broadcast(self, channel: Channel, staged: Staged, deadline: float) -> None:
        """Connect if the epoch is new, then broadcast all parameters in packed buckets."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        torch.cuda.set_device(self._buffer.device)
        watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), self.close_channel, args=(channel.epoch,))
        watchdog.daemon = True
        watchdog.start()
        try:
            if channel.fresh:
                self._connect(channel)
            flat_B = self._buffer.flat_B
            assert flat_B is not None
            packed_nccl_broadcast_producer(
                iterator=(
                    (s.meta.name, slot_view(flat_B[STAMP_BYTES:], s.offset, s.size_bytes, self._dtype, s.meta.shape))
                    for s in staged.layout.slots
                ),
                group=self._communicators[channel.epoch],
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=self._bucket_bytes,
            )
        except (RuntimeError, KeyError) as error:
            self.close_channel(channel.epoch)
            raise TransferFailed(f"nccl, epoch {channel.epoch}: {error}") from error
        finally:
            watchdog.cancel()
        if channel.epoch in self._given_up:  # an aborted broadcast returns as if it had been sent
            raise TransferFailed(f"nccl, epoch {channel.epoch}: aborted")

    def close_channel(self, epoch: int) -> None:
        """Abort the communicator, which also ends a broadcast under way."""
        with self._lock:
            self._given_up.add(epoch)
            self._ids.pop(epoch, None)
            communicator = self._communicators.pop(epoch, None)
        if communicator is not None:
            threading.Thread(target=communicator.destroy, name="weights-nccl-abort", daemon=True).start()

    def close(self) -> None:
        """Abort all communicators and free the buffer."""
        for epoch in list(self._communicators):
            self.close_channel(epoch)
        self._buffer.flat_B = None

    def _id(self, epoch: int) -> bytes:
        with self._lock:
            if epoch not in self._ids:
                self._ids[epoch] = bytes(self._library.ncclGetUniqueId())
            return self._ids[epoch]

    def _connect(self, channel: Channel) -> None:
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        unique_id = self._id(channel.epoch)
        communicator = uid_init_process_group(unique_id, 0, channel.world_size, self._buffer.device)
        with self._lock:
            given_up = channel.epoch in self._given_up
            if not given_up:
                self._communicators[channel.epoch] = communicator
        if given_up:
            communicator.destroy()
            raise RuntimeError("given up while connecting")

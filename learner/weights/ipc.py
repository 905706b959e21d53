"""Weights over CUDA IPC: learner and actors share a card, actors map the learner's buffer and copy from it.

Nothing is sent: Begin carries the handle, Commit tells the actor to copy, Applied ends the learner's duty to leave the
buffer alone. An actor that is later than the commit's deadline notices by the buffer's stamp (device.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

from common.config import RunConfig
from common.weights import IpcHandle
from learner.weights.device import DeviceBuffer, DeviceStaged
from learner.weights.epochs import Backend
from learner.weights.transport import Channel, Staged, Tensors, torch_dtype


class IpcTransport:
    """Learner's side of the ipc backend."""

    backend: Backend = "ipc"
    store_port = 0

    def __init__(self, config: RunConfig) -> None:
        self._buffer = DeviceBuffer(torch_dtype(config.actor.dtype))

    def stage(self, version: int, tensors: Tensors) -> DeviceStaged:
        """Copy into the shared buffer."""
        return self._buffer.stage(version, tensors)

    def handles(self, epoch: int, staged: Staged, rank: int) -> bytes:
        """A handle of the buffer for one actor. Each export has its own reference count, so each actor gets one."""
        assert self._buffer.flat_B is not None
        return export_handle(self._buffer.flat_B).to_json()

    def broadcast(self, channel: Channel, staged: Staged, deadline: float) -> None:
        """Nothing to send: the actors copy at Commit."""

    def close_channel(self, epoch: int) -> None:
        """There is no communicator."""

    def close(self) -> None:
        """Give the buffer back."""
        self._buffer.flat_B = None
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


def export_handle(flat_B: torch.Tensor) -> IpcHandle:
    """Handle by which another process maps this uint8 CUDA tensor; keep the tensor until it is done."""
    _, arguments = reduce_tensor(flat_B)  # type: ignore[no-untyped-call]
    uuid = str(torch.cuda.get_device_properties(flat_B.device).uuid)
    return handle_of(arguments, uuid)


def handle_of(arguments: Sequence[Any], device_uuid: str) -> IpcHandle:
    """The plain part of `rebuild_cuda_tensor`'s arguments for a one-dimensional uint8 tensor."""
    _, size, stride, offset, _, dtype, device, memory, storage_size, storage_offset, _, counter, at, event, sync = (
        arguments
    )
    assert dtype is torch.uint8
    assert len(size) == 1
    assert tuple(stride) == (1,)
    return IpcHandle(
        device_uuid=device_uuid,
        num_bytes=int(size[0]),
        tensor_offset=offset,
        device_index=device,
        memory_handle=memory,
        storage_size_bytes=storage_size,
        storage_offset_bytes=storage_offset,
        ref_counter_handle=counter,
        ref_counter_offset=at,
        event_handle=event,
        event_sync_required=sync,
    )

"""The seam between the epoch protocol and what moves the bytes: gloo, CUDA IPC, NCCL.

stage(version, tensors)   all of the weights, in the actors' dtype, into one flat buffer of our own
handles(...)              what an actor must be told at Begin (IPC handle, NCCL id); plain bytes, never a pickle
broadcast(...)            our side of the transfer, in a background thread, ended by its deadline
close_channel(epoch)      the communicator of that epoch is broken or its members changed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from common.errors import ZeroqError
from common.messages import ParameterMeta
from common.weights import Layout, digest_of
from common.wire import Array
from learner.weights.epochs import Backend

Tensors = Iterable[tuple[str, torch.Tensor]]


class TransferFailed(ZeroqError):
    """Our side of a broadcast failed; the epoch is over."""


@dataclass(frozen=True)
class Channel:
    """Which communicator a broadcast uses. `fresh`: it is to be made first."""

    epoch: int
    world_size: int
    prefix: str
    fresh: bool


@dataclass(frozen=True)
class Snapshot:
    """Weights in host memory, never changed once made: `data_B` uint8[total_bytes]."""

    version: int
    layout: Layout
    data_B: Array
    digest: str


class Staged(Protocol):
    """One version, ready to be sent. `digest` is what actors must report at Received."""

    @property
    def version(self) -> int: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def digest(self) -> str: ...

    def snapshot(self) -> Snapshot | None:
        """The bytes in host memory for those who pull; None when the buffer holds a newer version already."""


class Transport(Protocol):
    """One way to move staged weights to all members of an epoch."""

    backend: Backend
    store_port: int

    def stage(self, version: int, tensors: Tensors) -> Staged:
        """Copy (and cast) all tensors into a flat buffer; exhausts `tensors`."""

    def handles(self, epoch: int, staged: Staged, rank: int) -> bytes:
        """Frame of Begin for the member of this rank; empty if there is none. The same for repeated calls."""

    def broadcast(self, channel: Channel, staged: Staged, deadline: float) -> None:
        """Send to all members; TransferFailed at the deadline (monotonic seconds) or when one of them is gone."""

    def close_channel(self, epoch: int) -> None:
        """Give up a communicator; returns at once."""

    def close(self) -> None:
        """Release everything."""


def fill(
    tensors: Tensors, dtype: torch.dtype, known: Layout | None, allocate: Callable[[int], torch.Tensor]
) -> tuple[Layout, torch.Tensor]:
    """Copy `tensors` as `dtype` into the uint8 buffer of `allocate(total_bytes)`, which must come zeroed.

    With the layout `known` from the version before, each tensor goes straight to its place; the first time they are
    kept until their sizes are known. ValueError when names or shapes differ from `known`.
    """
    if known is None:
        kept = [(_meta(name, tensor, dtype), tensor.detach().to(dtype, copy=True)) for name, tensor in tensors]
        known = Layout(meta for meta, _ in kept)
        flat_B = allocate(known.total_bytes)
        for slot, (_, tensor) in zip(known.slots, kept, strict=True):
            slot_view(flat_B, slot.offset, slot.size_bytes, dtype, tensor.shape).copy_(tensor)
        return known, flat_B
    flat_B = allocate(known.total_bytes)
    count = 0
    for name, tensor in tensors:
        meta = _meta(name, tensor, dtype)
        if count >= len(known.slots) or known.slots[count].meta != meta:
            raise ValueError(f"weights changed between publishes: parameter {count} is {meta} now; start a new run")
        slot = known.slots[count]
        slot_view(flat_B, slot.offset, slot.size_bytes, dtype, tensor.shape).copy_(tensor.detach())
        count += 1
    if count != len(known.slots):
        raise ValueError(f"weights changed between publishes: {count} parameters, before {len(known.slots)}")
    return known, flat_B


def slot_view(flat_B: torch.Tensor, offset: int, size: int, dtype: torch.dtype, shape: Iterable[int]) -> torch.Tensor:
    """The bytes of one parameter, as a tensor over the flat buffer."""
    return flat_B[offset : offset + size].view(dtype).view(tuple(shape))


def torch_dtype(name: str) -> torch.dtype:
    """`bfloat16` -> torch.bfloat16."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _meta(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> ParameterMeta:
    return ParameterMeta.model_validate(
        {"name": name, "dtype": str(dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    )


def snapshot_of(version: int, layout: Layout, data_B: Array) -> Snapshot:
    """Snapshot with its digest."""
    return Snapshot(version, layout, data_B, digest_of(data_B))

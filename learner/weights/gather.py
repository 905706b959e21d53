"""Whole parameters from a (sharded) model, under the names that a Hugging Face checkpoint has.

FSDP2 parameters are DTensors; `full_tensor()` is a collective of all ranks. A bucket is gathered whole on all ranks
before any of it is handed out: a rank that sends between two gathers, while others wait in the next one, deadlocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor

DEFAULT_BUCKET_BYTES = 256 * 1024 * 1024
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "module.")
"""Prefixes that torch.compile, activation checkpointing and wrappers put into parameter names."""


def gather_full_tensors(
    model: torch.nn.Module,
    dtype: torch.dtype | None = None,
    *,
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, whole tensor) of every parameter, cast to `dtype` (None: as it is; the publisher casts anyway).

    Runs collectives: every rank must exhaust the iterator; only rank 0 passes it on. Sharded tensors are cast before
    they are gathered, which halves the traffic. Of tied parameters only the first comes, as in a saved checkpoint.
    """
    bucket: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, parameter in named_weights(model):
        bucket.append((name, parameter))
        size += parameter.numel() * (dtype or parameter.dtype).itemsize
        if size >= bucket_bytes:
            yield from _gather(bucket, dtype)
            bucket, size = [], 0
    yield from _gather(bucket, dtype)


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters under checkpoint names, without a tied `lm_head`."""
    tied = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    for name, parameter in model.named_parameters():
        plain = _plain_name(name)
        if not (tied and plain == "lm_head.weight"):
            yield plain, parameter


@torch.no_grad()
def _gather(bucket: list[tuple[str, torch.Tensor]], dtype: torch.dtype | None) -> list[tuple[str, torch.Tensor]]:
    gathered = []
    for name, parameter in bucket:
        tensor = parameter.detach()
        if dtype is not None:
            tensor = tensor.to(dtype)
        gathered.append((name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor))
    return gathered


def _plain_name(name: str) -> str:
    for wrapper in _WRAPPERS[:-1]:
        name = name.replace(wrapper, "")
    return name.removeprefix(_WRAPPERS[-1])

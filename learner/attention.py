"""Owns attention over packed sequences: each attends to itself alone, and no S x S mask is ever built.

Registered with transformers under `NAME`, so that its models run unchanged. transformers makes no mask for a name that
it has no mask function for; what belongs together is said by a `PackedLayout` that travels as keyword `packed`.

    CUDA, 16-bit    torch.nn.attention.varlen (FlashAttention) on the packed tokens
    otherwise       rows of similar length padded to [rows, longest], scaled_dot_product_attention(is_causal), unpadded

Padding on the right is safe under causal masks: nobody looks right, and what padded places compute is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from common.errors import UserError

NAME = "zeroq_packed"


@dataclass(frozen=True)
class PackedLayout:
    """Where sequences begin in S packed tokens, and how to pad them to R = sum over buckets of rows x longest."""

    bounds: Tensor
    """int32[N+1], cumulative lengths."""
    longest: int
    buckets: list[tuple[int, int]]
    """(rows, longest) of each bucket of sequences padded together."""
    padded_from_R: Tensor
    """int64[R]: the packed token of each padded place (any valid one where there is none)."""
    packed_from_S: Tensor
    """int64[S]: the padded place of each packed token."""

    @classmethod
    def of(cls, lengths: list[int], device: torch.device | str = "cpu") -> PackedLayout:
        """Layout of sequences of these lengths. A bucket takes rows at least half as long as its longest."""
        lengths_N = torch.tensor(lengths, dtype=torch.int64)
        bounds = F.pad(lengths_N.cumsum(0), (1, 0))
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        buckets: list[tuple[int, int]] = []
        for index in order:
            if buckets and 2 * lengths[index] >= buckets[-1][1]:
                buckets[-1] = (buckets[-1][0] + 1, buckets[-1][1])
            else:
                buckets.append((1, lengths[index]))
        padded_from: list[Tensor] = []
        packed_from_S = torch.empty(int(bounds[-1]), dtype=torch.int64)
        row = place = 0
        for rows, longest in buckets:
            members = torch.tensor(order[row : row + rows])
            column_L = torch.arange(longest)
            inside = column_L[None, :] < lengths_N[members, None]
            source = torch.where(inside, bounds[members, None] + column_L[None, :], 0)
            places = place + torch.arange(rows * longest).view(rows, longest)
            packed_from_S[source[inside]] = places[inside]
            padded_from.append(source.flatten())
            row += rows
            place += rows * longest
        return cls(
            bounds=bounds.to(device, torch.int32),
            longest=max(lengths),
            buckets=buckets,
            padded_from_R=torch.cat(padded_from).to(device),
            packed_from_S=packed_from_S.to(device),
        )


class _Pad(torch.autograd.Function):
    """x[S, ...] -> padded[R, ...]. Padded places have no gradient under causal attention, so backward only selects."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layout: PackedLayout) -> Tensor:
        ctx.layout = layout  # type: ignore[attr-defined]
        return x.index_select(0, layout.padded_from_R)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.layout.packed_from_S), None  # type: ignore[attr-defined]


class _Unpad(torch.autograd.Function):
    """padded[R, ...] -> x[S, ...]; padded places get gradient 0."""

    @staticmethod
    def forward(ctx: FunctionCtx, padded: Tensor, layout: PackedLayout) -> Tensor:
        ctx.layout, ctx.num_rows = layout, padded.shape[0]  # type: ignore[attr-defined]
        return padded.index_select(0, layout.packed_from_S)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor, None]:
        gradient = gradients[0]
        padded = gradient.new_zeros((ctx.num_rows, *gradient.shape[1:]))  # type: ignore[attr-defined]
        return padded.index_copy_(0, ctx.layout.packed_from_S, gradient), None  # type: ignore[attr-defined]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention function in transformers' signature: query [1, H, S, D], key and value [1, H_kv, S, D] -> [1, S, H, D].

    Raises UserError for variants that it would compute wrongly (attention sinks, soft caps, windows shorter than a
    sequence, dropout).
    """
    if softcap or s_aux is not None or dropout or (sliding_window is not None and sliding_window < packed.longest):
        raise UserError(
            f"{type(module).__name__}: attention with softcap, sinks, dropout or a sliding window of {sliding_window} "
            f"shorter than the longest sequence ({packed.longest} tokens) is not supported by the learner"
        )
    assert attention_mask is None, "transformers built a mask for packed attention"
    query_S, key_S, value_S = (x[0].transpose(0, 1) for x in (query, key, value))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query_S, key_S, value_S, packed, scaling)[None], None
    return _padded(query_S, key_S, value_S, packed, scaling)[None], None


def _varlen(query_S: Tensor, key_S: Tensor, value_S: Tensor, packed: PackedLayout, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = packed.bounds, packed.longest
    output = varlen_attn(
        query_S, key_S, value_S, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(output, Tensor)
    return output


def _padded(query_S: Tensor, key_S: Tensor, value_S: Tensor, packed: PackedLayout, scaling: float | None) -> Tensor:
    dtype = query_S.dtype
    padded = [_Pad.apply(x, packed) for x in (query_S, key_S, value_S)]  # type: ignore[no-untyped-call]
    if not query_S.is_cuda:  # PyTorch's CPU kernel takes 4 times as long in bfloat16 as in float32, casts included
        padded = [x.float() for x in padded]
    outputs, place = [], 0
    for rows, longest in packed.buckets:
        end = place + rows * longest
        query, key, value = (x[place:end].unflatten(0, (rows, longest)).transpose(1, 2) for x in padded)
        output = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        place = end
    result = _Unpad.apply((torch.cat(outputs) if len(outputs) > 1 else outputs[0]).to(dtype), packed)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

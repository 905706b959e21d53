"""Owns attention over packed sequences: each attends to itself alone, and no S x S mask is ever built.

Registered with transformers under `NAME`, so that its models run unchanged. transformers makes no mask for a name that
it has no mask function for; what belongs together is said by a `PackedLayout` that travels as keyword `packed`.

    packed tokens S  --expand-->  rows (a sequence each, its prompt copied in)  --attention-->  rows  --select-->  S

    CUDA, 16-bit    torch.nn.attention.varlen (FlashAttention) on rows laid end to end
    otherwise       rows of similar length padded to [rows, longest], scaled_dot_product_attention(is_causal)

A prompt that several sequences share is one stretch of S and part of each of their rows: its keys and values are
copied, their gradients are summed, and of its outputs, equal in all rows, the first row's is taken. Padding on the
right is safe under causal masks: nobody looks right, and what padded places compute is thrown away.
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
class Places:
    """Correspondence of S packed tokens and the places of rows that hold them."""

    token_of: Tensor
    """int64[places]: the packed token of each place (any valid one at padding)."""
    place_of_S: Tensor
    """int64[S]: the place whose output stands for a packed token."""
    copies: tuple[Tensor, Tensor] | None
    """Where tokens have several places: all places that hold a token, and these tokens."""

    def to(self, device: torch.device | str) -> Places:
        """The same on a device."""
        copies = None if self.copies is None else (self.copies[0].to(device), self.copies[1].to(device))
        return Places(self.token_of.to(device), self.place_of_S.to(device), copies)


@dataclass(frozen=True)
class PackedLayout:
    """How S packed tokens become rows, and how rows are padded to sum over buckets of rows x longest places."""

    bounds: Tensor
    """int32[N+1], cumulative lengths of the rows."""
    longest: int
    buckets: list[tuple[int, int]]
    """(rows, longest) of each bucket of rows padded together."""
    padded: Places
    """Places of padded rows."""
    end_to_end: Places | None
    """Places of rows laid end to end; None where that is how the tokens are packed."""

    @classmethod
    def of(
        cls, lengths: list[int], device: torch.device | str = "cpu", row_tokens_R: Tensor | None = None
    ) -> PackedLayout:
        """Layout of rows of these lengths; `row_tokens_R` is the packed token of each of their places where rows share
        tokens. A bucket takes rows at least half as long as its longest."""
        lengths_N = torch.tensor(lengths, dtype=torch.int64)
        bounds = F.pad(lengths_N.cumsum(0), (1, 0))
        num_places = int(bounds[-1])
        token_of_R = torch.arange(num_places) if row_tokens_R is None else row_tokens_R.cpu()
        first_S = _first_places(token_of_R)
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        buckets: list[tuple[int, int]] = []
        for index in order:
            if buckets and 2 * lengths[index] >= buckets[-1][1]:
                buckets[-1] = (buckets[-1][0] + 1, buckets[-1][1])
            else:
                buckets.append((1, lengths[index]))
        padded_from: list[Tensor] = []
        padded_of_R = torch.empty(num_places, dtype=torch.int64)
        row = place = 0
        for rows, longest in buckets:
            members = torch.tensor(order[row : row + rows])
            column_L = torch.arange(longest)
            inside = column_L[None, :] < lengths_N[members, None]
            source = torch.where(inside, bounds[members, None] + column_L[None, :], 0)
            places = place + torch.arange(rows * longest).view(rows, longest)
            padded_of_R[source[inside]] = places[inside]
            padded_from.append(source.flatten())
            row += rows
            place += rows * longest
        shared = len(first_S) < num_places
        padded = Places(
            token_of_R[torch.cat(padded_from)], padded_of_R[first_S], (padded_of_R, token_of_R) if shared else None
        )
        in_a_row = Places(token_of_R, first_S, (torch.arange(num_places), token_of_R)) if shared else None
        return cls(
            bounds=bounds.to(device, torch.int32),
            longest=max(lengths),
            buckets=buckets,
            padded=padded.to(device),
            end_to_end=None if in_a_row is None else in_a_row.to(device),
        )


def _first_places(token_of_R: Tensor) -> Tensor:
    """int64[S]: the first place of each token."""
    first_S = torch.full((int(token_of_R.max()) + 1,), len(token_of_R), dtype=torch.int64)
    return first_S.scatter_reduce_(0, token_of_R, torch.arange(len(token_of_R)), "amin")


class _Expand(torch.autograd.Function):
    """x[S, ...] -> y[places, ...]. Padding has no gradient under causal attention, so backward leaves it out; the
    gradients of a token's copies are added up, in float32."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, places: Places) -> Tensor:
        ctx.places = places  # type: ignore[attr-defined]
        return x.index_select(0, places.token_of)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor, None]:
        places: Places = ctx.places  # type: ignore[attr-defined]
        gradient = gradients[0]
        if places.copies is None:
            return gradient.index_select(0, places.place_of_S), None
        where, tokens = places.copies
        total = torch.zeros((len(places.place_of_S), *gradient.shape[1:]), dtype=torch.float32, device=gradient.device)
        return total.index_add_(0, tokens, gradient.index_select(0, where).float()).to(gradient.dtype), None


class _Select(torch.autograd.Function):
    """y[places, ...] -> x[S, ...]; places whose output is not taken get gradient 0."""

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, places: Places) -> Tensor:
        ctx.places, ctx.num_places = places, y.shape[0]  # type: ignore[attr-defined]
        return y.index_select(0, places.place_of_S)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor, None]:
        gradient = gradients[0]
        whole = gradient.new_zeros((ctx.num_places, *gradient.shape[1:]))  # type: ignore[attr-defined]
        return whole.index_copy_(0, ctx.places.place_of_S, gradient), None  # type: ignore[attr-defined]


def _expand(x_S: Tensor, places: Places) -> Tensor:
    result = _Expand.apply(x_S, places)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def _select(y: Tensor, places: Places) -> Tensor:
    result = _Select.apply(y, places)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


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

    bounds, longest, places = packed.bounds, packed.longest, packed.end_to_end
    if places is not None:
        query_S, key_S, value_S = (_expand(x, places) for x in (query_S, key_S, value_S))
    output = varlen_attn(
        query_S, key_S, value_S, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(output, Tensor)
    return output if places is None else _select(output, places)


def _padded(query_S: Tensor, key_S: Tensor, value_S: Tensor, packed: PackedLayout, scaling: float | None) -> Tensor:
    dtype = query_S.dtype
    padded = [_expand(x, packed.padded) for x in (query_S, key_S, value_S)]
    if not query_S.is_cuda:  # PyTorch's CPU kernel takes 4 times as long in bfloat16 as in float32, casts included
        padded = [x.float() for x in padded]
    outputs, place = [], 0
    for rows, longest in packed.buckets:
        end = place + rows * longest
        query, key, value = (x[place:end].view(rows, longest, *x.shape[1:]).transpose(1, 2) for x in padded)
        output = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        place = end
    return _select((torch.cat(outputs) if len(outputs) > 1 else outputs[0]).to(dtype), packed.padded)


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

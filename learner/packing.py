"""Owns the layout of training data: sequences side by side in one dimension, cut into micro-batches by tokens.

    sequence   p p p c c c c            P prompt tokens, C completion tokens
    fed        p p p c c c              all but the last; positions 0..P+C-2
    predicts       c c c c              the output at position t-1 scores token t, from t = P on

S counts tokens fed, T completion tokens, N sequences. Only positions that predict a completion token reach the head, so
prompts need no mask. All ranks get the same number of micro-batches, since FSDP's collectives run in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Tokens = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True)
class Sequences:
    """N prompts with their completions: lengths int64[N], and all tokens (prompt, completion, prompt, ...) in a row."""

    prompt_lengths_N: Ints
    completion_lengths_N: Ints
    token_ids: Ints

    def __post_init__(self) -> None:
        if len(self) and (self.prompt_lengths_N.min() < 1 or self.completion_lengths_N.min() < 1):
            raise ValueError("every sequence needs a token in its prompt and one in its completion")
        if int(self.prompt_lengths_N.sum() + self.completion_lengths_N.sum()) != len(self.token_ids):
            raise ValueError("lengths do not add up to the number of tokens")

    def __len__(self) -> int:
        return len(self.prompt_lengths_N)

    @property
    def fed_lengths_N(self) -> Ints:
        """Tokens that each sequence feeds to the model: all but its last."""
        return self.prompt_lengths_N + self.completion_lengths_N - 1

    @classmethod
    def of(cls, pairs: Sequence[tuple[Tokens, Tokens]]) -> Sequences:
        """From (prompt ids, completion ids) pairs."""
        prompts = np.array([len(prompt) for prompt, _ in pairs], dtype=np.int64)
        completions = np.array([len(completion) for _, completion in pairs], dtype=np.int64)
        tokens = [np.asarray(part, dtype=np.int64) for pair in pairs for part in pair]
        return cls(prompts, completions, np.concatenate(tokens) if tokens else np.zeros(0, np.int64))


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes. All tensors are int64 on one device."""

    token_ids_S: Tensor
    positions_S: Tensor
    lengths: list[int]
    """Tokens fed by each sequence; they lie side by side in S."""
    predict_at_T: Tensor
    """Index in S whose output scores each completion token."""
    targets_T: Tensor
    sequence_ids_T: Tensor
    """Which of this micro-batch's sequences a completion token belongs to."""
    sequences: list[int]
    """Which sequences of the batch these are."""
    completion_index_T: Tensor
    """Where each completion token lies among all completion tokens of the batch."""


def plan_microbatches(lengths_N: Sequence[int] | Ints, budget: int, num_ranks: int = 1) -> list[list[list[int]]]:
    """Assign N sequences to micro-batches: `plan[rank][micro-batch]` lists sequence indices.

    No micro-batch exceeds `budget` tokens, except one holding a single sequence that is longer. Every rank gets the
    same number of micro-batches; missing ones are empty lists. The number is near the fewest (best fit decreasing), the
    tokens are spread evenly over them (longest first, to the least loaded). The same input gives the same plan.
    """
    lengths = [int(length) for length in lengths_N]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins = _best_fit(lengths, order, budget)
    count = max(1, -(-len(bins) // num_ranks)) * num_ranks
    bins = _least_loaded(lengths, order, budget, count) or [*bins, *([] for _ in range(count - len(bins)))]
    bins.sort(key=lambda bin: -sum(lengths[index] for index in bin))
    plan: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    for number, bin in enumerate(bins):  # dealt forth and back, so that no rank gets the larger one each time
        turn, place = divmod(number, num_ranks)
        plan[place if turn % 2 == 0 else num_ranks - 1 - place].append(sorted(bin))
    return plan


def _best_fit(lengths: list[int], order: list[int], budget: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for index in order:
        fitting = [b for b in range(len(bins)) if room[b] >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda b: (room[b], b))
        else:
            best = len(bins)
            bins.append([])
            room.append(budget)
        bins[best].append(index)
        room[best] -= lengths[index]
    return bins


def _least_loaded(lengths: list[int], order: list[int], budget: int, count: int) -> list[list[int]] | None:
    """Longest first into the least loaded of `count` micro-batches; None when that breaks the budget."""
    bins: list[list[int]] = [[] for _ in range(count)]
    load = [0] * count
    for index in order:
        best = min(range(count), key=lambda b: (load[b], b))
        if bins[best] and load[best] + lengths[index] > budget:
            return None
        bins[best].append(index)
        load[best] += lengths[index]
    return bins


def pack(batch: Sequences, indices: Sequence[int], device: torch.device | str = "cpu") -> MicroBatch:
    """Lay the chosen sequences out side by side. Without any, a micro-batch of one token that predicts nothing: a rank
    that has run out of sequences takes part in the collectives with it, and its gradients are zero."""
    if not indices:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        token = torch.zeros(1, dtype=torch.int64, device=device)
        return MicroBatch(token, token, [1], nothing, nothing, nothing, [], nothing)
    starts_N = np.concatenate([[0], np.cumsum(batch.prompt_lengths_N + batch.completion_lengths_N)])
    completion_starts_N = np.concatenate([[0], np.cumsum(batch.completion_lengths_N)])
    tokens, positions, predict_at, targets, owners, places = [], [], [], [], [], []
    offset = 0
    for owner, index in enumerate(indices):
        prompt, completion = int(batch.prompt_lengths_N[index]), int(batch.completion_lengths_N[index])
        start, fed = int(starts_N[index]), prompt + completion - 1
        tokens.append(batch.token_ids[start : start + fed])
        positions.append(np.arange(fed))
        predict_at.append(np.arange(offset + prompt - 1, offset + fed))
        targets.append(batch.token_ids[start + prompt : start + prompt + completion])
        owners.append(np.full(completion, owner))
        places.append(np.arange(completion_starts_N[index], completion_starts_N[index] + completion))
        offset += fed

    def tensor(parts: list[Ints]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    return MicroBatch(
        token_ids_S=tensor(tokens),
        positions_S=tensor(positions),
        lengths=[len(part) for part in tokens],
        predict_at_T=tensor(predict_at),
        targets_T=tensor(targets),
        sequence_ids_T=tensor(owners),
        sequences=list(indices),
        completion_index_T=tensor(places),
    )

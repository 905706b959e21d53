"""Owns the layout of training data: sequences side by side in one dimension, cut into micro-batches by tokens.

    sequence   p p p c c c c            P prompt tokens, C completion tokens
    fed        p p p c c c              all but the last; positions 0..P+C-2
    predicts       c c c c              the output at position t-1 scores token t, from t = P on

    family     p p p  c c c  d d  e e e e        G sequences with one prompt: it is fed once
    rows       p p p c c c | p p p d d | ...     what attention sees: each sequence whole (learner/attention.py)

S counts tokens fed, T completion tokens, N sequences. A prompt's hidden states do not depend on what follows, so those
of a group are computed once and the gradients of its G completions meet there: the same sums as without sharing, at
(P + sum C) / (G P + sum C) of the work outside attention. Only positions that predict a completion token reach the
head, so prompts need no mask. All ranks get the same number of micro-batches, since FSDP's collectives run in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
        """Tokens that each sequence by itself would feed to the model: all but its last."""
        return self.prompt_lengths_N + self.completion_lengths_N - 1

    @cached_property
    def starts(self) -> Ints:
        """int64[N+1]: where each sequence begins in `token_ids`, and the end."""
        return np.concatenate([[0], np.cumsum(self.prompt_lengths_N + self.completion_lengths_N)])

    @cached_property
    def family_of_N(self) -> Ints:
        """Which prompt each sequence has, counted from 0: neighbours with equal prompts are a family."""
        prompts = [self.prompt(index) for index in range(len(self))]
        new = [index == 0 or not np.array_equal(prompts[index - 1], prompts[index]) for index in range(len(self))]
        return np.cumsum(new, dtype=np.int64) - 1

    def prompt(self, index: int) -> Ints:
        """Prompt tokens of a sequence."""
        start = int(self.starts[index])
        return self.token_ids[start : start + int(self.prompt_lengths_N[index])]

    def completion(self, index: int) -> Ints:
        """Completion tokens of a sequence."""
        end = int(self.starts[index + 1])
        return self.token_ids[end - int(self.completion_lengths_N[index]) : end]

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
    """Tokens of each sequence's row: its prompt and all but the last of its completion."""
    row_tokens_R: Tensor | None
    """Index in S of each token of the rows, one row after the other; None where rows lie in S just so."""
    predict_at_T: Tensor
    """Index in S whose output scores each completion token."""
    targets_T: Tensor
    sequence_ids_T: Tensor
    """Which of this micro-batch's sequences a completion token belongs to."""
    sequences: list[int]
    """Which sequences of the batch these are."""
    completion_index_T: Tensor
    """Where each completion token lies among all completion tokens of the batch."""


def plan_batch(
    batch: Sequences, budget: int, num_ranks: int = 1, *, members: Sequence[int] | None = None
) -> list[list[list[int]]]:
    """Assign sequences (all, or `members`) to micro-batches of at most `budget` tokens fed: `plan[rank][micro-batch]`
    lists indices.

    Families stay together, unless one is longer than the budget or than half of a rank's share of the batch.
    """
    members = range(len(batch)) if members is None else members
    families = _families(batch, members, budget)
    if num_ranks > 1:
        total = sum(tokens for _, tokens in families)
        families = _families(batch, members, min(budget, -(-total // (2 * num_ranks))))
    plan = plan_microbatches([tokens for _, tokens in families], budget, num_ranks)
    return [[sorted(index for family in part for index in families[family][0]) for part in parts] for parts in plan]


def _families(batch: Sequences, members: Sequence[int], limit: int) -> list[tuple[list[int], int]]:
    """Runs of sequences that share a prompt and feed at most `limit` tokens together (or are single); their tokens."""
    families: list[tuple[list[int], int]] = []
    for index in members:
        own = int(batch.completion_lengths_N[index]) - 1
        if families:
            relatives, tokens = families[-1]
            if batch.family_of_N[relatives[-1]] == batch.family_of_N[index] and tokens + own <= limit:
                families[-1] = ([*relatives, index], tokens + own)
                continue
        families.append(([index], int(batch.prompt_lengths_N[index]) + own))
    return families


def plan_microbatches(lengths_N: Sequence[int] | Ints, budget: int, num_ranks: int = 1) -> list[list[list[int]]]:
    """Assign N pieces of work to micro-batches: `plan[rank][micro-batch]` lists their indices.

    No micro-batch exceeds `budget` tokens, except one holding a single piece that is longer. Every rank gets the same
    number of micro-batches; missing ones are empty lists. The number is near the fewest (best fit decreasing), the
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
    """Lay the chosen sequences out side by side; of neighbours in one family, the prompt once.

    Without any, a micro-batch of one token that predicts nothing: a rank that has run out of sequences takes part in
    the collectives with it, and its gradients are zero.
    """
    if not indices:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        token = torch.zeros(1, dtype=torch.int64, device=device)
        return MicroBatch(token, token, [1], None, nothing, nothing, nothing, [], nothing)
    completion_starts_N = np.cumsum(batch.completion_lengths_N) - batch.completion_lengths_N
    tokens, positions, rows, predict_at, targets, owners, places = [], [], [], [], [], [], []
    offset, prompt_at, family = 0, 0, -1
    for owner, index in enumerate(indices):
        prompt, completion = int(batch.prompt_lengths_N[index]), int(batch.completion_lengths_N[index])
        if batch.family_of_N[index] != family:
            family, prompt_at = int(batch.family_of_N[index]), offset
            tokens.append(batch.prompt(index))
            positions.append(np.arange(prompt))
            offset += prompt
        own = np.arange(offset, offset + completion - 1)
        tokens.append(batch.completion(index)[:-1])
        positions.append(np.arange(prompt, prompt + completion - 1))
        rows.append(np.concatenate([np.arange(prompt_at, prompt_at + prompt), own]))
        predict_at.append(np.concatenate([[prompt_at + prompt - 1], own]))
        targets.append(batch.completion(index))
        owners.append(np.full(completion, owner))
        places.append(np.arange(completion_starts_N[index], completion_starts_N[index] + completion))
        offset += completion - 1

    def tensor(parts: list[Ints]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    lengths = [len(row) for row in rows]
    return MicroBatch(
        token_ids_S=tensor(tokens),
        positions_S=tensor(positions),
        lengths=lengths,
        row_tokens_R=tensor(rows) if sum(lengths) > offset else None,
        predict_at_T=tensor(predict_at),
        targets_T=tensor(targets),
        sequence_ids_T=tensor(owners),
        sequences=list(indices),
        completion_index_T=tensor(places),
    )

"""Owns the way from groups to a training batch: gate 3 (staleness per token), masks, advantages, reward figures.

N rollouts of all groups of a step lie side by side, T completion tokens in all. Rank 0 builds the batch; `share` gives
it to all ranks as two tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import LearnerSection
from common.errors import RunFailure
from common.messages import Group
from common.wire import Envelope
from learner.advantage import group_advantages
from learner.packing import Sequences
from learner.ranks import Ranks

Staleness = Literal["mask", "drop", "pace"]
MAX_SOURCES = 16
"""Sources told apart in one step's figures."""
OTHER = "other"
"""What is not told apart, in figures by name."""


@dataclass(frozen=True)
class TakenGroup:
    """A group as the learner took it. T tokens of all its rollouts."""

    header: Group
    prompt_ids: NDArray[np.int32]
    token_ids_T: NDArray[np.int32]
    logprobs_T: NDArray[np.float32]
    versions_T: NDArray[np.int32]
    texts: bytes
    source: str | None = None
    """Where its problem is from, as the feed knows."""
    prompt: bytes = b""
    """The prompt's text, for reading."""

    @classmethod
    def of(cls, envelope: Envelope) -> TakenGroup:
        """From the broker's reply; WireError when a frame is missing or of the wrong type."""
        assert isinstance(envelope.header, Group)
        return cls(
            envelope.header,
            envelope.array("prompt_ids", "int32"),
            envelope.array("token_ids", "int32"),
            envelope.array("logprobs", "float32"),
            envelope.array("versions", "int32"),
            envelope.blob("texts"),
            prompt=envelope.blob("prompt"),
        )

    @property
    def task_id(self) -> str:
        return self.header.task_id

    @property
    def lengths(self) -> list[int]:
        """Tokens of each rollout."""
        return [rollout.num_tokens for rollout in self.header.rollouts]

    def rollout_texts(self) -> list[str]:
        """Text of each rollout."""
        ends = np.cumsum([0, *(rollout.text_bytes for rollout in self.header.rollouts)])
        pairs = itertools.pairwise(ends)
        return [self.texts[start:end].decode("utf-8", errors="replace") for start, end in pairs]


def usable(group: TakenGroup, version: int, config: LearnerSection) -> bool:
    """May this group be trained on while `version` is current (gate 3)? If not, its task is to be generated again.

    `mask` takes it as long as one token is within the bound, `drop` if all are. `pace` promises that none is too old:
    RunFailure if one is.
    """
    staleness_T = version - group.versions_T
    if config.staleness_policy == "mask":
        return bool((staleness_T <= config.max_staleness).any())
    if (staleness_T <= config.max_staleness).all():
        return True
    if config.staleness_policy == "pace":
        raise RunFailure(
            f"group {group.task_id}: a token of version {int(group.versions_T.min())} is trained on at version "
            f"{version}, past max_staleness {config.max_staleness}, which staleness_policy pace rules out"
        )
    return False


@dataclass(frozen=True)
class TrainingBatch:
    """What one optimizer step trains on, on the host."""

    sequences: Sequences
    behavior_logprobs_T: Tensor
    loss_mask_T: Tensor
    """bool[T]: tokens that carry gradient and count in denominators."""
    advantages_N: Tensor

    @property
    def num_tokens(self) -> int:
        """Completion tokens that count."""
        return int(self.loss_mask_T.sum())


@dataclass(frozen=True)
class BatchFigures:
    """What is reported about a batch (rank 0)."""

    task_ids: list[str]
    reward: float
    reward_std: float
    frac_reward_zero_std: float
    rewards: dict[str, tuple[float, float]]
    """Mean and standard deviation of each reward component over the rollouts that have it."""
    reward_lengths: dict[str, tuple[float, float | None]]
    """Of those rollouts: mean length in tokens, and the correlation of value and length (None where one is constant).
    """
    by_source: dict[str, tuple[float, float]]
    """Mean reward and mean length (tokens) of the rollouts of each source of problems."""
    outcomes: dict[str, int]
    mean_length: float
    min_length: int
    max_length: int
    clipped_ratio: float
    """Share of rollouts cut off at the token limit."""
    num_prompt_tokens: int
    num_completion_tokens: int
    num_stale_masked: int
    """Tokens past max_staleness, which carry no gradient."""
    staleness: dict[int, int]
    """Trained tokens by staleness, in publishes."""
    queued_s: float


def build_batch(
    groups: Sequence[TakenGroup], version: int, config: LearnerSection, *, components: Collection[str] | None = None
) -> tuple[TrainingBatch, BatchFigures]:
    """Batch of all rollouts of `groups`, and its figures. No token that counts is staler than `max_staleness`.

    `components`: names of rewards that are told apart (None: all that verdicts have); the rest is one, `other`.
    """
    rollouts = [rollout for group in groups for rollout in group.header.rollouts]
    verdicts = [verdict for group in groups for verdict in group.header.verdicts]
    lengths_N = np.array([rollout.num_tokens for rollout in rollouts], dtype=np.int64)
    truncated_N = np.array([rollout.finish_reason == "length" for rollout in rollouts])
    staleness_T = version - np.concatenate([group.versions_T for group in groups]).astype(np.int64)
    fresh_T = staleness_T <= config.max_staleness
    mask_T = fresh_T & ~np.repeat(truncated_N & config.mask_truncated, lengths_N)
    assert not len(staleness_T) or staleness_T.min() >= 0, f"token newer than version {version}: {staleness_T.min()}"
    assert config.staleness_policy == "mask" or fresh_T.all(), "gate 3 let a stale group through"
    rewards_N = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float64)
    group_ids_N = torch.tensor([g for g, group in enumerate(groups) for _ in group.header.rollouts])
    advantages_N = group_advantages(
        rewards_N, group_ids_N, scale=config.advantage_scale, ddof=config.advantage_ddof, eps=config.advantage_eps
    )
    batch = TrainingBatch(
        Sequences.of([pair for group in groups for pair in _pairs(group)]),
        torch.from_numpy(np.concatenate([group.logprobs_T for group in groups])),
        torch.from_numpy(mask_T),
        advantages_N,
    )
    values = _components(groups, components)
    stds = [float(np.std([v.reward for v in group.header.verdicts])) for group in groups]
    counted, counts = np.unique(staleness_T[mask_T], return_counts=True)
    figures = BatchFigures(
        task_ids=[group.task_id for group in groups],
        reward=float(rewards_N.mean()),
        reward_std=float(np.mean(stds)),
        frac_reward_zero_std=float(np.mean([len({v.reward for v in g.header.verdicts}) == 1 for g in groups])),
        rewards={name: (float(np.mean(v)), float(np.std(v))) for name, (v, _) in values.items()},
        reward_lengths={name: (float(np.mean(n)), _correlation(v, n)) for name, (v, n) in values.items()},
        by_source=_by_source(groups),
        outcomes={name: sum(v.outcome == name for v in verdicts) for name in sorted({v.outcome for v in verdicts})},
        mean_length=float(lengths_N.mean()),
        min_length=int(lengths_N.min()),
        max_length=int(lengths_N.max()),
        clipped_ratio=float(truncated_N.mean()),
        num_prompt_tokens=int(batch.sequences.prompt_lengths_N.sum()),
        num_completion_tokens=int(lengths_N.sum()),
        num_stale_masked=int((~fresh_T).sum()),
        staleness={int(s): int(n) for s, n in zip(counted, counts, strict=True)},
        queued_s=float(np.mean([group.header.queued_s for group in groups])),
    )
    return batch, figures


def share(batch: TrainingBatch | None, ranks: Ranks) -> TrainingBatch:
    """Rank 0's batch on all ranks; the others pass None."""
    if ranks.size == 1:
        assert batch is not None
        return batch
    integers = floats = None
    if batch is not None:
        sequences = batch.sequences
        head = np.array([len(sequences), len(batch.loss_mask_T)])
        parts = [head, sequences.prompt_lengths_N, sequences.completion_lengths_N, sequences.token_ids]
        integers = torch.cat([torch.from_numpy(np.concatenate(parts)), batch.loss_mask_T.long()])
        floats = torch.cat([batch.advantages_N, batch.behavior_logprobs_T])
    integers, floats = ranks.broadcast(integers), ranks.broadcast(floats)
    num_sequences, num_tokens = (int(value) for value in integers[:2])
    lengths = integers[2 : 2 + 2 * num_sequences].numpy()
    end = len(integers) - num_tokens
    return TrainingBatch(
        Sequences(lengths[:num_sequences], lengths[num_sequences:], integers[2 + 2 * num_sequences : end].numpy()),
        floats[num_sequences:],
        integers[end:].bool(),
        floats[:num_sequences],
    )


def _pairs(group: TakenGroup) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    ends = np.cumsum(group.lengths)
    return [(group.prompt_ids, tokens) for tokens in np.split(group.token_ids_T, ends[:-1])]


def _components(
    groups: Sequence[TakenGroup], declared: Collection[str] | None
) -> dict[str, tuple[list[float], list[int]]]:
    """Values of each reward component, and lengths, of the rollouts that it applies to. Names come from evaluators, and
    become labels of metrics, which must not grow without end."""
    values: dict[str, tuple[list[float], list[int]]] = {}
    for group in groups:
        for verdict, length in zip(group.header.verdicts, group.lengths, strict=True):
            for name, value in verdict.rewards.items():
                if value is not None:
                    known = declared is None or name in declared
                    own = values.setdefault(name if known else OTHER, ([], []))
                    own[0].append(value)
                    own[1].append(length)
    return dict(sorted(values.items()))


def _correlation(values: Sequence[float], lengths: Sequence[int]) -> float | None:
    """Pearson's; None where one of them is constant."""
    if len(set(values)) < 2 or len(set(lengths)) < 2:
        return None
    return float(np.corrcoef(values, lengths)[0, 1])


def _by_source(groups: Sequence[TakenGroup]) -> dict[str, tuple[float, float]]:
    """Mean reward and length by source, the most frequent first; past MAX_SOURCES they are one, `other`."""
    parts: dict[str, list[TakenGroup]] = {}
    for group in groups:
        if group.source is not None:
            parts.setdefault(group.source, []).append(group)
    ranked = sorted(parts.items(), key=lambda item: (-len(item[1]), item[0]))
    kept = dict(ranked[:MAX_SOURCES])
    if len(ranked) > MAX_SOURCES:
        kept[OTHER] = kept.get(OTHER, []) + [group for _, own in ranked[MAX_SOURCES:] for group in own]
    return {
        source: (
            float(np.mean([verdict.reward for group in own for verdict in group.header.verdicts])),
            float(np.mean([length for group in own for length in group.lengths])),
        )
        for source, own in kept.items()
    }

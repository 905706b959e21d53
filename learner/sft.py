"""Owns supervised fine-tuning itself: what the cold start before RL (R1, stage 2a) and the job `zeroq sft` share.

    examples -> seeded order -> batches -> mean cross-entropy of response tokens -> AdamW

Cosine decay with warm-up. With a time limit the decay follows whichever runs out first, steps or seconds, so that the
rate ends low either way. The cold start reads data/cold_start.jsonl of its run; the job is learner/supervised.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import ColdStartSection, TrainingSection
from common.errors import UserError
from common.job_config import CorpusFile
from learner.corpus import Encoder, read_pairs
from learner.model import Policy
from learner.optimizer import Optimizer, learning_rate
from learner.packing import Ints, Sequences, pack, plan_batch
from learner.ranks import Ranks
from learner.trainer import Trainer

Examples = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Schedule:
    """How long training goes on, and at which rate."""

    steps: int
    lr: float
    lr_final_ratio: float
    warmup_steps: int
    max_seconds: float | None = None

    def rate(self, step: int, elapsed_s: float) -> float:
        """Learning rate of step `step` (from 0), `elapsed_s` seconds after the first began."""
        seconds = elapsed_s / self.max_seconds if self.max_seconds else 0.0
        return learning_rate(
            "cosine",
            self.lr,
            step=step,
            progress=max(step / self.steps, seconds),
            warmup_steps=self.warmup_steps,
            final_ratio=self.lr_final_ratio,
        )


@dataclass(frozen=True)
class SftFigures:
    """What a step, or a look at held-out data, reports over all ranks. Means are over response tokens."""

    loss: float
    """Nats a token."""
    accuracy: float
    """Share of tokens that are the model's likeliest."""
    grad_norm: float
    learning_rate: float
    num_tokens: int
    """Tokens fed to the model."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. `step`: steps done, those before a resume included; `seconds` likewise."""

    step: int
    seconds: float
    stopped: bool


class SupervisedTrainer:
    """Policy and optimizer. The same on every rank; `step` and `evaluate` are collective."""

    reference = None

    def __init__(self, policy: Policy, ranks: Ranks, learner: TrainingSection, *, weight_decay: float) -> None:
        self.policy, self.ranks, self.budget = policy, ranks, learner.tokens_per_microbatch
        self.optimizer = Optimizer(
            policy.module, betas=learner.betas, weight_decay=weight_decay, max_grad_norm=learner.max_grad_norm
        )

    def step(self, batch: Sequences, rate: float, *, where: str) -> SftFigures:
        """One optimizer step on the mean over the batch's response tokens; RunFailure, before any update, if it is not
        finite."""
        loss, accuracy = self._measure(batch, train=True)
        norm = self.optimizer.step(rate, loss, where=where)
        return SftFigures(loss, accuracy, norm, rate, int(batch.fed_lengths_N.sum()))

    @torch.no_grad()
    def evaluate(self, batch: Sequences) -> tuple[float, float]:
        """Mean loss and accuracy over the batch's response tokens."""
        self.policy.module.eval()
        try:
            return self._measure(batch, train=False)
        finally:
            self.policy.module.train()

    def _measure(self, batch: Sequences, *, train: bool) -> tuple[float, float]:
        plan = plan_batch(batch, self.budget, self.ranks.size)
        total = int(batch.completion_lengths_N.sum())
        sums = torch.zeros(2, dtype=torch.float64)
        for part in plan[self.ranks.rank]:
            self.ranks.beat("fine-tuning")
            logprobs_T, correct_T = self.policy.logprobs(pack(batch, part, self.ranks.device), statistic="correct")
            loss = -logprobs_T.sum() / total
            if train:
                loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach(), correct_T.sum() / total]).double().cpu()
        loss_sum, accuracy = self.ranks.sum(sums).tolist()
        return loss_sum, accuracy


def train(
    trainer: SupervisedTrainer,
    batch_of: Callable[[int], tuple[Sequences, str]],
    schedule: Schedule,
    *,
    first_step: int = 0,
    spent_s: float = 0.0,
    after_step: Callable[[int, SftFigures, float], None] = lambda step, figures, elapsed_s: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Steps `first_step` to `schedule.steps`; collective. `batch_of(step)` gives a step's batch and how to call it.

    Ends early after `max_seconds` (of which `spent_s` are gone), or when `stopped()` (the same on all ranks).
    `after_step(steps done, figures, seconds)` is called on every rank. RunFailure when the loss is not finite.
    """
    ranks = trainer.ranks
    began, step, halted = time.monotonic() - spent_s, first_step, False
    while step < schedule.steps:
        elapsed = torch.tensor([time.monotonic() - began], dtype=torch.float32) if ranks.first else None
        elapsed_s = float(ranks.broadcast(elapsed))
        halted = stopped()
        if halted or (schedule.max_seconds is not None and elapsed_s >= schedule.max_seconds):
            break
        batch, where = batch_of(step)
        figures = trainer.step(batch, schedule.rate(step, elapsed_s), where=where)
        step += 1
        after_step(step, figures, time.monotonic() - began)
    return Outcome(step, time.monotonic() - began, halted)


class EpochOrder:
    """Which examples each step trains on: consecutive places in an endless run of epochs, each in an order of its own.

    `counts`: examples of each file, which lie one file after the other; `weights`: how often an epoch takes each of a
    file's examples. A fraction takes a part of them, another in each epoch.
    """

    def __init__(
        self, counts: Sequence[int], weights: Sequence[float] | None = None, *, seed: int, shuffle: bool = True
    ) -> None:
        self._files = list(zip(counts, weights or [1.0] * len(counts), strict=True))
        self._seed, self._shuffle = seed, shuffle
        self._epochs: dict[int, Ints] = {}
        self.size = sum(int(weight) * num + _part(num, weight) for num, weight in self._files)
        """Places of an epoch."""
        if self.size < 1:
            raise UserError(f"an epoch of {sum(counts)} examples at these weights holds none; raise sft.data.*.weight")

    def places(self, first: int, end: int) -> list[int]:
        """Examples at places `first` to `end` of the run."""
        chosen: list[int] = []
        while first < end:
            epoch, position = divmod(first, self.size)
            part = self._epoch(epoch)[position : position + end - first]
            chosen += part.tolist()
            first += len(part)
        return chosen

    def _epoch(self, epoch: int) -> Ints:
        if epoch not in self._epochs:
            self._epochs = {number: order for number, order in self._epochs.items() if number == epoch - 1}
            self._epochs[epoch] = self._draw(np.random.default_rng([self._seed, epoch]))
        return self._epochs[epoch]

    def _draw(self, rng: np.random.Generator) -> Ints:
        taken: list[Ints] = []
        start = 0
        for num, weight in self._files:
            taken += [np.arange(start, start + num)] * int(weight)
            if part := _part(num, weight):
                taken.append(start + np.sort(rng.permutation(num)[:part]))
            start += num
        chosen = np.concatenate(taken)
        return chosen[rng.permutation(len(chosen))] if self._shuffle else chosen


def _part(num: int, weight: float) -> int:
    """Examples that the fraction in a weight takes."""
    return round(num * (weight - int(weight)))


# ---------------------------------------------------------------- the cold start of a run


@dataclass(frozen=True)
class ColdStartFigures:
    """How the cold start went."""

    steps: int
    loss: float
    """Mean over the last steps, nats a token."""
    seconds: float
    tokens_per_s: float
    stopped: bool


def read_examples(path: Path, tokenizer: Any) -> Examples:
    """(prompt ids, response ids with the end token) for each line {"prompt", "response"}; UserError for a bad line."""
    return Encoder(tokenizer, path).encode(list(read_pairs(CorpusFile(path=str(path)))))


def share_examples(examples: Examples | None, ranks: Ranks) -> Examples:
    """Rank 0's examples on all ranks; the others pass None."""
    if ranks.size == 1:
        assert examples is not None
        return examples
    lengths = flat = None
    if examples is not None:
        lengths = torch.tensor([[len(prompt), len(response)] for prompt, response in examples]).reshape(-1, 2)
        flat = torch.tensor([token for prompt, response in examples for token in (*prompt, *response)])
    lengths_N2, tokens_S = ranks.broadcast(lengths).tolist(), ranks.broadcast(flat).tolist()
    shared, position = [], 0
    for num_prompt, num_response in lengths_N2:
        middle, end = position + num_prompt, position + num_prompt + num_response
        shared.append((tokens_S[position:middle], tokens_S[middle:end]))
        position = end
    return shared


def cold_start(
    trainer: Trainer,
    examples: Examples,
    config: ColdStartSection,
    *,
    report: Callable[[int, float, float], None] = lambda step, loss, tokens_per_s: None,
    stopped: Callable[[], bool] = lambda: False,
) -> ColdStartFigures:
    """Train `trainer.policy`; collective. `report(step, loss, tokens_per_s)` is called on every step of every rank.

    Ends after `config.steps`, after `config.max_seconds`, or when `stopped()` (the same on all ranks). RunFailure when
    the loss is not finite.
    """
    order = EpochOrder([len(examples)], seed=trainer.config.seed)
    num_tokens = 0
    recent: list[float] = []

    def batch_of(step: int) -> tuple[Sequences, str]:
        chosen = order.places(step * config.batch_size, (step + 1) * config.batch_size)
        return Sequences.of([examples[index] for index in chosen]), f"cold-start examples {chosen[:8]}..."

    def after_step(step: int, figures: SftFigures, elapsed_s: float) -> None:
        nonlocal num_tokens, recent
        num_tokens += figures.num_tokens
        recent = [*recent[-19:], figures.loss]
        report(step, figures.loss, num_tokens / max(elapsed_s, 1e-9))

    outcome = train(
        SupervisedTrainer(trainer.policy, trainer.ranks, trainer.config.learner, weight_decay=config.weight_decay),
        batch_of,
        Schedule(config.steps, config.lr, config.lr_final_ratio, config.warmup_steps, config.max_seconds),
        after_step=after_step,
        stopped=stopped,
    )
    seconds = outcome.seconds
    mean = float(np.mean(recent or [np.nan]))
    return ColdStartFigures(outcome.step, mean, seconds, num_tokens / max(seconds, 1e-9), outcome.stopped)

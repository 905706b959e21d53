"""Owns one optimizer step: micro-batches through policy and loss, gradients summed over ranks, then AdamW."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import RunConfig
from learner.batch import TrainingBatch
from learner.flops import ModelFlops
from learner.loss import STATS, LossConfig, policy_loss
from learner.model import Policy, load_policy
from learner.optimizer import Optimizer, learning_rate
from learner.packing import MicroBatch, Sequences, pack, plan_batch
from learner.ranks import Ranks

_SUMS = (*STATS, "entropy", "objective", "logp_difference", "num_fed_tokens", "sampler_kl", "flops")


@dataclass(frozen=True)
class StepFigures:
    """What a step reports, over all ranks. Means are over the tokens that count and were computed; None without any."""

    loss: float
    grad_norm: float
    learning_rate: float
    entropy: float | None
    ratio: float | None
    """pi / pi_anchor: the sampler's policy, or the proximal one."""
    importance: float | None
    """pi_proximal / pi_sampler after its limit; None without a proximal policy."""
    importance_cut: float | None
    """Share of tokens whose weight was limited."""
    logp_difference_mean: float | None
    """|learner's - sampler's log-probability|: at staleness 0, how far the two engines differ."""
    logp_difference_max: float | None
    clip_low: float | None
    clip_high: float | None
    kl: float | None
    """Mean k3 against the reference; None without one."""
    num_fed_tokens: int
    """Tokens that went through the policy: a family's prompt once, sequences without a gradient not at all."""
    num_microbatches: int
    pack_s: float
    train_s: float
    sampler_kl: float | None = None
    """k3 estimate of KL(sampler || learner), nats: exp(x) - 1 - x, x = learner's - sampler's log-probability."""
    flops: float = 0.0
    """Floating-point operations that the model needs for this step (learner/flops.py), all ranks."""


class Trainer:
    """Policy, optional reference, optimizer. The same on every rank; `step` is collective."""

    def __init__(self, config: RunConfig, source: str | Path, ranks: Ranks) -> None:
        learner = config.learner
        self.config, self.ranks = config, ranks
        torch.manual_seed(config.seed)
        self.policy = load_policy(source, learner, ranks, always_shard=False)
        self.reference: Policy | None = None
        if learner.loss.kl_coef > 0:
            self.reference = load_policy(source, learner, ranks, trainable=False, always_shard=False)
        self.proximal: Policy | None = None
        self._proximal_is_set = False
        if learner.loss.proximal == "recompute" and learner.steps_per_publish > 1:
            self.proximal = load_policy(source, learner, ranks, trainable=False, always_shard=False)
        self._flops = ModelFlops.of(self.policy.module)
        self.loss_config = LossConfig(**learner.loss.model_dump(exclude={"proximal"}))
        self.optimizer = Optimizer(
            self.policy.module,
            betas=learner.betas,
            weight_decay=learner.weight_decay,
            max_grad_norm=learner.max_grad_norm,
        )

    def warm_up(self) -> None:
        """Everything that the first step pays for (lazy set-up, operators' first calls: 1.2 s in the demo), paid while
        the actors load. Collective; call before `restore`: it leaves weights as they are, and moments empty."""
        tokens = ([0, 0, 0], [0, 0])
        batch = TrainingBatch(Sequences.of([tokens, tokens]), torch.zeros(4), torch.ones(4).bool(), torch.ones(2))
        self._accumulate(batch, pack(batch.sequences, [0, 1], self.ranks.device), 2, 4)
        self.optimizer.step(0.0, 0.0, where="warm-up")
        self.optimizer.reset()

    def refresh_reference(self) -> None:
        """The reference becomes the policy of now (R1: every 400 steps, and at the start of a stage)."""
        if self.reference is not None:
            self.reference.copy_from(self.policy)

    def _anchor(self, step: int) -> None:
        """Before the first step after a publish, the proximal policy becomes the policy of now: what was published.
        A resumed run publishes what it loaded, so its first step is such a step whatever its number."""
        if self.proximal is not None and (
            step % self.config.learner.steps_per_publish == 0 or not self._proximal_is_set
        ):
            self.proximal.copy_from(self.policy)
            self._proximal_is_set = True

    def step(self, batch: TrainingBatch, step: int, *, where: str = "") -> StepFigures:
        """Optimizer step number `step` (from 0) on `batch`; RunFailure, before any update, if it is not finite."""
        began = time.perf_counter()
        learner = self.config.learner
        self._anchor(step)
        plan = plan_batch(
            batch.sequences, learner.tokens_per_microbatch, self.ranks.size, members=self._with_gradient(batch)
        )
        microbatches = [pack(batch.sequences, part, self.ranks.device) for part in plan[self.ranks.rank]]
        packed = time.perf_counter()
        num_tokens, num_sequences = batch.num_tokens, len(batch.sequences)
        totals = torch.zeros(len(_SUMS), dtype=torch.float64)
        largest_R = torch.zeros(self.ranks.size, dtype=torch.float64)  # one place for each rank, so that a sum serves
        for number, microbatch in enumerate(microbatches):
            self.ranks.beat(f"step {step + 1}, micro-batch {number + 1} of {len(microbatches)}")
            sums, largest = self._accumulate(batch, microbatch, num_sequences, num_tokens)
            totals += sums
            largest_R[self.ranks.rank] = max(float(largest_R[self.ranks.rank]), largest)
        self.ranks.beat(f"step {step + 1}, summing up")
        summed = self.ranks.sum(torch.cat([totals, largest_R])).tolist()
        stats = dict(zip(_SUMS, summed, strict=False))
        rate = learning_rate(
            learner.lr_schedule,
            learner.lr,
            step=step,
            progress=step / learner.max_steps,
            warmup_steps=learner.warmup_steps,
        )
        norm = self.optimizer.step(rate, stats["objective"], where=where)
        if learner.reference_refresh_steps is not None and (step + 1) % learner.reference_refresh_steps == 0:
            self.refresh_reference()
        count = stats["num_tokens"]

        def mean(name: str) -> float | None:
            return stats[name] / count if count else None

        return StepFigures(
            loss=stats["objective"],
            grad_norm=norm,
            learning_rate=rate,
            entropy=mean("entropy"),
            ratio=mean("ratio"),
            importance=mean("proximal_weight") if learner.loss.proximal != "none" else None,
            importance_cut=mean("weight_cut") if learner.loss.proximal != "none" else None,
            logp_difference_mean=mean("logp_difference"),
            logp_difference_max=max(summed[len(_SUMS) :]) if count else None,
            clip_low=mean("clip_low"),
            clip_high=mean("clip_high"),
            kl=mean("kl") if self.reference is not None else None,
            num_fed_tokens=int(stats["num_fed_tokens"]),
            num_microbatches=len(microbatches),
            pack_s=packed - began,
            train_s=time.perf_counter() - packed,
            sampler_kl=mean("sampler_kl"),
            flops=stats["flops"],
        )

    def _with_gradient(self, batch: TrainingBatch) -> list[int]:
        """Sequences worth computing. Where the advantage is 0 (groups whose rewards are all equal) or no token counts,
        the objective's gradient is exactly 0, unless there is a penalty against the reference."""
        if not self.config.learner.skip_without_gradient:
            return list(range(len(batch.sequences)))
        counts_N = torch.zeros(len(batch.sequences), dtype=torch.bool)
        owners_T = torch.from_numpy(np.repeat(np.arange(len(counts_N)), batch.sequences.completion_lengths_N))
        counts_N[owners_T[batch.loss_mask_T]] = True
        if self.reference is None:
            counts_N &= batch.advantages_N != 0
        return [int(index) for index in counts_N.nonzero()[:, 0]]

    def _accumulate(
        self, batch: TrainingBatch, microbatch: MicroBatch, num_sequences: int, num_tokens: int
    ) -> tuple[Tensor, float]:
        """Add a micro-batch's gradients; its statistics as float64[len(_SUMS)], and the largest logp difference."""
        device, temperature = self.ranks.device, self.config.rollout.temperature
        places_T = microbatch.completion_index_T.cpu()
        mask_T = batch.loss_mask_T[places_T].to(device)
        reference_T = None
        if self.reference is not None:
            with torch.no_grad():
                reference_T, _ = self.reference.logprobs(microbatch, temperature)
        behavior_T = batch.behavior_logprobs_T[places_T].to(device)
        logprobs_T, entropy_T = self.policy.logprobs(microbatch, temperature)
        proximal_T = None
        if self.proximal is not None:
            with torch.no_grad():
                proximal_T, _ = self.proximal.logprobs(microbatch, temperature)
        elif self.config.learner.loss.proximal == "recompute":
            proximal_T = logprobs_T.detach()  # a publish before every step: the policy is the proximal policy
        loss, stats = policy_loss(
            logprobs_T,
            behavior_T,
            batch.advantages_N[microbatch.sequences].to(device),
            microbatch.sequence_ids_T,
            mask_T,
            self.loss_config,
            reference_logprobs_T=reference_T,
            proximal_logprobs_T=proximal_T,
            num_sequences=num_sequences,
            num_tokens=num_tokens,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        entropy = torch.where(mask_T, entropy_T, 0.0).sum()
        signed_T = torch.where(mask_T, logprobs_T.detach() - behavior_T, 0.0)
        difference_T = signed_T.abs()
        largest = float(difference_T.max()) if len(difference_T) else 0.0
        sampler_kl = (torch.expm1(signed_T) - signed_T).sum()
        num_fed = microbatch.token_ids_S.numel() if microbatch.sequences else 0
        num_others = sum(policy is not None for policy in (self.reference, self.proximal))
        flops = self._flops.training(
            num_fed, len(microbatch.targets_T), microbatch.lengths, num_other_policies=num_others
        )
        counts = [loss.new_tensor(float(num_fed)), sampler_kl, loss.new_tensor(flops if num_fed else 0.0)]
        sums = [*(stats[name] for name in STATS), entropy, loss.detach(), difference_T.sum(), *counts]
        return torch.stack(sums).double().cpu(), largest

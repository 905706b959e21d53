"""Owns what the learner reports of each step: a line in metrics.jsonl, and Prometheus metrics `zeroq_learner_*`.

Names in the file are those that TRL's users know. Means of ratios, entropy and kl are over the tokens that count.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from common.metrics import REGISTRY
from learner.batch import BatchFigures
from learner.evaluation import EvaluationFigures, general_fields
from learner.trainer import StepFigures

STEP = Gauge("zeroq_learner_step", "Optimizer steps done.", registry=REGISTRY)
VERSION = Gauge("zeroq_learner_policy_version", "Publishes done.", registry=REGISTRY)
REWARD = Gauge("zeroq_learner_reward_mean", "Mean reward of the last step's rollouts.", registry=REGISTRY)
LOSS = Gauge("zeroq_learner_loss", "Loss of the last step.", registry=REGISTRY)
GRADIENT_NORM = Gauge(
    "zeroq_learner_gradient_norm", "Norm of the last step's gradients before clipping.", registry=REGISTRY
)
ENTROPY = Gauge("zeroq_learner_entropy_nats", "Mean entropy of the policy at trained tokens.", registry=REGISTRY)
LENGTH = Gauge("zeroq_learner_completion_length_tokens", "Mean completion length of the last step.", registry=REGISTRY)
ZERO_STD = Gauge("zeroq_learner_zero_variance_groups_ratio", "Share of groups of equal rewards.", registry=REGISTRY)
STALENESS = Gauge("zeroq_learner_staleness_max_publishes", "Oldest token of the last step.", registry=REGISTRY)
RATE = Gauge("zeroq_learner_tokens_per_second", "Tokens fed through forward and backward a second.", registry=REGISTRY)
PASS_AT_1 = Gauge("zeroq_learner_eval_pass_at_1_ratio", "Latest evaluation, sampled.", registry=REGISTRY)
GREEDY = Gauge("zeroq_learner_eval_greedy_ratio", "Latest evaluation, greedy.", registry=REGISTRY)
TOKENS = Counter("zeroq_learner_tokens_total", "Prompt and completion tokens trained on.", registry=REGISTRY)
GROUPS = Counter("zeroq_learner_groups_trained_total", "Groups trained on.", registry=REGISTRY)
MASKED = Counter("zeroq_learner_tokens_masked_total", "Tokens masked as too stale.", registry=REGISTRY)
PHASE_SECONDS = Counter("zeroq_learner_phase_seconds_total", "Time by part of the step.", ["phase"], registry=REGISTRY)
STEP_SECONDS = Histogram(
    "zeroq_learner_step_seconds",
    "Duration of a step, waiting included.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600, 1800),
    registry=REGISTRY,
)


class StepLog:
    """Writes a line for each step. Rank 0 only."""

    def __init__(self, path: Path, *, num_tokens: float = 0) -> None:
        """Appends to `path`; `num_tokens` trained on before (resume)."""
        self.path = path
        self.num_tokens = num_tokens

    def write(
        self,
        step: int,
        version: int,
        batch: BatchFigures,
        figures: StepFigures,
        times: dict[str, float],
        evaluations: list[EvaluationFigures],
    ) -> None:
        """Log step `step` (from 1). `times`: seconds by part (wait, pack, train, publish, step). `evaluations`: those
        that were completed during the step; `eval/step` says when they were submitted."""
        tokens = batch.num_prompt_tokens + batch.num_completion_tokens
        self.num_tokens += tokens
        rate = figures.num_fed_tokens / max(figures.pack_s + figures.train_s, 1e-9)
        line = step_record(batch, figures)
        line |= {
            "step": step,
            "version": version,
            "time": time.time(),
            "num_tokens": int(self.num_tokens),
            "step_time": times["step"],
            **{f"time/{part}_s": seconds for part, seconds in times.items() if part != "step"},
            "learner_tokens_per_s": rate,
        }
        for done in evaluations:
            line |= evaluation_record(done)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        STEP.set(step)
        VERSION.set(version)
        REWARD.set(batch.reward)
        LOSS.set(figures.loss)
        GRADIENT_NORM.set(figures.grad_norm)
        if figures.entropy is not None:
            ENTROPY.set(figures.entropy)
        LENGTH.set(batch.mean_length)
        ZERO_STD.set(batch.frac_reward_zero_std)
        STALENESS.set(max(batch.staleness, default=0))
        RATE.set(rate)
        TOKENS.inc(tokens)
        GROUPS.inc(len(batch.task_ids))
        MASKED.inc(batch.num_stale_masked)
        STEP_SECONDS.observe(times["step"])
        for part, seconds in times.items():
            if part != "step":
                PHASE_SECONDS.labels(part).inc(seconds)


def step_record(batch: BatchFigures, figures: StepFigures) -> dict[str, Any]:
    """The figures of a step under their names in metrics.jsonl. `kl` is there only with a reference policy."""
    trained = sum(batch.staleness.values())
    record: dict[str, Any] = {
        "loss": figures.loss,
        "reward": batch.reward,
        "reward_std": batch.reward_std,
        "frac_reward_zero_std": batch.frac_reward_zero_std,
        "completions/mean_length": batch.mean_length,
        "completions/min_length": batch.min_length,
        "completions/max_length": batch.max_length,
        "completions/clipped_ratio": batch.clipped_ratio,
        "entropy": figures.entropy,
        "clip_ratio/low_mean": figures.clip_low,
        "clip_ratio/high_mean": figures.clip_high,
        "grad_norm": figures.grad_norm,
        "learning_rate": figures.learning_rate,
        "sampling/importance_sampling_ratio/mean": figures.ratio if figures.importance is None else figures.importance,
        "sampling/sampling_logp_difference/mean": figures.logp_difference_mean,
        "sampling/sampling_logp_difference/max": figures.logp_difference_max,
        "sample/staleness_mean": sum(s * n for s, n in batch.staleness.items()) / max(trained, 1),
        "sample/staleness_max": max(batch.staleness, default=0),
        "sample/staleness_histogram": {str(s): n for s, n in batch.staleness.items()},
        "sample/tokens_masked_stale": batch.num_stale_masked,
        "sample/queued_s": batch.queued_s,
        "num_microbatches": figures.num_microbatches,
    }
    for name, (mean, std) in batch.rewards.items():
        record |= {f"rewards/{name}/mean": mean, f"rewards/{name}/std": std}
    for name, (length, correlation) in batch.reward_lengths.items():
        record |= {f"rewards/{name}/mean_length": length, f"rewards/{name}/length_correlation": correlation}
    for source, (reward, length) in batch.by_source.items():
        record |= {f"reward_by_source/{source}/mean": reward, f"length_by_source/{source}/mean": length}
    for outcome, count in batch.outcomes.items():
        record[f"outcomes/{outcome}"] = count
    if figures.importance is not None:
        record |= {"ratio/mean": figures.ratio, "sampling/importance_sampling_ratio/cut": figures.importance_cut}
    if figures.kl is not None:
        record["kl"] = figures.kl
    return record


def evaluation_record(done: EvaluationFigures) -> dict[str, Any]:
    """An evaluation under its names in metrics.jsonl; also sets the gauges."""
    if done.pass_at_1 is not None:
        PASS_AT_1.set(done.pass_at_1)
    if done.greedy is not None:
        GREEDY.set(done.greedy)
    return {
        "eval/step": done.step,
        "eval/pass_at_1": done.pass_at_1,
        "eval/greedy": done.greedy,
        "eval/mean_length": done.mean_length,
        "eval/cons_at_k": done.cons_at_k,
        "eval/truncated": done.truncated,
        **general_fields(done.general),
    }

"""Owns what the learner reports of each step: a line in metrics.jsonl, and the metrics of learner/metrics.py.

Names in the file are those that TRL's users know. Means of ratios, entropy and kl are over the tokens that count.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common.lifecycle import append_record
from learner import metrics
from learner.batch import BatchFigures
from learner.evaluation import EvaluationFigures, general_fields
from learner.trainer import StepFigures


class StepLog:
    """Writes a line for each step. Rank 0 only."""

    def __init__(
        self, path: Path, *, max_staleness: int, num_tokens: float = 0, peak_flops: float | None = None
    ) -> None:
        """Appends to `path`; `num_tokens` trained on before (resume); `peak_flops`: of all devices, where known."""
        self.path = path
        self.num_tokens = num_tokens
        self.max_staleness = max_staleness
        self.peak_flops = peak_flops

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
        append_record(self.path, line)
        self._export(step, version, batch, figures, times)

    def _export(
        self, step: int, version: int, batch: BatchFigures, figures: StepFigures, times: dict[str, float]
    ) -> None:
        """Set the metrics."""
        compute_s = max(figures.pack_s + figures.train_s, 1e-9)
        metrics.STEP.set(step)
        metrics.VERSION.set(version)
        metrics.STEP_SECONDS.observe(times["step"])
        for part, seconds in times.items():
            if part != "step":
                metrics.PHASE_SECONDS.labels(part).observe(seconds)
        metrics.TOKENS.inc(batch.num_prompt_tokens + batch.num_completion_tokens)
        metrics.RATE.set(figures.num_fed_tokens / compute_s)
        metrics.FLOPS.set(figures.flops / compute_s)
        metrics.MFU.set(None if self.peak_flops is None else figures.flops / compute_s / self.peak_flops)
        metrics.GROUPS.inc(len(batch.task_ids))
        export_batch(batch, self.max_staleness)
        export_update(figures)


def export_batch(batch: BatchFigures, max_staleness: int) -> None:
    """Metrics of what was trained on."""
    metrics.MASKED.inc(batch.num_stale_masked)
    metrics.STALENESS_MAX.set(max(batch.staleness, default=0))
    for staleness, num_tokens in batch.staleness.items():
        metrics.TOKEN_STALENESS.add(staleness, num_tokens)
        if staleness > max_staleness:
            metrics.VIOLATIONS.inc(num_tokens)
    metrics.REWARD.set(batch.reward)
    metrics.REWARD_STD.set(batch.reward_std)
    for name, (mean, _) in batch.rewards.items():
        metrics.COMPONENT.labels(name).set(mean)
    for outcome, count in batch.outcomes.items():
        metrics.OUTCOMES.labels(outcome).inc(count)
    metrics.ZERO_STD.set(batch.frac_reward_zero_std)
    metrics.LENGTH.set(batch.mean_length)
    metrics.TRUNCATED.set(batch.clipped_ratio)


def export_update(figures: StepFigures) -> None:
    """Metrics of the optimizer step; what the step could not say keeps no old value."""
    metrics.LOSS.set(figures.loss)
    metrics.KL.set(figures.kl)
    metrics.ENTROPY.set(figures.entropy)
    metrics.IMPORTANCE.set(figures.ratio if figures.importance is None else figures.importance)
    metrics.SAMPLER_KL.set(figures.sampler_kl)
    metrics.GRADIENT_NORM.set(figures.grad_norm)
    metrics.LEARNING_RATE.set(figures.learning_rate)
    for gauge, label, value in (
        (metrics.CLIP, "low", figures.clip_low),
        (metrics.CLIP, "high", figures.clip_high),
        (metrics.LOGP_DIFFERENCE, "mean", figures.logp_difference_mean),
        (metrics.LOGP_DIFFERENCE, "max", figures.logp_difference_max),
    ):
        if value is not None:
            gauge.labels(label).set(value)


def step_line(step: int, of: int, batch: BatchFigures, figures: StepFigures, times: dict[str, float]) -> str:
    """A step for whoever reads the learner's log: is it learning, how old are the tokens, where did the time go."""
    entropy = "" if figures.entropy is None else f"entropy {figures.entropy:.3f}, "
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in times.items() if part != "step")
    return (
        f"step {step}/{of}: reward {batch.reward:.3f}, length {batch.mean_length:.1f}, {entropy}"
        f"gradient norm {figures.grad_norm:.3f}, staleness up to {max(batch.staleness, default=0)}; "
        f"{times['step']:.1f} s ({parts})"
    )


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
        "sampling/kl": figures.sampler_kl,
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
        metrics.PASS_AT_1.set(done.pass_at_1)
    if done.greedy is not None:
        metrics.GREEDY.set(done.greedy)
    return {
        "eval/step": done.step,
        "eval/pass_at_1": done.pass_at_1,
        "eval/greedy": done.greedy,
        "eval/mean_length": done.mean_length,
        "eval/cons_at_k": done.cons_at_k,
        "eval/truncated": done.truncated,
        **general_fields(done.general),
    }

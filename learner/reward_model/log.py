"""Owns what the job reports: a line for each step in metrics.jsonl, progress events, Prometheus metrics.

Names in the file are those of TRL's RewardTrainer where it has one.
"""

from __future__ import annotations

import json
import time
from typing import Any

from common.lifecycle import RunPaths, record_event
from learner.metrics import GRADIENT_NORM, LOSS, RATE, STEP, TOKENS
from learner.reward_model.measure import HeldOutFigures
from learner.reward_model.trainer import StepFigures

_EVENT_EVERY_S = 1.0


class RewardLog:
    """Counts and writes. Every rank counts; rank 0 (`write`) writes."""

    def __init__(self, paths: RunPaths, num_steps: int, num_tokens: int, *, write: bool) -> None:
        """`num_tokens`: read before (resume)."""
        self.paths, self.num_steps, self.num_tokens, self._write = paths, num_steps, num_tokens, write
        self._own_tokens, self._own_s, self._step_s, self._told_at = 0, 0.0, 0.0, 0.0
        self.begin()

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of training, since this process began."""
        return self._own_tokens / max(self._own_s, 1e-9)

    def begin(self) -> None:
        """A step begins now."""
        self._began = time.perf_counter()

    def trained(self, figures: StepFigures) -> None:
        """A step has ended."""
        self._step_s = time.perf_counter() - self._began
        self._own_s += self._step_s
        self._own_tokens += figures.num_tokens
        self.num_tokens += figures.num_tokens

    def write(self, step: int, figures: StepFigures, *, epoch: float, measured: HeldOutFigures | None) -> None:
        """Log step `step` (from 1). `measured`: held-out figures after it."""
        if not self._write:
            return
        rate = figures.num_tokens / max(self._step_s, 1e-9)
        line: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "loss": figures.loss,
            "accuracy": figures.accuracy,
            "margin": figures.margin,
            "grad_norm": figures.grad_norm,
            "learning_rate": figures.learning_rate,
            "num_tokens": self.num_tokens,
            "step_time": self._step_s,
            "learner_tokens_per_s": rate,
            "time": time.time(),
        }
        if measured is not None:
            line |= {"eval_loss": measured.loss, "eval_accuracy": measured.accuracy}
            line |= {"eval_length_correlation": measured.length_correlation}
            if measured.auc is not None:
                line["eval_auc"] = measured.auc
        with self.paths.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        STEP.set(step)
        LOSS.set(figures.loss)
        GRADIENT_NORM.set(figures.grad_norm)
        RATE.set(rate)
        TOKENS.inc(figures.num_tokens)
        now = time.monotonic()
        if now - self._told_at >= _EVENT_EVERY_S or step == self.num_steps:
            self._told_at = now
            told = {"loss": figures.loss, "accuracy": figures.accuracy, "tokens_per_s": self.tokens_per_s}
            record_event(self.paths, "progress", step=step, of=self.num_steps, **told)

"""Owns the cold start: supervised fine-tuning on prompt and response pairs before RL (R1, stage 2a).

    data/cold_start.jsonl -> tokenise -> seeded order -> batches -> mean cross-entropy of response tokens -> AdamW

Cosine decay with warm-up. With a time limit the decay follows whichever runs out first, steps or seconds, so that the
rate ends low either way.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import ColdStartSection
from common.errors import UserError
from learner.optimizer import Optimizer, learning_rate
from learner.packing import Sequences, pack, plan_batch
from learner.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ColdStartFigures:
    """How the cold start went."""

    steps: int
    loss: float
    """Mean over the last steps, nats a token."""
    seconds: float
    tokens_per_s: float
    stopped: bool


def read_examples(path: Path, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids with the end token) for each line {"prompt", "response"}; UserError for a bad line."""
    prompts, responses = [], []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line)
                if not (isinstance(record.get("prompt"), str) and isinstance(record.get("response"), str)):
                    raise UserError(f"{path}:{number}: needs text under 'prompt' and 'response'")
                prompts.append(record["prompt"])
                responses.append(record["response"])
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot read cold-start data: {error}") from None
    if not prompts:
        raise UserError(f"{path}: no examples; set cold_start.steps=0 to start without a cold start")
    # The prompt may open with special tokens; the response goes on where the prompt ended.
    prompt_ids = tokenizer(prompts, verbose=False)["input_ids"]
    response_ids = tokenizer(responses, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [(prompt, [*response, end]) for prompt, response in zip(prompt_ids, response_ids, strict=True)]


def example_order(num_examples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which examples step `step` trains on: consecutive places in an endless run of seeded shuffles."""
    chosen = []
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, position = divmod(place, num_examples)
        chosen.append(int(_shuffle(num_examples, seed, epoch)[position]))
    return chosen


_shuffles: dict[tuple[int, int, int], np.ndarray[Any, np.dtype[np.int64]]] = {}


def _shuffle(num: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    key = (num, seed, epoch)
    if key not in _shuffles:
        if len(_shuffles) > 2:
            _shuffles.clear()
        _shuffles[key] = np.random.default_rng([seed, epoch]).permutation(num)
    return _shuffles[key]


def cold_start(
    trainer: Trainer,
    examples: list[tuple[list[int], list[int]]],
    config: ColdStartSection,
    *,
    report: Callable[[int, float, float], None] = lambda step, loss, tokens_per_s: None,
    stopped: Callable[[], bool] = lambda: False,
) -> ColdStartFigures:
    """Train `trainer.policy`; collective. `report(step, loss, tokens_per_s)` is called on every step of every rank.

    Ends after `config.steps`, after `config.max_seconds`, or when `stopped()` (the same on all ranks). RunFailure when
    the loss is not finite.
    """
    ranks, learner = trainer.ranks, trainer.config.learner
    optimizer = Optimizer(
        trainer.policy.module,
        betas=learner.betas,
        weight_decay=config.weight_decay,
        max_grad_norm=learner.max_grad_norm,
    )
    began, num_tokens, step = time.monotonic(), 0, 0
    recent: list[float] = []
    halted = False
    while step < config.steps:
        elapsed = torch.tensor([time.monotonic() - began], dtype=torch.float32) if ranks.first else None
        elapsed_s = float(ranks.broadcast(elapsed))
        halted = stopped()
        if halted or (config.max_seconds is not None and elapsed_s >= config.max_seconds):
            break
        progress = max(step / config.steps, elapsed_s / config.max_seconds if config.max_seconds else 0.0)
        rate = learning_rate(
            "cosine",
            config.lr,
            step=step,
            progress=progress,
            warmup_steps=config.warmup_steps,
            final_ratio=config.lr_final_ratio,
        )
        order = example_order(len(examples), config.batch_size, step, trainer.config.seed)
        batch = Sequences.of([examples[index] for index in order])
        loss = _accumulate(trainer, batch)
        optimizer.step(rate, loss, where=f"cold-start examples {order[:8]}...")
        step += 1
        num_tokens += int(batch.fed_lengths_N.sum())
        recent = [*recent[-19:], loss]
        report(step, loss, num_tokens / max(time.monotonic() - began, 1e-9))
    seconds = time.monotonic() - began
    return ColdStartFigures(step, float(np.mean(recent or [np.nan])), seconds, num_tokens / max(seconds, 1e-9), halted)


def _accumulate(trainer: Trainer, batch: Sequences) -> float:
    """Gradients of the mean cross-entropy over the batch's response tokens, which is returned."""
    ranks = trainer.ranks
    plan = plan_batch(batch, trainer.config.learner.tokens_per_microbatch, ranks.size)
    total = int(batch.completion_lengths_N.sum())
    summed = torch.zeros(1, dtype=torch.float64)
    for part in plan[ranks.rank]:
        logprobs_T, _ = trainer.policy.logprobs(pack(batch, part, ranks.device))
        loss = -logprobs_T.sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        summed += loss.detach().double().cpu()
    return float(ranks.sum(summed))

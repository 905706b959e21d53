"""Owns AdamW, its learning-rate schedules, gradient clipping, and the refusal to step on what is not finite."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from common.errors import RunFailure


def learning_rate(
    schedule: Literal["constant", "cosine", "linear"],
    base: float,
    *,
    step: int,
    progress: float,
    warmup_steps: int = 0,
    final_ratio: float = 0.0,
) -> float:
    """Rate of optimizer step `step` (from 0), `progress` (0..1) of the way through the run.

    Linear warm-up over `warmup_steps` to `base`; then constant, or cosine or linear down to `base * final_ratio`.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    progress = min(max(progress, 0.0), 1.0)
    shape = {"constant": 1.0, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "linear": 1.0 - progress}[schedule]
    return base * warmup * (final_ratio + (1.0 - final_ratio) * shape)


class Optimizer:
    """AdamW over a sharded model. Weight decay applies to matrices, not to norms and biases."""

    def __init__(
        self, module: nn.Module, *, betas: tuple[float, float], weight_decay: float, max_grad_norm: float
    ) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.max_grad_norm = max_grad_norm
        self.parameters = parameters
        cuda = parameters[0].device.type == "cuda"
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=betas,
            fused=cuda,
            foreach=not cuda,
        )

    def step(self, lr: float, loss: float, *, where: str) -> float:
        """Clip and step; returns the norm of all gradients before clipping. Gradients are cleared.

        RunFailure, with the weights as they were, when the loss (the step's, over all ranks) or the norm is not finite:
        training on would publish broken weights. `where` tells what was trained on.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm, foreach=True)
        full_tensor = getattr(norm, "full_tensor", None)
        value = float(norm if full_tensor is None else full_tensor())
        if not (math.isfinite(loss) and math.isfinite(value)):
            self.adam.zero_grad()
            raise RunFailure(
                f"loss {loss} and gradient norm {value} must be finite; nothing was updated or published. "
                f"Trained on: {where}"
            )
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        return value

    def reset(self) -> None:
        """Forget all moments (a new stage begins)."""
        self.adam.state.clear()

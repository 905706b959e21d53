"""Owns the output head: log-probabilities of given tokens without ever holding all logits.

For T tokens and a vocabulary of V = 150,000, float32 logits take 600 KB a token. Here chunks of tokens go through the
head one by one, and backward computes their logits again instead of keeping them:

    z = h W^T / temperature,  logp = z[target] - logsumexp(z),  d logp / d z = onehot(target) - softmax(z)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_TOKENS = 2048
Statistic = Literal["entropy", "correct"]


def _logits(hidden_C: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Temperature-scaled logits of a chunk, float32[C, V]."""
    logits = torch.mm(hidden_C, weight.t()).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        statistic: Statistic,
    ) -> tuple[Tensor, Tensor]:
        num_tokens = hidden.shape[0]
        logprobs = torch.empty(num_tokens, dtype=torch.float32, device=hidden.device)
        beside, normaliser = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, num_tokens, chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, temperature)
            normaliser[part] = logits.logsumexp(-1)
            if statistic == "correct":
                of_target = logits.gather(1, targets[part, None])[:, 0]
                beside[part] = (of_target >= logits.amax(-1)).float()
                logprobs[part] = of_target - normaliser[part]
                continue
            logits -= normaliser[part, None]
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0]
            beside[part] = -torch.einsum("tv,tv->t", logits.exp(), logits)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.temperature, ctx.chunk = temperature, chunk  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(beside)
        return logprobs, beside

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden, weight, targets, normaliser = ctx.saved_tensors  # type: ignore[attr-defined]
        temperature, chunk = ctx.temperature, ctx.chunk  # type: ignore[attr-defined]
        gradient = gradients[0] / temperature
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, temperature)
            # d loss / d logits = g (onehot - softmax), computed in place of the logits.
            slope = logits.sub_(normaliser[part, None]).exp_().mul_(-gradient[part, None])
            slope.scatter_add_(1, targets[part, None], gradient[part, None])
            slope = slope.to(hidden.dtype)
            hidden_gradient[part] = torch.mm(slope, weight)
            weight_gradient += torch.mm(slope.t(), hidden[part])
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None, None, None


def token_logprobs(
    hidden_T: Tensor,
    weight: Tensor,
    targets_T: Tensor,
    temperature: float = 1.0,
    *,
    chunk: int = CHUNK_TOKENS,
    statistic: Statistic = "entropy",
) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32[T] of `targets_T` under softmax(hidden_T weight^T / temperature), and beside them,
    without a gradient, float32[T]: the entropies in nats, or `correct`, 1 where the target is the likeliest token (one
    pass over the logits instead of the entropy's three).

    `hidden_T` [T, d] and `weight` [V, d] share a type; products are of that type, the softmax is float32. At most
    `chunk` x V logits exist at once.
    """
    logprobs, beside = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_T, weight, targets_T, temperature, chunk, statistic
    )
    return logprobs, beside

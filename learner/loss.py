"""Owns the policy-gradient loss: clipped importance ratios, a k3 penalty, three ways to average.

For a completion token t of sequence i, with advantage A_i and the anchor policy that made it (the sampler, or a
proximal policy):

    rho_t  = pi(t) / pi_anchor(t)
    J_t    = min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i)           PPO, arXiv 1707.06347, eq. 7
    k3_t   = pi_ref(t) / pi(t) - log(pi_ref(t) / pi(t)) - 1                         GRPO, arXiv 2402.03300, eq. 4
    loss_t = -w_t J_t + kl_coef k3_t

w_t is 1, or with a proximal policy pi_proximal(t) / pi_behavior(t), detached: the decoupled objective (arXiv
2110.00641, AReaL arXiv 2505.24298). k3 is never weighted by it. Over the tokens that count (mask 1):

    sequence   1/N  sum_i 1/|o_i| sum_t loss_t       GRPO
    token      1/sum_i |o_i|  sum_i sum_t loss_t     DAPO, arXiv 2503.14476
    constant   1/(N L)  sum_i sum_t loss_t           Dr. GRPO, arXiv 2503.20783

N and the token count are those of the whole optimizer step, over all micro-batches and ranks: each call adds its share
and gradients are summed, never averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log ratios are cut to +-20 (e^20 = 5e8) before the exponential: inf times an advantage of 0 would be NaN."""

STATS = ("num_tokens", "loss", "ratio", "clip_low", "clip_high", "kl", "proximal_weight")
"""Keys of the statistics, each a sum over the tokens that count; add them up, then divide by `num_tokens`."""


@dataclass(frozen=True)
class LossConfig:
    """Choices of the loss; mirrors `learner.loss` of the configuration."""

    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    constant_length: int | None = None

    def __post_init__(self) -> None:
        if self.aggregation == "constant" and self.constant_length is None:
            raise ValueError("aggregation 'constant' needs constant_length (tokens)")


def policy_loss(
    logprobs_T: Tensor,
    behavior_logprobs_T: Tensor,
    advantages_N: Tensor,
    sequence_ids_T: Tensor,
    loss_mask_T: Tensor,
    config: LossConfig,
    *,
    reference_logprobs_T: Tensor | None = None,
    proximal_logprobs_T: Tensor | None = None,
    num_sequences: float | None = None,
    num_tokens: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """This call's share of the loss (a scalar, to be minimised) and its statistics (`STATS`).

    T completion tokens of N sequences are packed in one dimension; `sequence_ids_T` (int, 0..N-1) says whose each is,
    `loss_mask_T` (bool or 0/1) which count. Log-probabilities are natural; only `logprobs_T` carries a gradient.
    `num_sequences` and `num_tokens` (tokens that count) are the step's denominators; by default this call's own. A
    sequence without a token that counts adds 0 and counts in N.

    Raises ValueError when kl_coef > 0 comes without reference log-probabilities.
    """
    if config.kl_coef > 0 and reference_logprobs_T is None:
        raise ValueError(f"kl_coef {config.kl_coef} needs reference_logprobs_T")
    mask_T = loss_mask_T.bool()
    advantages_T = advantages_N[sequence_ids_T]
    anchor_T = behavior_logprobs_T if proximal_logprobs_T is None else proximal_logprobs_T
    ratio_T = _log_ratio(logprobs_T, anchor_T, mask_T).exp()
    clipped_T = ratio_T.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    loss_T = -torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    stats = {
        "num_tokens": mask_T.sum().to(ratio_T.dtype),
        "ratio": _masked_sum(ratio_T, mask_T),
        "clip_low": _masked_sum((ratio_T < 1.0 - config.clip_low) & (advantages_T < 0), mask_T),
        "clip_high": _masked_sum((ratio_T > 1.0 + config.clip_high) & (advantages_T > 0), mask_T),
        "kl": ratio_T.new_zeros(()),
        "proximal_weight": ratio_T.new_zeros(()),
    }
    if proximal_logprobs_T is not None:
        weight_T = _log_ratio(proximal_logprobs_T, behavior_logprobs_T, mask_T).exp().detach()
        loss_T = loss_T * weight_T
        stats["proximal_weight"] = _masked_sum(weight_T, mask_T)
    if reference_logprobs_T is not None:
        log_ratio_T = _log_ratio(reference_logprobs_T, logprobs_T, mask_T)
        k3_T = log_ratio_T.exp() - log_ratio_T - 1.0
        loss_T = loss_T + config.kl_coef * k3_T
        stats["kl"] = _masked_sum(k3_T, mask_T)
    weights_T = _token_weights(config, mask_T, sequence_ids_T, advantages_N.numel(), num_sequences, num_tokens)
    loss = (loss_T * weights_T).sum()
    stats["loss"] = _masked_sum(loss_T, mask_T)
    return loss, stats


def _log_ratio(numerator_T: Tensor, denominator_T: Tensor, mask_T: Tensor) -> Tensor:
    """log(numerator / denominator), cut to +-MAX_LOG_RATIO; 0 without a gradient where the mask is 0."""
    difference_T = torch.where(mask_T, numerator_T - denominator_T, 0.0)
    return difference_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _token_weights(
    config: LossConfig,
    mask_T: Tensor,
    sequence_ids_T: Tensor,
    own_sequences: int,
    num_sequences: float | None,
    num_tokens: float | None,
) -> Tensor:
    """Weight of each token's loss in the step's mean, float32[T]; 0 where the mask is 0."""
    ones_T = mask_T.float()
    total_sequences = float(own_sequences if num_sequences is None else num_sequences)
    if config.aggregation == "sequence":
        lengths_N = ones_T.new_zeros(own_sequences).index_add(0, sequence_ids_T, ones_T)
        return ones_T / (lengths_N.clamp(min=1.0)[sequence_ids_T] * max(total_sequences, 1.0))
    if config.aggregation == "token":
        total_tokens = float(ones_T.sum()) if num_tokens is None else float(num_tokens)
        return ones_T / max(total_tokens, 1.0)
    assert config.constant_length is not None
    return ones_T / (max(total_sequences, 1.0) * config.constant_length)


def _masked_sum(values_T: Tensor, mask_T: Tensor) -> Tensor:
    return torch.where(mask_T, values_T.detach().float(), 0.0).sum()

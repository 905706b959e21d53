"""Owns the policy-gradient loss: clipped importance ratios, a k3 penalty, three ways to average.

For a completion token t of sequence i, with advantage A_i and the anchor policy that made it (the sampler, or a
proximal policy):

    rho_t  = pi(t) / pi_anchor(t)
    J_t    = min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i)           PPO, arXiv 1707.06347, eq. 7
    J_t    = max(J_t, dual_clip A_i) where A_i < 0                                  dual clip, arXiv 1912.09729, eq. 8
    J_t    = the same with s_i = (prod_t rho_t)^(1/|o_i|) in the place of rho_t     GSPO, arXiv 2507.18071, eq. 5-7
    J_t    = sg(clip(rho_t, 1 - clip_low, 1 + clip_high)) A_i log pi(t)             CISPO, arXiv 2506.13585, eq. 4-5
    k3_t   = pi_ref(t) / pi(t) - log(pi_ref(t) / pi(t)) - 1                         GRPO, arXiv 2402.03300, eq. 4
    loss_t = -w_t J_t + kl_coef k3_t

`objective` picks the J_t: ppo, gspo or cispo (sg: no gradient; it clips the weight and drops no token's gradient). The
value of a cispo loss has no meaning of its own, its gradient has.

w_t is 1 where the anchor is the sampler's own policy: rho then corrects for everything between sampler and learner, and
its clip confuses old rollouts with large updates. With a proximal policy (what the learner's engine itself gives under
the weights of the last publish) the two come apart: rho and its clip measure the update, and w_t, which carries no
gradient, the way from sampler to proximal policy (another engine, older weights). With r_t = pi_proximal(t) /
pi_behavior(t) and `importance`:

    none           w_t = r_t                             decoupled PPO, arXiv 2110.00641; AReaL, arXiv 2505.24298
    tis_token      w_t = min(r_t, cap)                   truncated importance sampling, as IMPALA's (arXiv 1802.01561)
    tis_sequence   w_t = min(prod_t r_t, cap)            over the tokens of the sequence that count
    icepop         w_t = r_t if low <= r_t <= high else 0    Ring-1T, arXiv 2510.18855; such tokens stay in denominators

k3 is never weighted by it. Over the tokens that count (mask 1):

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

STATS = ("num_tokens", "loss", "ratio", "clip_low", "clip_high", "kl", "proximal_weight", "weight_cut")
"""Keys of the statistics, each a sum over the tokens that count; add them up, then divide by `num_tokens`.
`weight_cut` counts tokens whose weight was truncated (TIS) or set to 0 (IcePop)."""

Importance = Literal["none", "tis_token", "tis_sequence", "icepop"]


@dataclass(frozen=True)
class LossConfig:
    """Choices of the loss; mirrors `learner.loss` of the configuration."""

    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    constant_length: int | None = None
    dual_clip: float | None = None
    objective: Literal["ppo", "gspo", "cispo"] = "ppo"
    importance: Importance = "none"
    importance_cap: float = 2.0
    importance_low: float = 0.5
    importance_high: float = 5.0

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

    Raises ValueError when kl_coef > 0 comes without reference log-probabilities, or `importance` without proximal ones.
    """
    if config.kl_coef > 0 and reference_logprobs_T is None:
        raise ValueError(f"kl_coef {config.kl_coef} needs reference_logprobs_T")
    if config.importance != "none" and proximal_logprobs_T is None:
        raise ValueError(f"importance {config.importance!r} needs proximal_logprobs_T")
    mask_T = loss_mask_T.bool()
    advantages_T = advantages_N[sequence_ids_T]
    anchor_T = behavior_logprobs_T if proximal_logprobs_T is None else proximal_logprobs_T
    log_ratio_T = _log_ratio(logprobs_T, anchor_T, mask_T)
    if config.objective == "gspo":
        log_ratio_T = _sequence_mean(log_ratio_T, sequence_ids_T, mask_T, advantages_N.numel())
    ratio_T = log_ratio_T.exp()
    clipped_T = ratio_T.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    either_sign = config.objective == "cispo"  # its clip binds whatever the advantage's sign is
    if config.objective == "cispo":
        objective_T = clipped_T.detach() * advantages_T * torch.where(mask_T, logprobs_T, 0.0)
    else:
        objective_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    if config.dual_clip is not None:
        floor_T = torch.maximum(objective_T, config.dual_clip * advantages_T)
        objective_T = torch.where(advantages_T < 0, floor_T, objective_T)
    loss_T = -objective_T
    stats = {
        "num_tokens": mask_T.sum().to(ratio_T.dtype),
        "ratio": _masked_sum(ratio_T, mask_T),
        "clip_low": _masked_sum((ratio_T < 1.0 - config.clip_low) & ((advantages_T < 0) | either_sign), mask_T),
        "clip_high": _masked_sum((ratio_T > 1.0 + config.clip_high) & ((advantages_T > 0) | either_sign), mask_T),
        "kl": ratio_T.new_zeros(()),
        "proximal_weight": ratio_T.new_zeros(()),
        "weight_cut": ratio_T.new_zeros(()),
    }
    if proximal_logprobs_T is not None:
        log_ratio_T = _log_ratio(proximal_logprobs_T, behavior_logprobs_T, mask_T).detach()
        weight_T, cut_T = importance_weights(log_ratio_T, sequence_ids_T, advantages_N.numel(), config)
        loss_T = loss_T * weight_T
        stats["proximal_weight"] = _masked_sum(weight_T, mask_T)
        stats["weight_cut"] = _masked_sum(cut_T, mask_T)
    if reference_logprobs_T is not None:
        log_ratio_T = _log_ratio(reference_logprobs_T, logprobs_T, mask_T)
        k3_T = log_ratio_T.exp() - log_ratio_T - 1.0
        loss_T = loss_T + config.kl_coef * k3_T
        stats["kl"] = _masked_sum(k3_T, mask_T)
    weights_T = _token_weights(config, mask_T, sequence_ids_T, advantages_N.numel(), num_sequences, num_tokens)
    loss = (loss_T * weights_T).sum()
    stats["loss"] = _masked_sum(loss_T, mask_T)
    return loss, stats


def importance_weights(
    log_ratios_T: Tensor, sequence_ids_T: Tensor, num_sequences: int, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Weights w[T] of the tokens, and bool[T]: which were truncated or set to 0. See the equations of this module.

    `log_ratios_T`: log(pi_proximal / pi_behavior), 0 for tokens that do not count.
    """
    ratios_T = log_ratios_T.exp()
    match config.importance:
        case "none":
            return ratios_T, torch.zeros_like(ratios_T, dtype=torch.bool)
        case "tis_token":
            return ratios_T.clamp(max=config.importance_cap), ratios_T > config.importance_cap
        case "tis_sequence":
            sums_N = log_ratios_T.new_zeros(num_sequences).index_add(0, sequence_ids_T, log_ratios_T)
            products_T = sums_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[sequence_ids_T]
            return products_T.clamp(max=config.importance_cap), products_T > config.importance_cap
        case "icepop":
            outside_T = (ratios_T < config.importance_low) | (ratios_T > config.importance_high)
            return ratios_T.masked_fill(outside_T, 0.0), outside_T


def _log_ratio(numerator_T: Tensor, denominator_T: Tensor, mask_T: Tensor) -> Tensor:
    """log(numerator / denominator), cut to +-MAX_LOG_RATIO; 0 without a gradient where the mask is 0."""
    difference_T = torch.where(mask_T, numerator_T - denominator_T, 0.0)
    return difference_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _sequence_mean(values_T: Tensor, sequence_ids_T: Tensor, mask_T: Tensor, num_sequences: int) -> Tensor:
    """Each token gets the mean over the tokens of its sequence that count; `values_T` is 0 where they do not."""
    sums_N = values_T.new_zeros(num_sequences).index_add(0, sequence_ids_T, values_T)
    counts_N = values_T.new_zeros(num_sequences).index_add(0, sequence_ids_T, mask_T.to(values_T.dtype))
    return (sums_N / counts_N.clamp(min=1.0))[sequence_ids_T]


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

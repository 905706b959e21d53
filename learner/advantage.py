"""Owns group-relative advantages: how much better a rollout did than its siblings.

    A_i = (r_i - mean(r)) / (std(r) + eps)        over the rollouts of one group

DeepSeekMath (arXiv 2402.03300, section 4.1.2) and DeepSeek-R1 (arXiv 2501.12948, equation 3). `scale="none"` leaves the
division out: Dr. GRPO (arXiv 2503.20783). The papers give neither the standard deviation's correction nor an epsilon;
the defaults here are the population's (ddof 0) and 1e-6.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards_N: Tensor,
    group_ids_N: Tensor,
    *,
    scale: Literal["std", "none"] = "std",
    ddof: Literal[0, 1] = 0,
    eps: float = 1e-6,
) -> Tensor:
    """Advantages float32[N] of N rollouts; those of equal `group_ids_N` (any integers, any order) form a group.

    Computed in float64. Groups whose rewards are all equal get exactly 0, whatever `eps` is and however the mean
    rounds; so do groups of one. Raises ValueError for rewards that are not finite.
    """
    if rewards_N.shape != group_ids_N.shape or rewards_N.ndim != 1:
        raise ValueError(f"rewards {tuple(rewards_N.shape)} and group ids {tuple(group_ids_N.shape)} must be equal [N]")
    if not bool(torch.isfinite(rewards_N).all()):
        raise ValueError("rewards must be finite; a grader that fails gives its lease back instead")
    rewards_N = rewards_N.double()
    _, groups_N = torch.unique(group_ids_N, return_inverse=True)
    num_groups = int(groups_N.max()) + 1 if groups_N.numel() else 0

    def total(values_N: Tensor) -> Tensor:
        return values_N.new_zeros(num_groups).index_add(0, groups_N, values_N)

    size_G = total(torch.ones_like(rewards_N))
    centred_N = rewards_N - (total(rewards_N) / size_G)[groups_N]
    advantages_N = centred_N
    if scale == "std":
        std_G = (total(centred_N.square()) / (size_G - ddof).clamp(min=1)).sqrt()
        advantages_N = centred_N / (std_G + eps)[groups_N]
    highest_G = rewards_N.new_full((num_groups,), -torch.inf).scatter_reduce(0, groups_N, rewards_N, "amax")
    lowest_G = rewards_N.new_full((num_groups,), torch.inf).scatter_reduce(0, groups_N, rewards_N, "amin")
    constant_N = (highest_G == lowest_G)[groups_N]
    return advantages_N.masked_fill(constant_N, 0.0).float()

"""The losses of reward models, as pure functions of scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_N: Tensor, rejected_N: Tensor, margin_N: Tensor | float = 0.0) -> Tensor:
    """float[N], nats: -log sigmoid(chosen - rejected - margin), the negative log-likelihood that the chosen one wins.

    Bradley and Terry 1952; with scores of a language model InstructGPT (arXiv 2203.02155), equation 1; the margin is
    that of Llama 2 (arXiv 2307.09288), equation 2.
    """
    return -F.logsigmoid(chosen_N - rejected_N - margin_N)


def point_wise(score_N: Tensor, label_N: Tensor) -> Tensor:
    """float[N], nats: binary cross-entropy of sigmoid(score) with labels of 1 and 0."""
    return F.binary_cross_entropy_with_logits(score_N, label_N, reduction="none")

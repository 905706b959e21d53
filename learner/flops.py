"""How much arithmetic a model's training needs, and what the device could do: for model FLOP utilisation (MFU).

    forward  = 2 W S  +  2 d V T  +  4 L h a P           per micro-batch
    training = 3 forward of the policy  +  1 forward of each other policy that is asked (reference, proximal)

W: weights of the decoder's matrices (of experts, the share that a token visits), S tokens fed, d hidden size, V size of
the vocabulary, T tokens that the head scores, L layers, h heads, a head size, P pairs (query, key) under the causal
mask, row by row. A backward pass takes twice a forward one. Recomputation, norms, activations and softmax do not count
(PaLM, appendix B, arXiv:2204.02311). Windows of sliding attention are taken as full rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 peak by part of the device's name, from makers' data sheets (SXM where nothing else is said); the
first match counts."""


@dataclass(frozen=True)
class ModelFlops:
    """Per-token costs of one forward pass, in floating-point operations."""

    per_token: float
    """2 W"""
    per_scored_token: float
    """2 d V"""
    per_pair: float
    """4 L h a"""

    @classmethod
    def of(cls, model: Any) -> ModelFlops:
        """Of a transformers causal language model, sharded or not."""
        config = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight
        share = _expert_share(config)
        weights = 0.0
        for name, parameter in model.get_decoder().named_parameters():
            if parameter.ndim >= 2 and parameter is not embedding:
                weights += parameter.numel() * (share if ".experts." in name else 1.0)
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            per_token=2.0 * weights,
            per_scored_token=2.0 * config.hidden_size * int(embedding.shape[0]),
            per_pair=4.0 * config.num_hidden_layers * config.num_attention_heads * head_size,
        )

    def training(self, num_fed: int, num_scored: int, rows: Sequence[int], *, num_other_policies: int = 0) -> float:
        """Operations for one micro-batch: tokens fed, tokens scored, tokens of each attention row."""
        pairs = sum(row * (row + 1) // 2 for row in rows)
        forward = self.per_token * num_fed + self.per_scored_token * num_scored + self.per_pair * pairs
        return (3 + num_other_policies) * forward


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Dense peak of one device in operations per second; None if it is not known."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Of a device by its name."""
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)


def _expert_share(config: Any) -> float:
    """Share of a layer's experts that one token visits."""
    num_experts = next(
        (
            getattr(config, key)
            for key in ("num_experts", "num_local_experts", "n_routed_experts")
            if hasattr(config, key)
        ),
        None,
    )
    visited = getattr(config, "num_experts_per_tok", None)
    return visited / num_experts if num_experts and visited else 1.0

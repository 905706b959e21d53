"""The arithmetic of a model, against PyTorch's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from learner.flops import ModelFlops, peak_flops, peak_of
from tests.learner_rig import tiny_model

NUM_TOKENS = 24


def counted(model: torch.nn.Module, *, backward: bool) -> float:
    """Operations of one sequence by PyTorch's counter, which takes attention's rectangle as it is computed."""
    tokens = torch.arange(NUM_TOKENS)[None] % 60
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=tokens, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return float(counter.get_total_flops())


def test_a_dense_model(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "model"), attn_implementation="eager")
    flops = ModelFlops.of(model)
    square = NUM_TOKENS * NUM_TOKENS
    forward = flops.per_token * NUM_TOKENS + flops.per_scored_token * NUM_TOKENS + flops.per_pair * square
    assert counted(model, backward=False) == pytest.approx(forward, rel=1e-6)
    assert counted(model, backward=True) == pytest.approx(3 * forward, rel=1e-6)


def test_of_experts_only_those_count_that_a_token_visits() -> None:
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        max_position_embeddings=64,
    )
    flops = ModelFlops.of(Qwen3MoeForCausalLM(config))
    attention = 32 * (2 * 16) * 2 + 32 * 16 * 2  # queries and output, keys and values
    per_layer = attention + 32 * 8 + 2 * (3 * 32 * 24)  # the router, and two experts
    assert flops.per_token == 2 * 2 * per_layer


def test_rows_are_causal_and_other_policies_cost_a_forward_pass() -> None:
    flops = ModelFlops(per_token=10.0, per_scored_token=100.0, per_pair=1000.0)
    forward = 10 * 7 + 100 * 3 + 1000 * (1 + 2 + 3 + 1 + 2)
    assert flops.training(7, 3, [3, 2]) == 3 * forward
    assert flops.training(7, 3, [3, 2], num_other_policies=1) == 4 * forward


def test_peaks_by_name() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H200") == 989e12
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of("NVIDIA L40S") == 362e12
    assert peak_of("NVIDIA L4") == 121e12
    assert peak_of("Some Accelerator 3000") is None
    assert peak_flops(torch.device("cpu"), "bfloat16") is None, "a CPU's peak is not known"

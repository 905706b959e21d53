"""GSPO and CISPO against their definitions, worked out sequence by sequence in Python floats."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.config import LossSection
from learner.loss import LossConfig, policy_loss
from tests.unit.test_learner_loss import case, nested


def arguments(lengths: list[int], seed: int, spread: float) -> dict[str, Tensor]:
    tensors = case(lengths, seed, spread)
    return {k: v for k, v in tensors.items() if k not in ("reference_logprobs_T", "proximal_logprobs_T")}


def slow_gspo(tensors: dict[str, Tensor], lengths: list[int], config: LossConfig) -> float:
    """1/N sum_i of -min(s_i A_i, clip(s_i) A_i): one ratio for each sequence, no token in sight."""
    total = 0.0
    parts = [nested(tensors[k], lengths) for k in ("logprobs_T", "behavior_logprobs_T", "loss_mask_T")]
    for own, sampler, mask, advantage in zip(*parts, tensors["advantages_N"].tolist(), strict=True):
        gaps = [p - b for p, b, counts in zip(own, sampler, mask, strict=True) if counts]
        if not gaps:
            continue
        ratio = math.exp(sum(gaps) / len(gaps))
        total -= min(ratio * advantage, min(max(ratio, 1 - config.clip_low), 1 + config.clip_high) * advantage)
    return total / len(lengths)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_gspo_has_one_ratio_for_each_sequence(lengths: list[int], seed: int) -> None:
    tensors = arguments(lengths, seed, 0.6)
    config = LossConfig("sequence", 0.1, 0.2, objective="gspo")
    loss, stats = policy_loss(**tensors, config=config)
    assert loss.item() == pytest.approx(slow_gspo(tensors, lengths, config), rel=1e-5, abs=1e-7)
    assert 0 <= stats["clip_low"] + stats["clip_high"] <= stats["num_tokens"]


def test_gspo_gradients_equal_finite_differences() -> None:
    tensors = arguments([3, 1, 4], 7, 0.05)
    logprobs = tensors.pop("logprobs_T").requires_grad_()
    config = LossConfig("sequence", objective="gspo")
    assert torch.autograd.gradcheck(
        lambda values: policy_loss(values, **tensors, config=config)[0], (logprobs,), atol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_cispo_weighs_every_tokens_gradient_by_its_clipped_ratio(lengths: list[int], seed: int) -> None:
    tensors = arguments(lengths, seed, 0.8)
    logprobs = tensors.pop("logprobs_T").requires_grad_()
    loss, stats = policy_loss(logprobs, **tensors, config=LossConfig("token", 0.3, 0.2, objective="cispo"))
    loss.backward()
    assert logprobs.grad is not None
    count = max(int(tensors["loss_mask_T"].sum()), 1)
    clipped = 0
    for t, gradient in enumerate(logprobs.grad.tolist()):
        ratio = math.exp(float(logprobs[t].detach()) - float(tensors["behavior_logprobs_T"][t]))
        weight = min(max(ratio, 0.7), 1.2) if tensors["loss_mask_T"][t] else 0.0
        clipped += bool(tensors["loss_mask_T"][t]) and not 0.7 <= ratio <= 1.2
        advantage = float(tensors["advantages_N"][tensors["sequence_ids_T"][t]])
        assert gradient == pytest.approx(-weight * advantage / count, rel=1e-5, abs=1e-9)
    assert stats["clip_low"] + stats["clip_high"] == clipped


@pytest.mark.parametrize("objective", ["gspo", "cispo"])
def test_masked_tokens_carry_no_gradient_whatever_they_hold(objective: Any) -> None:
    logprobs = torch.tensor([-1.0, -math.inf, -3.0], requires_grad=True)
    behavior = torch.tensor([-1.1, -0.5, -math.inf])
    mask = torch.tensor([True, False, False])
    ids, advantages = torch.tensor([0, 0, 1]), torch.ones(2)
    loss, stats = policy_loss(logprobs, behavior, advantages, ids, mask, LossConfig(objective=objective))
    loss.backward()
    assert torch.isfinite(loss)
    assert logprobs.grad is not None
    assert logprobs.grad[0] != 0
    assert logprobs.grad[1:].tolist() == [0.0, 0.0]
    assert all(torch.isfinite(value) for value in stats.values())


@pytest.mark.parametrize("objective", ["gspo", "cispo"])
def test_on_policy_all_objectives_have_one_gradient(objective: Any) -> None:
    gradients = []
    for name in ("ppo", objective):
        tensors = arguments([4, 4, 4], 3, 0.0)
        tensors["loss_mask_T"][:] = True
        logprobs = tensors.pop("logprobs_T").requires_grad_()
        policy_loss(logprobs, **tensors, config=LossConfig("sequence", objective=name))[0].backward()
        assert logprobs.grad is not None
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_dual_clip_of_cispo_is_refused() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        LossSection(objective="cispo", dual_clip=3.0)
    assert LossSection(objective="gspo", dual_clip=3.0).dual_clip == 3.0

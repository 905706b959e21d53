"""The policy loss against numbers worked by hand, a slow float64 reference, finite differences and invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.loss import LossConfig, policy_loss

AGGREGATIONS = ("sequence", "token", "constant")


def slow_loss(
    logprobs: Sequence[Sequence[float]],
    behavior: Sequence[Sequence[float]],
    advantages: Sequence[float],
    mask: Sequence[Sequence[bool]],
    config: LossConfig,
    reference: Sequence[Sequence[float]] | None = None,
    proximal: Sequence[Sequence[float]] | None = None,
) -> float:
    """The definition, sequence by sequence and token by token, in Python floats (float64)."""
    sums, lengths = [], []
    for i, own in enumerate(logprobs):
        total, count = 0.0, 0
        for t, logprob in enumerate(own):
            if not mask[i][t]:
                continue
            anchor = behavior[i][t] if proximal is None else proximal[i][t]
            ratio = math.exp(logprob - anchor)
            clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            loss = -min(ratio * advantages[i], clipped * advantages[i])
            if proximal is not None:
                loss *= math.exp(proximal[i][t] - behavior[i][t])
            if reference is not None:
                gap = reference[i][t] - logprob
                loss += config.kl_coef * (math.exp(gap) - gap - 1)
            total += loss
            count += 1
        sums.append(total)
        lengths.append(count)
    if config.aggregation == "sequence":
        return sum(s / n for s, n in zip(sums, lengths, strict=True) if n) / len(sums)
    if config.aggregation == "token":
        return sum(sums) / max(sum(lengths), 1)
    assert config.constant_length is not None
    return sum(sums) / (len(sums) * config.constant_length)


def case(lengths: Sequence[int], seed: int, spread: float = 0.4) -> dict[str, Tensor]:
    """Random float64 tensors for sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)

    def normal(size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    behavior = -normal(total).abs() - 0.01
    return {
        "logprobs_T": behavior + spread * normal(total),
        "behavior_logprobs_T": behavior,
        "advantages_N": normal(len(lengths)),
        "sequence_ids_T": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        "loss_mask_T": torch.rand(total, generator=generator) < 0.8,
        "reference_logprobs_T": behavior + spread * normal(total),
        "proximal_logprobs_T": behavior + spread * normal(total),
    }


def nested(values: Tensor, lengths: Sequence[int]) -> list[list[Any]]:
    return [part.tolist() for part in values.split(list(lengths))]


def test_numbers_worked_by_hand() -> None:
    # Sequence 0, A = 2: ratios 1, 1.5 (clipped to 1.2), 0.5 -> -2, -2.4, -1. Sequence 1, A = -1: ratio 0.5 (clipped to
    # 0.8, the worse) -> 0.8. Sequence 2 is masked.
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.5, 9.0])
    behavior = torch.full((5,), -1.0)
    args = (
        behavior + ratios.log(),
        behavior,
        torch.tensor([2.0, -1.0, 5.0]),
        torch.tensor([0, 0, 0, 1, 2]),
        torch.tensor([1, 1, 1, 1, 0]),
    )
    loss, stats = policy_loss(*args, LossConfig("sequence"))
    assert loss.item() == pytest.approx(((-2 - 2.4 - 1) / 3 + 0.8) / 3)
    assert policy_loss(*args, LossConfig("token"))[0].item() == pytest.approx((-2 - 2.4 - 1 + 0.8) / 4)
    constant = LossConfig("constant", constant_length=10)
    assert policy_loss(*args, constant)[0].item() == pytest.approx((-2 - 2.4 - 1 + 0.8) / 30)
    assert {k: v.item() for k, v in stats.items()} == pytest.approx(
        {
            "num_tokens": 4.0,
            "loss": -4.6,
            "ratio": 3.5,
            "clip_low": 1.0,
            "clip_high": 1.0,
            "kl": 0.0,
            "proximal_weight": 0.0,
            "weight_cut": 0.0,
        }
    )


def test_k3_worked_by_hand() -> None:
    # pi = 1/4, reference 1/2: k3 = 2 - ln 2 - 1
    logprobs = torch.tensor([0.25]).log()
    config = LossConfig(kl_coef=0.5)
    loss, stats = policy_loss(
        logprobs,
        logprobs,
        torch.tensor([0.0]),
        torch.tensor([0]),
        torch.ones(1),
        config,
        reference_logprobs_T=torch.tensor([0.5]).log(),
    )
    assert stats["kl"].item() == pytest.approx(1 - math.log(2))
    assert loss.item() == pytest.approx(0.5 * (1 - math.log(2)))


def test_the_gradient_stops_where_the_ratio_is_clipped() -> None:
    behavior = torch.full((4,), -1.0)
    # A > 0 at ratios 1.5 and 0.5, A < 0 at the same: the first and the last are clipped.
    logprobs = (behavior + torch.tensor([1.5, 0.5, 1.5, 0.5]).log()).requires_grad_()
    args = (behavior, torch.tensor([1.0, -1.0]), torch.tensor([0, 0, 1, 1]), torch.ones(4))
    policy_loss(logprobs, *args, LossConfig("token"))[0].backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, -0.5, 1.5, 0.0]) / 4)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    aggregation=st.sampled_from(AGGREGATIONS),
    use_reference=st.booleans(),
    use_proximal=st.booleans(),
)
def test_equals_the_slow_reference(
    lengths: list[int], seed: int, aggregation: Any, use_reference: bool, use_proximal: bool
) -> None:
    tensors = case(lengths, seed)
    config = LossConfig(aggregation, 0.1, 0.3, 0.25 if use_reference else 0.0, 11)
    reference = tensors.pop("reference_logprobs_T") if use_reference else None
    proximal = tensors.pop("proximal_logprobs_T") if use_proximal else None
    tensors = {k: v for k, v in tensors.items() if k not in ("reference_logprobs_T", "proximal_logprobs_T")}
    loss, _ = policy_loss(**tensors, config=config, reference_logprobs_T=reference, proximal_logprobs_T=proximal)
    expected = slow_loss(
        nested(tensors["logprobs_T"], lengths),
        nested(tensors["behavior_logprobs_T"], lengths),
        tensors["advantages_N"].tolist(),
        nested(tensors["loss_mask_T"], lengths),
        config,
        nested(reference, lengths) if reference is not None else None,
        nested(proximal, lengths) if proximal is not None else None,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("decoupled", [False, True])
def test_gradients_equal_finite_differences(aggregation: Any, decoupled: bool) -> None:
    tensors = case([3, 1, 4], seed=7, spread=0.05)  # no ratio near a clipping edge
    proximal = tensors.pop("proximal_logprobs_T")
    logprobs = tensors.pop("logprobs_T").requires_grad_()
    config = LossConfig(aggregation, kl_coef=0.3, constant_length=6)
    extra = {"proximal_logprobs_T": proximal} if decoupled else {}

    def loss(values: Tensor) -> Tensor:
        return policy_loss(values, **tensors, config=config, **extra)[0]

    assert torch.autograd.gradcheck(loss, (logprobs,), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=7),
    seed=st.integers(0, 10_000),
    aggregation=st.sampled_from(AGGREGATIONS),
    cut=st.integers(1, 6),
)
def test_micro_batches_with_global_denominators_add_up(
    lengths: list[int], seed: int, aggregation: Any, cut: int
) -> None:
    tensors = case(lengths, seed)
    tensors.pop("proximal_logprobs_T")
    config = LossConfig(aggregation, kl_coef=0.1, constant_length=5)
    logprobs = tensors.pop("logprobs_T")
    whole = logprobs.clone().requires_grad_()
    loss, _ = policy_loss(whole, **tensors, config=config)
    loss.backward()
    cut = min(cut, len(lengths) - 1)
    pieces, total = logprobs.clone().requires_grad_(), 0.0
    for first, last in ((0, cut), (cut, len(lengths))):
        chosen = (tensors["sequence_ids_T"] >= first) & (tensors["sequence_ids_T"] < last)
        part, _ = policy_loss(
            pieces[chosen],
            tensors["behavior_logprobs_T"][chosen],
            tensors["advantages_N"][first:last],
            tensors["sequence_ids_T"][chosen] - first,
            tensors["loss_mask_T"][chosen],
            config,
            reference_logprobs_T=tensors["reference_logprobs_T"][chosen],
            num_sequences=len(lengths),
            num_tokens=int(tensors["loss_mask_T"].sum()),
        )
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(pieces.grad, whole.grad, rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    aggregation=st.sampled_from(AGGREGATIONS),
)
def test_the_order_of_packing_does_not_matter(lengths: list[int], seed: int, aggregation: Any) -> None:
    tensors = case(lengths, seed)
    config = LossConfig(aggregation, kl_coef=0.1, constant_length=5)
    order = torch.randperm(sum(lengths), generator=torch.Generator().manual_seed(seed))
    shuffled = {k: v if k == "advantages_N" else v[order] for k, v in tensors.items()}
    loss, stats = policy_loss(**tensors, config=config)
    other, other_stats = policy_loss(**shuffled, config=config)
    assert other.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-7)
    assert {k: v.item() for k, v in other_stats.items()} == pytest.approx({k: v.item() for k, v in stats.items()}, 1e-4)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_masked_tokens_carry_no_gradient_whatever_they_hold(aggregation: Any) -> None:
    logprobs = torch.tensor([-1.0, -math.inf, -2.0, -3.0], requires_grad=True)
    behavior = torch.tensor([-1.1, -0.5, -math.inf, -math.inf])
    mask = torch.tensor([True, False, False, False])
    config = LossConfig(aggregation, kl_coef=0.1, constant_length=3)
    loss, stats = policy_loss(
        logprobs,
        behavior,
        torch.tensor([1.0, 1.0]),
        torch.tensor([0, 0, 0, 1]),
        mask,
        config,
        reference_logprobs_T=behavior,
    )
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0] != 0
    assert logprobs.grad[1:].tolist() == [0.0, 0.0, 0.0]
    assert all(torch.isfinite(value) for value in stats.values())


def test_a_huge_ratio_with_no_advantage_stays_finite() -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    args = (torch.tensor([-500.0]), torch.tensor([0.0]), torch.tensor([0]), torch.ones(1))
    loss, _ = policy_loss(logprobs, *args, LossConfig(clip_high=1e30))
    loss.backward()
    assert torch.isfinite(loss)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()


def test_what_is_missing_is_refused() -> None:
    args = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ValueError, match="reference"):
        policy_loss(*args, LossConfig(kl_coef=0.1))
    with pytest.raises(ValueError, match="constant_length"):
        LossConfig("constant")

"""Group-relative advantages."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.advantage import group_advantages


def test_numbers_worked_by_hand() -> None:
    # rewards 1 0 0 1: mean 1/2, population std 1/2; rewards 3 0 0: mean 1, std sqrt((4 + 1 + 1) / 3) = sqrt(2)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0])
    ids = torch.tensor([5, 5, 5, 5, -2, -2, -2])
    expected = torch.tensor([1.0, -1.0, -1.0, 1.0, math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)])
    torch.testing.assert_close(group_advantages(rewards, ids, eps=0.0), expected)
    bessel = group_advantages(rewards, ids, ddof=1, eps=0.0)  # std sqrt(1/3) and sqrt(3)
    torch.testing.assert_close(bessel[:4], torch.tensor([1.0, -1.0, -1.0, 1.0]) * math.sqrt(3) / 2)
    torch.testing.assert_close(bessel[4:], torch.tensor([2.0, -1.0, -1.0]) / math.sqrt(3))
    torch.testing.assert_close(group_advantages(rewards, ids, scale="none")[4:], torch.tensor([2.0, -1.0, -1.0]))


def test_epsilon_is_added_to_the_standard_deviation() -> None:
    rewards, ids = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
    torch.testing.assert_close(group_advantages(rewards, ids, eps=0.5), torch.tensor([0.5, -0.5]))


@given(
    value=st.floats(-1e3, 1e3),
    size=st.integers(1, 9),
    scale=st.sampled_from(["std", "none"]),
    eps=st.sampled_from([0.0, 1e-6]),
    ddof=st.sampled_from([0, 1]),
)
def test_equal_rewards_give_exactly_zero(value: float, size: int, scale: str, eps: float, ddof: int) -> None:
    rewards = torch.full((size,), value, dtype=torch.float64)
    result = group_advantages(rewards, torch.zeros(size, dtype=torch.int64), scale=scale, eps=eps, ddof=ddof)  # type: ignore[arg-type]
    assert result.tolist() == [0.0] * size


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), min_size=2, max_size=20),
    seed=st.integers(0, 1000),
)
def test_the_order_of_rollouts_does_not_matter(rewards: list[float], seed: int) -> None:
    values = torch.tensor(rewards)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4, (len(rewards),), generator=generator)
    order = torch.randperm(len(rewards), generator=generator)
    torch.testing.assert_close(group_advantages(values[order], ids[order]), group_advantages(values, ids)[order])


def test_rewards_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantages(torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="equal"):
        group_advantages(torch.zeros(2), torch.zeros(3))

"""Losses and held-out figures of reward models, against hand numbers and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from learner.reward_model.loss import bradley_terry, point_wise
from learner.reward_model.measure import BUCKETS, area_under_curve, mean_ranks, measure, spearman


def test_bradley_terry_against_hand_numbers() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, -2.0, 0.5]), torch.tensor([0.0, 0.0, 1.0, 0.5])
    # ln(1 + e^-1), ln 2, ln(1 + e^3), ln 2
    expected = [0.3132616875, 0.6931471806, 3.0485873516, 0.6931471806]
    assert bradley_terry(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)
    # a margin of 1 takes 1 from each difference: ln 2, ln(1 + e), ln(1 + e^4), ln(1 + e)
    margin = torch.tensor([1.0, 1.0, 1.0, 1.0])
    expected = [0.6931471806, 1.3132616875, 4.0181499279, 1.3132616875]
    assert bradley_terry(chosen, rejected, margin).tolist() == pytest.approx(expected, abs=1e-6)
    assert bradley_terry(torch.tensor([200.0]), torch.tensor([0.0])).item() == 0.0
    assert bradley_terry(torch.tensor([0.0]), torch.tensor([200.0])).item() == 200.0  # not infinite


def test_bradley_terry_and_its_gradient_against_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = (4 * torch.randn(64, generator=generator)).requires_grad_()
    rejected = (4 * torch.randn(64, generator=generator)).requires_grad_()
    loss = bradley_terry(chosen, rejected, 0.5)
    difference = chosen.detach().double() - rejected.detach().double() - 0.5
    assert loss.tolist() == pytest.approx(torch.log1p(torch.exp(-difference)).tolist(), rel=1e-5, abs=1e-6)
    loss.sum().backward()
    slope = -1 / (1 + torch.exp(difference))
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx(slope.tolist(), rel=1e-4, abs=1e-6)
    assert rejected.grad.tolist() == pytest.approx((-slope).tolist(), rel=1e-4, abs=1e-6)


def test_point_wise_against_hand_numbers_and_float64() -> None:
    score, label = torch.tensor([0.0, 2.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    # ln 2, ln(1 + e^-2), ln(1 + e^2), ln(1 + e^-1)
    expected = [0.6931471806, 0.1269280110, 2.1269280110, 0.3132616875]
    assert point_wise(score, label).tolist() == pytest.approx(expected, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(64, generator=generator)
    labels = (torch.rand(64, generator=generator) < 0.5).float()
    probability = 1 / (1 + torch.exp(-scores.double()))
    exact = -(labels * torch.log(probability) + (1 - labels) * torch.log1p(-probability))
    assert point_wise(scores, labels).tolist() == pytest.approx(exact.tolist(), rel=1e-5, abs=1e-6)


def test_area_under_curve_is_the_share_of_pairs_ranked_right() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        labels = rng.integers(0, 2, 20).astype(float)
        scores = rng.integers(0, 6, 20).astype(float)  # many ties
        pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
        if not pairs:
            continue
        share = sum((good > bad) + 0.5 * (good == bad) for good, bad in pairs) / len(pairs)
        assert area_under_curve(scores, labels) == pytest.approx(share)
    assert area_under_curve(np.array([1.0, 2.0]), np.array([1.0, 1.0])) is None


def test_spearman_by_hand() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [3.5, 2.0, 3.5, 1.0]
    assert spearman(np.array([1.0, 5.0, 9.0]), np.array([0.1, 0.2, 90.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 5.0, 9.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(0.6)
    assert spearman(np.array([1.0, 2.0]), np.array([1.0, 1.0])) is None


def test_figures_of_pairs() -> None:
    scores = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [4.0, 1.0], [5.0, 1.0]])
    characters = np.array([[40, 100], [80, 100], [100, 95], [100, 80], [100, 10]])
    losses = np.full(5, 0.5)
    found = measure(scores, np.zeros(5), losses, characters)
    assert (found.num_rows, found.loss, found.accuracy, found.auc) == (5, 0.5, pytest.approx(3.5 / 5), None)
    assert [entry["rows"] for entry in found.accuracy_by_length.values()] == [1, 1, 1, 1, 1]
    assert list(found.accuracy_by_length) == [name for name, _ in BUCKETS]
    assert [entry["accuracy"] for entry in found.accuracy_by_length.values()] == [1.0, 0.5, 0.0, 1.0, 1.0]
    assert found.offset == pytest.approx(1.8)
    deviation = math.sqrt(sum((s - 1.8) ** 2 for s in [2, 0, 1, 1, 0, 3, 4, 1, 5, 1]) / 10)
    assert found.scale == pytest.approx(deviation)
    assert found.floor == pytest.approx(-1.8 / deviation)
    assert found.length_difference_correlation == pytest.approx(0.6)  # differences 2 0 -3 3 4, -60 -20 5 20 90
    longer_is_better = measure(characters.astype(float), np.zeros(5), losses, characters)
    assert longer_is_better.length_correlation == pytest.approx(1.0)


def test_figures_of_labelled_responses() -> None:
    scores = np.array([[2.0], [-1.0], [0.5], [0.0], [-3.0], [1.0], [1.0], [1.0]])
    labels = np.array([1.0, 0, 0, 1, 0, 1, 1, 1])
    found = measure(scores, labels, np.full(8, 0.25), np.array([[1], [2], [3], [4], [5], [6], [7], [8]]))
    assert found.accuracy == pytest.approx(6.5 / 8)
    assert found.auc == pytest.approx(area_under_curve(scores[:, 0], labels))
    assert found.length_difference_correlation is None
    assert [entry["rows"] for entry in found.accuracy_by_length.values()] == [2, 2, 2, 2]
    constant = measure(np.zeros((2, 1)), np.array([0.0, 1.0]), np.zeros(2), np.array([[1], [2]]))
    assert (constant.offset, constant.scale, constant.floor) == (0.0, 1.0, 0.0)
    assert constant.length_correlation is None

"""Weights between sampler and proximal policy (TIS, IcePop), dual clip, and the trainer that recomputes the latter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import LossSection
from learner.batch import build_batch
from learner.loss import LossConfig, policy_loss
from learner.packing import pack
from learner.ranks import Ranks
from learner.step_log import step_record
from learner.trainer import Trainer
from tests.learner_rig import make_config, make_group, tiny_model
from tests.unit.test_learner_loss import case, nested

KINDS = ("none", "tis_token", "tis_sequence", "icepop")


def slow_weights(
    proximal: Sequence[Sequence[float]], behavior: Sequence[Sequence[float]], mask: Any, config: LossConfig
) -> list[list[float]]:
    """w_t by the definitions, in Python floats; tokens that do not count have weight 1."""
    weights = []
    for own, sampler, counts in zip(proximal, behavior, mask, strict=True):
        ratios = [math.exp(p - b) if c else 1.0 for p, b, c in zip(own, sampler, counts, strict=True)]
        match config.importance:
            case "none":
                weights.append(ratios)
            case "tis_token":
                weights.append([min(r, config.importance_cap) for r in ratios])
            case "tis_sequence":
                weights.append([min(math.prod(ratios), config.importance_cap)] * len(ratios))
            case "icepop":
                weights.append([r if config.importance_low <= r <= config.importance_high else 0.0 for r in ratios])
    return weights


def slow_loss(tensors: dict[str, Any], lengths: list[int], config: LossConfig) -> float:
    """The `token` aggregation of the module's equations, token by token."""
    parts = {k: nested(v, lengths) for k, v in tensors.items() if k not in ("advantages_N", "sequence_ids_T")}
    weights = slow_weights(parts["proximal_logprobs_T"], parts["behavior_logprobs_T"], parts["loss_mask_T"], config)
    total, count = 0.0, 0
    for i, advantage in enumerate(tensors["advantages_N"].tolist()):
        for t, counts in enumerate(parts["loss_mask_T"][i]):
            if not counts:
                continue
            own, anchor = parts["logprobs_T"][i][t], parts["proximal_logprobs_T"][i][t]
            ratio = math.exp(own - anchor)
            objective = min(ratio * advantage, min(max(ratio, 1 - config.clip_low), 1 + config.clip_high) * advantage)
            if config.dual_clip is not None and advantage < 0:
                objective = max(objective, config.dual_clip * advantage)
            gap = parts["reference_logprobs_T"][i][t] - own
            total += -weights[i][t] * objective + config.kl_coef * (math.exp(gap) - gap - 1)
            count += 1
    return total / max(count, 1)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    importance=st.sampled_from(KINDS),
    dual_clip=st.sampled_from([None, 1.3]),
)
def test_equals_the_slow_reference(lengths: list[int], seed: int, importance: Any, dual_clip: float | None) -> None:
    tensors = case(lengths, seed, spread=0.8)
    config = LossConfig(
        "token",
        kl_coef=0.2,
        dual_clip=dual_clip,
        importance=importance,
        importance_cap=1.5,
        importance_low=0.6,
        importance_high=1.7,
    )
    loss, stats = policy_loss(**tensors, config=config)
    assert loss.item() == pytest.approx(slow_loss(tensors, lengths, config), rel=1e-5, abs=1e-7)
    weights = slow_weights(
        nested(tensors["proximal_logprobs_T"], lengths),
        nested(tensors["behavior_logprobs_T"], lengths),
        nested(tensors["loss_mask_T"], lengths),
        config,
    )
    flat = [weight for own in weights for weight in own]
    counted = [w for w, c in zip(flat, tensors["loss_mask_T"].tolist(), strict=True) if c]
    assert stats["proximal_weight"].item() == pytest.approx(sum(counted), rel=1e-5, abs=1e-7)


def weights_of(config: LossConfig, ratios: list[float], ids: list[int], mask: list[int] | None = None) -> Any:
    """Weights as they act: minus the loss of each token at ratio 1 and advantage 1, times the number of tokens."""
    behavior = torch.full((len(ratios),), -2.0, dtype=torch.float64)
    proximal = behavior + torch.tensor(ratios, dtype=torch.float64).log()
    logprobs = proximal.clone().requires_grad_()
    loss_mask = torch.ones(len(ratios)) if mask is None else torch.tensor(mask)
    _, stats = policy_loss(
        logprobs,
        behavior,
        torch.ones(max(ids) + 1, dtype=torch.float64),
        torch.tensor(ids),
        loss_mask,
        config,
        proximal_logprobs_T=proximal,
    )
    loss, _ = policy_loss(
        logprobs,
        behavior,
        torch.ones(max(ids) + 1, dtype=torch.float64),
        torch.tensor(ids),
        loss_mask,
        config,
        proximal_logprobs_T=proximal,
        num_tokens=1.0,
    )
    loss.backward()
    assert logprobs.grad is not None
    return (-logprobs.grad).tolist(), stats["weight_cut"].item()


def test_weights_worked_by_hand() -> None:
    ratios, ids = [0.25, 1.0, 3.0, 8.0, 0.6], [0, 0, 0, 1, 1]
    token = LossConfig("token", importance="tis_token", importance_cap=2.0)
    assert weights_of(token, ratios, ids) == (pytest.approx([0.25, 1.0, 2.0, 2.0, 0.6]), 2.0)
    # 0.25 * 1 * 3 = 0.75 stays; 8 * 0.6 = 4.8 is cut to 2
    sequence = LossConfig("token", importance="tis_sequence", importance_cap=2.0)
    assert weights_of(sequence, ratios, ids) == (pytest.approx([0.75, 0.75, 0.75, 2.0, 2.0]), 2.0)
    # without its 8, sequence 1 is at 0.6
    assert weights_of(sequence, ratios, ids, [1, 1, 1, 0, 1]) == (pytest.approx([0.75, 0.75, 0.75, 0.0, 0.6]), 0.0)
    icepop = LossConfig("token", importance="icepop", importance_low=0.5, importance_high=5.0)
    weights, cut = weights_of(icepop, ratios, ids)
    assert weights == pytest.approx([0.0, 1.0, 3.0, 0.0, 0.6], abs=1e-12)
    assert cut == 2.0
    assert weights_of(LossConfig("token"), ratios, ids) == (pytest.approx(ratios), 0.0)


def test_tokens_masked_by_icepop_stay_in_denominators_and_keep_their_penalty() -> None:
    config = LossConfig("token", kl_coef=0.5, importance="icepop")
    behavior = torch.tensor([-1.0, -9.0], dtype=torch.float64)
    logprobs = torch.tensor([-1.0, -1.0], dtype=torch.float64)  # the second is e^8 more probable than it was
    reference = logprobs + math.log(2.0)
    loss, stats = policy_loss(
        logprobs,
        behavior,
        torch.tensor([3.0], dtype=torch.float64),
        torch.tensor([0, 0]),
        torch.ones(2),
        config,
        reference_logprobs_T=reference,
        proximal_logprobs_T=logprobs,
    )
    k3 = 2.0 - math.log(2.0) - 1.0
    assert loss.item() == pytest.approx((-3.0 + 2 * 0.5 * k3) / 2)
    assert stats["weight_cut"].item() == 1.0


def test_the_dual_clip_bounds_the_loss_of_what_was_bad_and_nothing_else() -> None:
    behavior = torch.zeros(3, dtype=torch.float64) - 5.0
    logprobs = (behavior + torch.tensor([20.0, 20.0, 2.0], dtype=torch.float64).log()).requires_grad_()
    advantages = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    ids, ones = torch.arange(3), torch.ones(3)
    loss, _ = policy_loss(logprobs, behavior, advantages, ids, ones, LossConfig("token", 10.0, 10.0, dual_clip=3.0))
    loss.backward()
    assert loss.item() == pytest.approx((3.0 - 11.0 + 2.0) / 3)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, 2.0 / 3])
    without, _ = policy_loss(logprobs, behavior, advantages, ids, ones, LossConfig("token", 10.0, 10.0))
    assert without.item() == pytest.approx((20.0 - 11.0 + 2.0) / 3)


def test_r1s_epsilon_of_10_is_a_legal_clip() -> None:
    # 1 - 10 < 0: nothing is clipped below; above, the ratio stops at 11
    behavior = torch.zeros(2) - 5.0
    logprobs = (behavior + torch.tensor([0.01, 30.0]).log()).requires_grad_()
    section = LossSection(clip_low=10, clip_high=10)
    config = LossConfig("token", section.clip_low, section.clip_high)
    loss, stats = policy_loss(logprobs, behavior, torch.tensor([-1.0, 1.0]), torch.arange(2), torch.ones(2), config)
    assert loss.item() == pytest.approx((0.01 - 11.0) / 2)
    assert (stats["clip_low"].item(), stats["clip_high"].item()) == (0.0, 1.0)


def test_a_limit_without_a_proximal_policy_is_refused() -> None:
    args = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ValueError, match="proximal_logprobs_T"):
        policy_loss(*args, LossConfig(importance="icepop"))
    with pytest.raises(ValueError, match="set proximal: recompute"):
        LossSection(importance="tis_token")
    with pytest.raises(ValueError, match="importance_low 6"):
        LossSection(proximal="recompute", importance="icepop", importance_low=6.0)
    assert LossSection(proximal="recompute", importance="tis_sequence").importance_cap == 2.0


# ------------------------------------------------------------------ the trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def ranks(model: Path) -> Iterator[Ranks]:
    with Ranks(make_config(model).learner) as pool:
        yield pool


def make_trainer(model: Path, ranks: Ranks, steps_per_publish: int, **loss: Any) -> Trainer:
    learner = {"steps_per_publish": steps_per_publish, "lr": 3e-3, "loss": {"proximal": "recompute", **loss}}
    return Trainer(make_config(model, learner=learner), model, ranks)


def scores(trainer: Trainer, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        logprobs, _ = trainer.policy.logprobs(pack(batch.sequences, range(len(batch.sequences))))
    return logprobs


def test_the_proximal_policy_is_the_one_last_published(model: Path, ranks: Ranks) -> None:
    trainer = make_trainer(model, ranks, 3)
    batch, _ = build_batch([make_group(3)], 0, trainer.config.learner)
    published, ratios, weights = [], [], []
    for step in range(5):
        if step % 3 == 0:
            published.append(scores(trainer, batch))
        before = scores(trainer, batch)
        figures = trainer.step(batch, step)
        ratios.append(figures.ratio)
        weights.append(figures.importance)
        assert figures.ratio == pytest.approx(float((before - published[-1]).exp().mean()), rel=1e-4)
    assert ratios[0] == ratios[3] == pytest.approx(1.0, abs=1e-6)
    assert abs(ratios[1] - 1.0) > 1e-6
    expected = [float((own - batch.behavior_logprobs_T).exp().mean()) for own in published]
    assert weights == pytest.approx([expected[0]] * 3 + [expected[1]] * 2, rel=1e-4)


def test_a_publish_before_every_step_needs_no_second_policy(model: Path, ranks: Ranks) -> None:
    one = make_trainer(model, ranks, 1)
    many = make_trainer(model, ranks, 2)
    assert one.proximal is None
    assert many.proximal is not None
    batch, _ = build_batch([make_group(3)], 0, one.config.learner)
    first, second = one.step(batch, 0), many.step(batch, 0)
    assert first.ratio == pytest.approx(1.0, abs=1e-6)
    assert (first.loss, first.grad_norm, first.importance) == pytest.approx(
        (second.loss, second.grad_norm, second.importance), rel=1e-5
    )


def test_a_trainer_that_starts_between_publishes_takes_what_it_loaded(model: Path, ranks: Ranks) -> None:
    trainer = make_trainer(model, ranks, 4)
    batch, _ = build_batch([make_group(3)], 0, trainer.config.learner)
    trainer.step(batch, 0)
    again = make_trainer(model, ranks, 4)
    again.policy.copy_from(trainer.policy)  # as a restore at step 1: these weights are published before training
    assert again.step(batch, 1).ratio == pytest.approx(1.0, abs=1e-6)
    assert again.step(batch, 2).ratio != pytest.approx(1.0, abs=1e-6)


def test_what_is_reported_is_the_weight_after_its_limit(model: Path, ranks: Ranks) -> None:
    trainer = make_trainer(model, ranks, 1, importance="tis_token", importance_cap=1e-3)
    batch, about = build_batch([make_group(3)], 0, trainer.config.learner)
    record = step_record(about, trainer.step(batch, 0))
    assert record["sampling/importance_sampling_ratio/mean"] == pytest.approx(1e-3)
    assert record["sampling/importance_sampling_ratio/cut"] == 1.0
    assert record["ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    plain = Trainer(make_config(model), model, ranks)
    record = step_record(about, plain.step(batch, 0))
    assert "ratio/mean" not in record
    assert record["sampling/importance_sampling_ratio/mean"] > 0

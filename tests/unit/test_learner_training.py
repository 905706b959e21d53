"""Optimizer, trainer, model guards and the cold start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import RunFailure, UserError
from learner.batch import build_batch
from learner.model import load_policy
from learner.optimizer import Optimizer, learning_rate
from learner.packing import Sequences, pack
from learner.ranks import Ranks
from learner.sft import EpochOrder, cold_start, read_examples
from learner.trainer import Trainer
from tests.learner_rig import make_config, make_group, tiny_model, whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def ranks(model: Path) -> Iterator[Ranks]:
    with Ranks(make_config(model).learner) as pool:
        yield pool


def test_schedules() -> None:
    def rate(schedule: Any, progress: float, step: int = 100) -> float:
        return learning_rate(schedule, 2.0, step=step, progress=progress, warmup_steps=4, final_ratio=0.1)

    assert [rate("constant", 0.0, step) for step in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert [rate("cosine", p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([2.0, 1.1, 0.2, 0.2])
    assert [rate("linear", p) for p in (0.0, 0.25, 1.0)] == pytest.approx([2.0, 1.55, 0.2])


def test_a_step_on_what_is_not_finite_is_refused_with_the_weights_as_they_were() -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = Optimizer(module, betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    module(torch.ones(2)).sum().backward()
    with pytest.raises(RunFailure, match="tasks a, b"):
        optimizer.step(1.0, math.nan, where="tasks a, b")
    module(torch.full((2,), math.inf)).sum().backward()
    with pytest.raises(RunFailure, match="gradient norm"):
        optimizer.step(1.0, 0.0, where="tasks a, b")
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_gradients_are_clipped_by_their_global_norm() -> None:
    module = torch.nn.Linear(1, 1)
    optimizer = Optimizer(module, betas=(0.0, 0.0), weight_decay=0.0, max_grad_norm=0.5)
    (3 * module.weight.sum() + 4 * module.bias.sum()).backward()
    seen: list[float] = []
    original = optimizer.adam.step

    def spy() -> None:
        seen.extend(float(p.grad) for p in module.parameters() if p.grad is not None)
        original()

    optimizer.adam.step = spy  # type: ignore[method-assign,assignment]
    assert optimizer.step(0.1, 0.0, where="") == pytest.approx(5.0)
    assert seen == pytest.approx([0.3, 0.4], rel=1e-4)


def test_log_probabilities_equal_those_of_plain_transformers(model: Path, ranks: Ranks) -> None:
    policy = load_policy(model, make_config(model).learner, ranks)
    plain = AutoModelForCausalLM.from_pretrained(model)
    pairs = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10, 11]), ([12, 13], [14])]
    batch = Sequences.of(pairs)
    logprobs, entropy = policy.logprobs(pack(batch, [2, 0, 1]), temperature=0.7)
    expected, entropies = [], []
    for prompt, completion in (pairs[2], pairs[0], pairs[1]):
        logits = plain(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        scores = F.log_softmax(logits / 0.7, -1)
        expected += [scores[i, token] for i, token in enumerate(completion)]
        entropies.append(-(scores.exp() * scores).sum(-1))
    torch.testing.assert_close(logprobs, torch.stack(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, torch.cat(entropies), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sharing_prompts_changes_neither_log_probabilities_nor_gradients(model: Path, ranks: Ranks, dtype: str) -> None:
    policy = load_policy(model, make_config(model, learner={"dtype": dtype}).learner, ranks)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 60, 12).tolist(), rng.integers(0, 60, 5).tolist()]
    pairs = [(prompts[i % 2], rng.integers(0, 60, int(n)).tolist()) for i, n in enumerate((9, 3, 1, 7, 20, 2))]
    results = []
    for order in ([0, 2, 4, 1, 3, 5], [0, 1, 2, 3, 4, 5]):  # families side by side; no two relatives side by side
        batch = Sequences.of([pairs[index] for index in order])
        packed = pack(batch, range(6))
        logprobs, _ = policy.logprobs(packed)
        parts = dict(zip(order, logprobs.split(batch.completion_lengths_N.tolist()), strict=True))
        weights = torch.linspace(-1, 1, len(logprobs))
        (torch.cat([parts[index] for index in range(6)]) * weights).sum().backward()
        gradients = [p.grad.full_tensor().clone() for p in policy.module.parameters()]  # type: ignore[union-attr,attr-defined]
        policy.module.zero_grad()
        results.append((packed, torch.cat([parts[index] for index in range(6)]).detach(), gradients))
    (shared, one, gradients), (apart, other, others) = results
    assert len(shared.token_ids_S) == len(apart.token_ids_S) - 2 * 12 - 2 * 5
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for own, expected in zip(gradients, others, strict=True):
        assert (own - expected).norm() <= tolerance * max(float(expected.norm()), 1.0)


def test_what_carries_no_gradient_is_not_computed(model: Path, ranks: Ranks) -> None:
    groups = [make_group(1), make_group(2, rewards=(0.5, 0.5, 0.5, 0.5))]
    norms, fed = [], []
    for skip in (True, False):
        trainer = Trainer(make_config(model, learner={"skip_without_gradient": skip}), model, ranks)
        batch, _ = build_batch(groups, 0, trainer.config.learner)
        figures = trainer.step(batch, 0)
        norms.append((figures.grad_norm, [whole(p) for p in trainer.policy.module.parameters()]))
        fed.append(figures.num_fed_tokens)
    prompt, lengths = len(groups[1].prompt_ids), groups[1].lengths
    assert fed[1] - fed[0] == prompt + sum(length - 1 for length in lengths)
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-5)
    for own, other in zip(norms[0][1], norms[1][1], strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)


def test_without_any_gradient_means_are_unknown_and_not_0(model: Path, ranks: Ranks) -> None:
    trainer = Trainer(make_config(model), model, ranks)
    batch, _ = build_batch([make_group(2, rewards=(0.5, 0.5, 0.5, 0.5))], 0, trainer.config.learner)
    figures = trainer.step(batch, 0)
    assert (figures.num_fed_tokens, figures.grad_norm) == (0, 0.0)
    assert figures.entropy is figures.ratio is figures.logp_difference_mean is figures.logp_difference_max is None


def test_with_a_penalty_all_sequences_are_computed(model: Path, ranks: Ranks) -> None:
    trainer = Trainer(make_config(model, learner={"loss": {"kl_coef": 0.1}}), model, ranks)
    group = make_group(2, rewards=(0.5, 0.5, 0.5, 0.5))
    batch, _ = build_batch([group], 0, trainer.config.learner)
    figures = trainer.step(batch, 0)
    assert figures.num_fed_tokens == len(group.prompt_ids) + sum(length - 1 for length in group.lengths)
    assert figures.kl == pytest.approx(0.0, abs=1e-9)


def test_the_warm_up_leaves_no_trace(model: Path, ranks: Ranks) -> None:
    trainer = Trainer(make_config(model), model, ranks)
    before = [whole(p) for p in trainer.policy.module.parameters()]
    trainer.warm_up()
    after = [whole(p) for p in trainer.policy.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not trainer.optimizer.adam.state
    assert all(p.grad is None for p in trainer.policy.module.parameters())


@pytest.mark.parametrize("budget", [8, 20, 1000])
def test_a_step_does_not_depend_on_how_it_is_cut_into_micro_batches(model: Path, ranks: Ranks, budget: int) -> None:
    results = []
    for tokens in (100_000, budget):
        trainer = Trainer(make_config(model, learner={"tokens_per_microbatch": tokens}), model, ranks)
        batch, _ = build_batch([make_group(1), make_group(2)], 0, trainer.config.learner)
        figures = trainer.step(batch, 0)
        results.append((figures, [whole(p) for p in trainer.policy.module.parameters()]))
    (one, weights), (many, others) = results
    assert one.num_microbatches == 1
    assert (one.loss, one.grad_norm, one.entropy) == pytest.approx((many.loss, many.grad_norm, many.entropy), rel=1e-4)
    for own, other in zip(weights, others, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


def test_training_raises_the_probability_of_what_was_rewarded(model: Path, ranks: Ranks) -> None:
    trainer = Trainer(make_config(model, learner={"lr": 3e-3}), model, ranks)
    group = make_group(3)
    batch, _ = build_batch([group], 0, trainer.config.learner)

    def score() -> list[float]:
        with torch.no_grad():
            logprobs, _ = trainer.policy.logprobs(pack(batch.sequences, [0, 1, 2, 3]))
        return [float(part.mean()) for part in logprobs.split(group.lengths)]

    before = score()
    for step in range(5):
        trainer.step(batch, step)
    gains = [after - earlier for earlier, after in zip(before, score(), strict=True)]
    assert min(gains[0], gains[3]) > max(gains[1], gains[2])


def test_the_reference_stands_still_until_it_is_refreshed(model: Path, ranks: Ranks) -> None:
    config = make_config(model, learner={"loss": {"kl_coef": 0.1}, "reference_refresh_steps": 3})
    trainer = Trainer(config, model, ranks)
    batch, _ = build_batch([make_group(3)], 0, config.learner)
    divergence = [trainer.step(batch, step).kl for step in range(4)]
    assert divergence[0] == pytest.approx(0.0, abs=1e-9)
    assert divergence[1] is not None
    assert divergence[2] is not None
    assert 0 < divergence[1] < divergence[2]
    assert divergence[3] == pytest.approx(0.0, abs=1e-9)  # replaced after step 3


def test_bfloat16_computes_near_float32_on_float32_weights(model: Path, ranks: Ranks) -> None:
    results = []
    for dtype in ("float32", "bfloat16"):
        trainer = Trainer(make_config(model, learner={"dtype": dtype}), model, ranks)
        batch, _ = build_batch([make_group(3)], 0, trainer.config.learner)
        results.append(trainer.step(batch, 0))
        assert all(p.dtype == torch.float32 for p in trainer.policy.module.parameters())
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=0.05)
    assert results[1].entropy == pytest.approx(results[0].entropy, rel=0.01)


def test_models_that_our_head_would_get_wrong_are_refused(tmp_path: Path, model: Path, ranks: Ranks) -> None:
    learner = make_config(model).learner
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(tmp_path / "nothing", learner, ranks)
    soft = AutoModelForCausalLM.from_pretrained(model)
    soft.config.final_logit_softcapping = 30.0
    soft.save_pretrained(tmp_path / "soft")
    with pytest.raises(UserError, match="final_logit_softcapping"):
        load_policy(tmp_path / "soft", learner, ranks)


def test_ranks_must_match_the_configuration(model: Path) -> None:
    with pytest.raises(UserError, match="nproc-per-node 2"):
        Ranks(make_config(model, learner={"ranks": 2}).learner)


def write_examples(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_examples_end_with_the_end_token(tmp_path: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    path = write_examples(tmp_path / "c.jsonl", [{"prompt": "1 + 2 =", "response": "<think>1 + 2 = 3</think>"}])
    ((prompt, response),) = read_examples(path, tokenizer)
    assert tokenizer.decode(prompt) == "1 + 2 ="
    assert tokenizer.decode(response) == "<think>1 + 2 = 3</think><|end|>"
    with pytest.raises(UserError, match=r"c\.jsonl:1: needs text"):
        read_examples(write_examples(tmp_path / "c.jsonl", [{"prompt": 3}]), tokenizer)
    with pytest.raises(UserError, match="no examples"):
        read_examples(write_examples(tmp_path / "c.jsonl", []), tokenizer)


def test_the_order_of_examples_is_seeded_and_covers_all() -> None:
    order = EpochOrder([10], seed=3)
    epoch = [index for step in range(5) for index in order.places(2 * step, 2 * step + 2)]
    assert sorted(epoch) == list(range(10))
    again = order.places(10, 20)
    assert sorted(again) == list(range(10))
    assert again != epoch
    assert EpochOrder([10], seed=3).places(0, 2) == epoch[:2]
    assert EpochOrder([10], seed=4).places(0, 10) != epoch


def test_the_cold_start_learns_responses(model: Path, ranks: Ranks) -> None:
    trainer = Trainer(make_config(model), model, ranks)
    section = make_config(model, cold_start={"steps": 30, "batch_size": 4, "lr": 1e-2, "warmup_steps": 2}).cold_start
    losses: list[float] = []
    examples = [([i, 2, 3], [4, 5, 6]) for i in range(10)]
    figures = cold_start(trainer, examples, section, report=lambda step, loss, rate: losses.append(loss))
    assert len(losses) == figures.steps == 30
    assert losses[0] == pytest.approx(math.log(640), rel=0.1)
    assert losses[-1] < 0.5


def test_a_time_limit_ends_the_cold_start_with_a_low_rate(
    model: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner import sft

    clock = iter(range(10_000))
    monkeypatch.setattr(sft.time, "monotonic", lambda: float(next(clock)))
    rates: list[float] = []
    monkeypatch.setattr(Optimizer, "step", lambda self, rate, loss, *, where: rates.append(rate))
    values = {"steps": 1000, "batch_size": 2, "lr": 1.0, "warmup_steps": 0, "max_seconds": 40.0}
    section = make_config(model, cold_start=values).cold_start
    trainer = Trainer(make_config(model), model, ranks)
    figures = cold_start(trainer, [([1], [2])] * 4, section)
    assert figures.steps == len(rates) < 40
    assert not figures.stopped
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.12

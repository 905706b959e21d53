"""From groups to a batch: gate 3, masks, advantages, figures."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common import messages as m
from common.errors import RunFailure
from learner.batch import MAX_SOURCES, TakenGroup, build_batch, usable
from learner.packing import pack
from learner.step_log import step_record
from learner.trainer import StepFigures
from tests.learner_rig import make_config, make_group

_FIGURES = [field.name for field in fields_of(StepFigures)]


def test_mask_drops_only_the_tokens_past_the_bound() -> None:
    learner = make_config("m", learner={"max_staleness": 1}).learner
    group = make_group(versions=[[2, 3, 4], [4, 5], [1, 2], [3, 3]])
    assert usable(group, 5, learner)
    batch, figures = build_batch([group], 5, learner)
    assert batch.loss_mask_T.tolist() == [False, False, True, True, True, False, False, False, False]
    assert batch.num_tokens == 3
    assert figures.staleness == {0: 1, 1: 2}
    assert figures.num_stale_masked == 6
    assert not usable(group, 7, learner)  # nothing left to train on
    assert usable(group, 6, learner)  # one token


def test_drop_gives_back_and_pace_fails() -> None:
    fresh, stale = make_group(versions=[[4], [5], [4], [5]]), make_group(versions=[[5], [3, 5], [5], [5]])
    drop = make_config("m", learner={"max_staleness": 1, "staleness_policy": "drop"}).learner
    assert usable(fresh, 5, drop)
    assert not usable(stale, 5, drop)
    pace = make_config("m", learner={"max_staleness": 1, "staleness_policy": "pace"}).learner
    assert usable(fresh, 5, pace)
    with pytest.raises(RunFailure, match=r"train-0.*version 3.*version 5"):
        usable(stale, 5, pace)
    with pytest.raises(AssertionError, match="gate 3"):
        build_batch([stale], 5, drop)


def test_a_token_from_the_future_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="newer"):
        build_batch([make_group(versions=6)], 5, make_config("m").learner)


def test_truncated_completions_can_be_masked() -> None:
    groups = [make_group(0, versions=[[0, 0]] * 4), make_group(1, versions=[[0, 0]] * 4, finish="length")]
    batch, figures = build_batch(groups, 0, make_config("m").learner)
    assert batch.loss_mask_T.all()
    assert figures.clipped_ratio == 0.5
    masked, _ = build_batch(groups, 0, make_config("m", learner={"mask_truncated": True}).learner)
    assert masked.loss_mask_T.tolist() == [True] * 8 + [False] * 8
    assert len(masked.sequences) == 8  # they count in N


def test_figures_and_layout() -> None:
    groups = [make_group(0, rewards=[1, 0, 0, 1]), make_group(1, rewards=[0.25] * 4)]
    batch, figures = build_batch(groups, 0, make_config("m").learner)
    assert figures.reward == pytest.approx(0.375)
    assert figures.reward_std == pytest.approx(0.25)
    assert figures.frac_reward_zero_std == 0.5
    assert figures.rewards == {"accuracy": (pytest.approx(0.375), pytest.approx(np.std([1, 0, 0, 1] + [0.25] * 4)))}
    assert figures.outcomes == {"fail": 6, "pass": 2}
    assert batch.advantages_N.tolist() == pytest.approx([1, -1, -1, 1, 0, 0, 0, 0], abs=1e-5)
    packed = pack(batch.sequences, [5])
    first = sum(groups[0].lengths) + groups[1].lengths[0]
    expected = groups[1].token_ids_T[groups[1].lengths[0] :][: groups[1].lengths[1]]
    assert packed.targets_T.tolist() == expected.tolist()
    assert packed.completion_index_T[0] == first
    assert packed.token_ids_S[:5].tolist() == groups[1].prompt_ids.tolist()


def graded(number: int, rewards: list[dict[str, float | None]], lengths: list[int], **fields: Any) -> TakenGroup:
    """A group whose verdicts have these components, weighted 1."""
    verdicts = [
        m.Verdict(outcome="pass", reward=sum(v for v in own.values() if v is not None), rewards=own) for own in rewards
    ]
    group = make_group(number, rewards=[0.0] * len(rewards), versions=[[0] * length for length in lengths])
    return replace(group, header=group.header.model_copy(update={"verdicts": verdicts}), **fields)


def test_a_component_is_reported_over_the_rollouts_that_it_applies_to() -> None:
    first = graded(0, [{"accuracy": 1.0, "helpful": None}, {"accuracy": 0.0, "helpful": None}], [9, 7])
    second = graded(1, [{"accuracy": None, "helpful": 3.0}, {"accuracy": None, "helpful": 2.0}], [4, 2])
    _, figures = build_batch([first, second], 0, make_config("m").learner)
    assert figures.rewards == {"accuracy": (0.5, 0.5), "helpful": (2.5, 0.5)}
    assert figures.reward_lengths == {"accuracy": (8.0, pytest.approx(1.0)), "helpful": (3.0, pytest.approx(1.0))}
    assert figures.reward == pytest.approx(1.5)
    record = step_record(figures, SimpleNamespace(**dict.fromkeys(_FIGURES)))  # type: ignore[arg-type]
    assert record["rewards/helpful/mean"] == 2.5
    assert record["rewards/accuracy/mean_length"] == 8.0
    nowhere = graded(0, [{"helpful": None}, {"helpful": None}], [2, 3])
    _, figures = build_batch([nowhere], 0, make_config("m").learner)
    assert figures.rewards == {}


def test_the_correlation_with_length_is_pearsons_and_none_for_a_constant() -> None:
    values, lengths = [0.1, 0.9, 0.4, 0.3], [3, 8, 2, 5]
    _, figures = build_batch([graded(0, [{"a": v, "b": 1.0} for v in values], lengths)], 0, make_config("m").learner)
    x, y = np.array(values) - np.mean(values), np.array(lengths) - np.mean(lengths)
    assert figures.reward_lengths["a"][1] == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    assert figures.reward_lengths["b"][1] is None


def test_rewards_and_lengths_by_source() -> None:
    groups = [
        graded(0, [{"a": 1.0}, {"a": 0.0}], [4, 6], source="gsm8k"),
        graded(1, [{"a": 1.0}, {"a": 1.0}], [1, 1], source="mbpp"),
        graded(2, [{"a": 0.0}, {"a": 0.0}], [8, 2], source="gsm8k"),
        graded(3, [{"a": 7.0}, {"a": 7.0}], [9, 9]),  # its line names no source
    ]
    _, figures = build_batch(groups, 0, make_config("m").learner)
    assert figures.by_source == {"gsm8k": (0.25, 5.0), "mbpp": (1.0, 1.0)}
    record = step_record(figures, SimpleNamespace(**dict.fromkeys(_FIGURES)))  # type: ignore[arg-type]
    assert record["reward_by_source/gsm8k/mean"] == 0.25
    assert record["length_by_source/mbpp/mean"] == 1.0


def test_many_sources_end_in_one_called_other() -> None:
    groups = [graded(i, [{"a": float(i)}] * 2, [2, 2], source=f"s{i:02}") for i in range(MAX_SOURCES + 4)]
    _, figures = build_batch([*groups, graded(99, [{"a": 0.0}] * 2, [2, 2], source="s18")], 0, make_config("m").learner)
    assert len(figures.by_source) == MAX_SOURCES + 1
    assert figures.by_source["s18"] == (9.0, 2.0)  # the most frequent is kept
    assert figures.by_source["other"][0] == pytest.approx(np.mean([15, 16, 17, 19]))


def test_texts_are_cut_by_bytes() -> None:
    texts = ["é", "", "x<answer>1</answer>", "日本"]
    assert make_group(texts=texts).rollout_texts() == texts

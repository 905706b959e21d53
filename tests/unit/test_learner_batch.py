"""From groups to a batch: gate 3, masks, advantages, figures."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import RunFailure
from learner.batch import build_batch, usable
from learner.packing import pack
from tests.learner_rig import make_config, make_group


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


def test_texts_are_cut_by_bytes() -> None:
    texts = ["é", "", "x<answer>1</answer>", "日本"]
    assert make_group(texts=texts).rollout_texts() == texts

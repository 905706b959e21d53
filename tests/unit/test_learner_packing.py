"""Packing: every token once, budgets, balance, lockstep, and which position scores which token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.packing import Sequences, pack, plan_microbatches


@given(
    lengths=st.lists(st.integers(1, 50), min_size=0, max_size=60),
    budget=st.integers(1, 80),
    num_ranks=st.integers(1, 5),
)
def test_a_plan_holds_every_sequence_once_within_the_budget(lengths: list[int], budget: int, num_ranks: int) -> None:
    plan = plan_microbatches(lengths, budget, num_ranks)
    assert len(plan) == num_ranks
    assert len({len(part) for part in plan}) == 1
    assert len(plan[0]) >= 1
    bins = [bin for part in plan for bin in part]
    assert sorted(index for bin in bins for index in bin) == list(range(len(lengths)))
    for bin in bins:
        assert len(bin) == 1 or sum(lengths[index] for index in bin) <= budget
    # Near the fewest: two micro-batches that fit into one another, ranks apart, would be waste.
    fewest = -(-sum(lengths) // budget)
    assert len(bins) <= num_ranks * (-(-max(1, 2 * fewest + 1) // num_ranks) + sum(n > budget for n in lengths))
    assert plan == plan_microbatches(lengths, budget, num_ranks)


def test_tokens_are_balanced_over_ranks() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 256)
    plan = plan_microbatches(lengths, 4096, 4)
    loads = [sum(int(lengths[i]) for bin in part for i in bin) for part in plan]
    assert max(loads) < 1.03 * min(loads)
    assert len(plan[0]) == -(-int(lengths.sum()) // (4 * 4096))


def test_log_probabilities_come_from_the_position_before() -> None:
    batch = Sequences.of([([10, 11, 12], [13, 14]), ([20], [21, 22, 23]), ([30, 31], [32])])
    packed = pack(batch, [2, 0, 1])
    assert packed.token_ids_S.tolist() == [30, 31, 10, 11, 12, 13, 20, 21, 22]
    assert packed.positions_S.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2]
    assert packed.lengths == [2, 4, 3]
    assert packed.targets_T.tolist() == [32, 13, 14, 21, 22, 23]
    assert packed.token_ids_S[packed.predict_at_T].tolist() == [31, 12, 13, 20, 21, 22]
    assert packed.sequence_ids_T.tolist() == [0, 1, 1, 2, 2, 2]
    completions = torch.tensor([13, 14, 21, 22, 23, 32])  # all completion tokens of the batch in its own order
    assert completions[packed.completion_index_T].tolist() == packed.targets_T.tolist()


def test_an_empty_micro_batch_feeds_one_token_and_predicts_nothing() -> None:
    packed = pack(Sequences.of([([1], [2])]), [])
    assert packed.lengths == [1]
    assert packed.token_ids_S.tolist() == [0]
    assert packed.targets_T.numel() == packed.predict_at_T.numel() == 0


def test_sequences_need_a_prompt_and_a_completion() -> None:
    for pair in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="every sequence"):
            Sequences.of([pair])
    with pytest.raises(ValueError, match="add up"):
        Sequences(np.array([1]), np.array([1]), np.array([1, 2, 3]))

"""Packing: every token once, budgets, balance, lockstep, and which position scores which token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.packing import Sequences, pack, plan_batch, plan_microbatches


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


def test_a_group_feeds_its_prompt_once() -> None:
    batch = Sequences.of([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([1, 2, 3], [7, 8, 9]), ([1, 2], [10, 11])])
    packed = pack(batch, [0, 1, 2, 3])
    assert packed.token_ids_S.tolist() == [1, 2, 3, 4, 7, 8, 1, 2, 10]
    assert packed.positions_S.tolist() == [0, 1, 2, 3, 3, 4, 0, 1, 2]
    assert packed.lengths == [4, 3, 5, 3]
    assert packed.row_tokens_R is not None
    rows = packed.token_ids_S[packed.row_tokens_R].split(packed.lengths)
    assert [row.tolist() for row in rows] == [[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 7, 8], [1, 2, 10]]
    assert packed.token_ids_S[packed.predict_at_T].tolist() == [3, 4, 3, 3, 7, 8, 2, 10]
    assert packed.targets_T.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    alone = pack(batch, [1, 3])
    assert alone.row_tokens_R is None
    assert alone.token_ids_S.tolist() == [1, 2, 3, 1, 2, 10]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    budget=st.integers(20, 400),
    num_ranks=st.integers(1, 4),
)
def test_families_stay_together_as_far_as_they_fit(sizes: list[int], seed: int, budget: int, num_ranks: int) -> None:
    rng = np.random.default_rng(seed)
    pairs: list[tuple[list[int], list[int]]] = []
    for family, size in enumerate(sizes):
        prompt = [family] * int(rng.integers(1, 30))
        pairs += [(prompt, [7] * int(rng.integers(1, 30))) for _ in range(size)]
    batch = Sequences.of(pairs)
    chosen = [index for index in range(len(pairs)) if rng.random() < 0.8]
    plan = plan_batch(batch, budget, num_ranks, members=chosen)
    assert sorted(index for part in plan for bin in part for index in bin) == chosen
    assert len({len(part) for part in plan}) == 1
    total = 0
    for part in plan:
        for bin in part:
            fed = pack(batch, bin).token_ids_S.numel() if bin else 0
            total += fed
            assert fed <= budget or len(bin) == 1
    if num_ranks == 1 and budget >= 300:  # longer than any family: nothing is computed twice
        families = {int(batch.family_of_N[index]) for index in chosen}
        prompts = sum(len(pairs[list(batch.family_of_N).index(family)][0]) for family in families)
        assert total == prompts + sum(len(pairs[index][1]) - 1 for index in chosen)


def test_ranks_share_the_work_of_one_large_family() -> None:
    batch = Sequences.of([([1] * 10, [2] * 50)] * 16)
    plan = plan_batch(batch, 100_000, 4)
    loads = [sum(len(bin) for bin in part) for part in plan]
    assert max(loads) <= min(loads) + 2


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

"""What reward models read, how it is cut and batched, and that a score does not depend on its batch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.reward_model import (
    RewardModelFacts,
    batches,
    encode,
    judged_text,
    last_place,
    read_reward_model,
    write_reward_model,
)
from evaluator.scoring.model import RewardModel
from tests.reward_rig import make_reward_model

PROMPT = "User: how are you?\nAssistant:"
FULL = "<think>the user is polite</think><answer> Fine, thank you. </answer>"


@pytest.mark.parametrize(
    ("reads", "prompt", "completion", "expected"),
    [
        ("summary", PROMPT, FULL, (PROMPT + "\n", "Fine, thank you.")),
        ("response", PROMPT, FULL, (PROMPT, FULL)),
        ("summary", PROMPT, "<think>hm</think> Fine. ", (PROMPT + "\n", "Fine.")),
        ("summary", PROMPT, "no tags at all", (PROMPT + "\n", "no tags at all")),
        ("summary", PROMPT, "<think>never closed <answer>Fine</answer>", (PROMPT + "\n", "")),
        ("summary", PROMPT, "<think>hm</think><answer> </answer>", (PROMPT + "\n", "")),
        ("response", PROMPT, " \n", (PROMPT, "")),
        ("response", PROMPT + " <think>", "hm</think>Fine", (PROMPT + " ", "<think>hm</think>Fine")),
        ("summary", PROMPT + " <think>\n", "hm</think>Fine", (PROMPT + "\n", "Fine")),
    ],
)
def test_helpfulness_reads_the_summary_and_safety_the_whole_response(
    reads: Any, prompt: str, completion: str, expected: tuple[str, str]
) -> None:
    assert judged_text(reads, prompt, completion) == expected


class Letters:
    """A tokenizer with one token per character; ids are code points."""

    bos_token_id: int | None = None
    eos_token_id: int | None = 1
    pad_token_id: int | None = 0

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(c) for c in t] for t in text]}


def letters(tokenizer: Letters, question: str, judged: str, max_tokens: int) -> tuple[str, int]:
    (found,) = encode(tokenizer, [(question, judged)], max_tokens)
    assert len(found.ids) <= max_tokens
    return "".join({0: "_", 1: "$", 2: "^"}.get(i, chr(i)) for i in found.ids), found.num_cut


def test_tokens_are_framed_and_the_end_is_kept() -> None:
    tokenizer = Letters()
    assert letters(tokenizer, "question", "answer", 15) == ("questionanswer$", 0)
    assert letters(tokenizer, "question", "answer", 14) == ("uestionanswer$", 1)
    assert letters(tokenizer, "question", "a long answer", 9) == ("tionswer$", 13)
    assert letters(tokenizer, "q", "a long answer", 9) == ("q answer$", 6)
    tokenizer.bos_token_id = 2
    assert letters(tokenizer, "question", "answer", 20) == ("^questionanswer$", 0)
    assert letters(tokenizer, "\x02question", "answer", 20)[0] == "^questionanswer$"  # a chat template wrote it already
    tokenizer.pad_token_id = 1
    assert letters(tokenizer, "question", "answer", 20)[0] == "^questionanswer"  # $ would be taken for padding
    tokenizer.pad_token_id = None
    assert letters(tokenizer, "question", "answer", 20)[0] == "^questionanswer"
    assert encode(tokenizer, [], 20) == []


def test_a_sequence_is_scored_at_its_last_token_that_is_not_padding() -> None:
    assert [last_place(ids, 0) for ids in ([5, 6, 7], [5, 6, 0], [0, 0], [5, 0, 6])] == [2, 1, 0, 2]


def test_batches_hold_every_sequence_once_within_the_budget() -> None:
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
        budget = rng.randint(20, 120)
        found = list(batches(lengths, budget))
        assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in found)


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    facts = RewardModelFacts("safety", "response", 256, offset=-0.25, scale=2.0, floor=-3.0)
    assert read_reward_model(make_reward_model(tmp_path / "rm", facts)) == facts
    assert facts.served(1.75) == 1.0
    write_reward_model(tmp_path / "rm", RewardModelFacts("helpful", "summary", 64))
    assert read_reward_model(tmp_path / "rm") == RewardModelFacts("helpful", "summary", 64)


def test_served_score_is_transformers_own_whatever_the_batch(tmp_path: Path) -> None:
    facts = RewardModelFacts("helpful", "summary", 64, offset=0.5, scale=0.25)
    path = make_reward_model(tmp_path / "rm", facts)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    served = RewardModel(str(path), facts, "cpu", "float32")
    rng = random.Random(1)
    texts = [
        " ".join(rng.choices(["the", "sum", "of", "3", "and", "4", "is", "7"], k=rng.randint(1, 90))) for _ in range(24)
    ]
    encoded = served.encode(PROMPT, texts)
    ids = [found.ids for found in encoded if found is not None]
    assert max(map(len, ids)) == 64
    assert sum(found is not None and found.num_cut > 0 for found in encoded) > 3
    assert ids[0] == [*tokenizer(PROMPT + "\n")["input_ids"], *tokenizer(texts[0])["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        alone = [float(model(input_ids=torch.tensor([sequence])).logits[0, 0]) for sequence in ids]
    expected = [(value - 0.5) / 0.25 for value in alone]
    assert max(expected) - min(expected) > 0.5
    for size in (1, 3, 24):
        got = [score for first in range(0, 24, size) for score in served.score(ids[first : first + size])]
        assert got == pytest.approx(expected, abs=1e-5)


def test_only_a_floor_makes_an_empty_summary_worth_something(tmp_path: Path) -> None:
    path = make_reward_model(tmp_path / "rm", RewardModelFacts("helpful", "summary", 64))
    asked = RewardModel(str(path), RewardModelFacts("helpful", "summary", 64), "cpu", "float32")
    assert all(found is not None for found in asked.encode(PROMPT, ["<think>open", "fine"]))
    floored = RewardModel(str(path), RewardModelFacts("helpful", "summary", 64, floor=-2.5), "cpu", "float32")
    assert [found is None for found in floored.encode(PROMPT, ["<think>open", "fine"])] == [True, False]

"""Packing of vLLM's outputs, with stand-ins for its output classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actor.group import GenerationAborted, pack, sampled_logprobs


def flat(values: list[float]) -> Any:
    return SimpleNamespace(logprobs=values, start_indices=list(range(len(values))))


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: Any
    finish_reason: str = "stop"
    spans: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def weight_versions(self) -> list[Any]:
        return [SimpleNamespace(version=v, start=s, end=e) for v, s, e in self.spans]


def decode(ids: list[list[int]]) -> list[str]:
    return ["".join(chr(97 + i) for i in row) for row in ids]


def test_pack() -> None:
    group = pack(
        [
            Completion([0, 1, 25], flat([-0.5, 1e-7, -2.0]), spans=[("default", 0, 1), ("4", 1, 3)]),
            Completion([2, 3], flat([-1.0, -3.0]), "length", spans=[("4", 0, 2)]),
        ],
        decode,
        loaded_version=3,
    )
    assert group.token_ids.tolist() == [0, 1, 25, 2, 3], "the end-of-sequence token is trained on"
    assert group.logprobs.tolist() == [-0.5, 0.0, -2.0, -1.0, -3.0], "clamped"
    assert group.versions.tolist() == [3, 4, 4, 4, 4]
    assert group.texts == ["ab", "cd"], "only the end-of-sequence token of a stop is left out"
    assert (group.num_tokens, group.finish_reasons) == ([3, 2], ["stop", "length"])
    assert (group.token_ids.dtype, group.logprobs.dtype, group.versions.dtype) == (np.int32, np.float32, np.int32)
    assert [m.text_bytes for m in group.metas()] == [2, 2]
    assert group.frames()["texts"] == b"abcd"


@pytest.mark.parametrize("spans", [[], [("1", 0, 1)], [("1", 1, 2)], [("1", 0, 1), ("2", 2, 2)]])
def test_tokens_without_exactly_one_version_are_a_broken_invariant(spans: list[tuple[str, int, int]]) -> None:
    with pytest.raises(AssertionError, match="version"):
        pack([Completion([0, 1], flat([-1, -1]), spans=spans)], decode, loaded_version=0)


def test_missing_logprobs_are_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="1 log-probabilities for 2 tokens"):
        pack([Completion([0, 1], flat([-1]), spans=[("1", 0, 2)])], decode, loaded_version=0)


def test_several_logprobs_a_token() -> None:
    two_a_row = SimpleNamespace(logprobs=[-1.0, -0.1, -2.0, -0.2, -0.3], start_indices=[0, 2])
    assert sampled_logprobs(two_a_row, 2).tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_aborted_rollout_spoils_the_group(reason: Any) -> None:
    whole = Completion([0], flat([-1]), spans=[("1", 0, 1)])
    with pytest.raises(GenerationAborted, match="1 of 2"):
        pack([whole, Completion([0], flat([-1]), reason)], decode, loaded_version=0)

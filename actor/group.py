"""A generated group as packed arrays: what vLLM's outputs become, and what a SubmitGroup carries.

Free of vLLM and torch: `pack` reads the few attributes of vLLM's `CompletionOutput` that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from common.messages import RolloutMeta
from common.wire import Array

UNLABELLED = "default"
"""vLLM's label of weights that nobody has labelled: those read from the model directory."""

FinishReason = Literal["stop", "length"]


class GenerationAborted(Exception):
    """vLLM gave up rollouts of a group (an abort, or a retryable error inside the engine); there is no group."""


@dataclass(frozen=True)
class GeneratedGroup:
    """G rollouts, packed one after the other; T is the sum of their lengths.

    token_ids int32[T] (with the end-of-sequence token of rollouts that stopped), logprobs float32[T] (of the sampled
    token under the distribution sampled from; never above 0), versions int32[T] (policy version that sampled it).
    `texts` are decoded without that end-of-sequence token and with every other special token.
    """

    token_ids: Array
    logprobs: Array
    versions: Array
    num_tokens: list[int]
    texts: list[str]
    finish_reasons: list[FinishReason]

    def metas(self) -> list[RolloutMeta]:
        """Per-rollout part of the SubmitGroup header."""
        return [
            RolloutMeta(num_tokens=length, text_bytes=len(text.encode()), finish_reason=reason)
            for length, text, reason in zip(self.num_tokens, self.texts, self.finish_reasons, strict=True)
        ]

    def frames(self) -> dict[str, Array | bytes]:
        """Frames of the SubmitGroup."""
        return {
            "token_ids": self.token_ids,
            "logprobs": self.logprobs,
            "versions": self.versions,
            "texts": "".join(self.texts).encode(),
        }


def pack(
    completions: Sequence[Any],
    decode: Callable[[list[list[int]]], list[str]],
    *,
    loaded_version: int,
) -> GeneratedGroup:
    """Pack vLLM's finished completions (with `flat_logprobs`); GenerationAborted unless all ended by themselves.

    `loaded_version` is what vLLM's label "default" means. Tokens without exactly one version label are a broken
    invariant, not a guess.
    """
    aborted = [c.finish_reason for c in completions if c.finish_reason not in ("stop", "length")]
    if aborted:
        raise GenerationAborted(f"{len(aborted)} of {len(completions)} rollouts ended with {aborted[0]!r}")
    num_tokens = [len(c.token_ids) for c in completions]
    total = sum(num_tokens)
    token_ids = np.empty(total, np.int32)
    logprobs = np.empty(total, np.float32)
    versions = np.empty(total, np.int32)
    start = 0
    for completion, length in zip(completions, num_tokens, strict=True):
        rows = slice(start, start + length)
        token_ids[rows] = completion.token_ids
        logprobs[rows] = sampled_logprobs(completion.logprobs, length)
        _fill_versions(versions[rows], completion.weight_versions, loaded_version)
        start += length
    np.minimum(logprobs, 0.0, out=logprobs)  # rounding leaves values such as 1e-7
    contents = [list(c.token_ids[:-1] if c.finish_reason == "stop" else c.token_ids) for c in completions]
    return GeneratedGroup(
        token_ids=token_ids,
        logprobs=logprobs,
        versions=versions,
        num_tokens=num_tokens,
        texts=decode(contents),
        finish_reasons=[cast(FinishReason, c.finish_reason) for c in completions],
    )


def sampled_logprobs(flat: Any, length: int) -> Array:
    """float32[length] of the sampled tokens from vLLM's FlatLogprobs, whose rows begin with the sampled token."""
    values = np.asarray(flat.logprobs, np.float32)
    assert len(flat.start_indices) == length, f"{len(flat.start_indices)} log-probabilities for {length} tokens"
    if len(values) == length:
        return values
    return cast(Array, values[np.asarray(flat.start_indices)])


def _fill_versions(out: Array, spans: Sequence[Any] | None, loaded_version: int) -> None:
    """Write each span's version over its tokens; the spans must tile the rollout."""
    end = 0
    for span in spans or ():
        assert span.start == end, f"weight version spans leave a gap at token {end}: {spans}"
        out[span.start : span.end] = loaded_version if span.version == UNLABELLED else int(span.version)
        end = span.end
    assert end == len(out), f"weight versions cover {end} of {len(out)} tokens: {spans}"

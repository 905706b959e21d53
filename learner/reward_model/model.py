"""Owns the network of a reward model: a transformers sequence classifier with one label, sharded with FSDP2.

It begins as a causal language model whose head is replaced by one row of zeros, so that the first loss is log 2 and no
seed is in it. Sequences are packed side by side (learner/attention.py) and scored at their last token. What the two
sequences of a pair begin with, their prompt, is fed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging

from common.config import TrainingSection
from common.errors import UserError
from common.reward_model import last_place
from learner import attention
from learner.attention import PackedLayout
from learner.model import Policy, shard
from learner.ranks import Ranks
from learner.reward_model.store import Ints

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Classifier(Policy):
    """A sequence classifier with one label. `pad`: the id that batches of the artefact are padded with."""

    def __init__(self, module: Any, vocab_size: int, pad: int) -> None:
        super().__init__(module, vocab_size)
        self.pad = pad

    def scores(self, sequences: Sequence[Ints], device: torch.device, *, share: bool = False) -> Tensor:
        """Raw scores float32[N], with gradients; `share`: sequences 2i and 2i + 1 begin alike, and that is fed once.

        Without sequences, the score of one token, for FSDP's sake: leave it out.
        """
        sequences = list(sequences) or [np.zeros(1, np.int64)]
        tokens, positions, rows, ends = [], [], [], []
        start = num_fed = 0
        for index, sequence in enumerate(sequences):
            common = _common(sequences[index - 1], sequence) if share and index % 2 else 0
            row = np.concatenate(
                [np.arange(start, start + common), np.arange(num_fed, num_fed + len(sequence) - common)]
            )
            start = num_fed
            num_fed += len(sequence) - common
            tokens.append(sequence[common:])
            positions.append(np.arange(common, len(sequence)))
            rows.append(row)
            ends.append(int(row[last_place(sequence.tolist(), self.pad)]))

        def tensor(parts: list[Ints]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        lengths = [len(row) for row in rows]
        shared = torch.from_numpy(np.concatenate(rows)) if sum(lengths) > num_fed else None
        layout = PackedLayout.of(lengths, device, shared)
        scores: Tensor = self.module(tensor(tokens), tensor(positions), layout, torch.tensor(ends).to(device))
        return scores


def _common(first: Ints, second: Ints) -> int:
    """How many tokens two sequences begin with alike."""
    num = min(len(first), len(second))
    different = np.flatnonzero(first[:num] != second[:num])
    return int(different[0]) if len(different) else num


def load_classifier(source: str | Path, config: TrainingSection, ranks: Ranks, pad: int) -> Classifier:
    """Load a causal language model, or a reward model to go on from, and shard it. UserError when it is neither."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the new head, at length, which is what was asked for
    try:
        architectures = AutoConfig.from_pretrained(source).architectures or []
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, attn_implementation=attention.NAME, num_labels=1
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {str(source)!r} cannot be made a reward model: {reason}") from None
    finally:
        logging.set_verbosity(verbosity)
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise UserError(f"model {str(source)!r} ({type(model).__name__}): a head called score without bias is needed")
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        torch.nn.init.zeros_(head.weight)
    text = model.config.get_text_config()
    text.pad_token_id = model.config.pad_token_id = pad
    model.to(ranks.device)
    model.train()
    model.requires_grad_(True)
    if config.recompute:
        model.gradient_checkpointing_enable()
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    model.forward = MethodType(_forward, model)
    shard(model, _DTYPES[config.dtype], ranks)
    return Classifier(model, vocab_size, pad)


def _forward(model: Any, tokens_S: Tensor, positions_S: Tensor, layout: PackedLayout, ends_N: Tensor) -> Tensor:
    output = model.base_model(input_ids=tokens_S[None], position_ids=positions_S[None], use_cache=False, packed=layout)
    hidden_N = output.last_hidden_state[0].index_select(0, ends_N)
    return torch.mv(hidden_N.float(), model.score.weight.float()[0])  # bfloat16 would round differences away

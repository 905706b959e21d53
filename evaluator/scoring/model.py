"""A reward model loaded with transformers, scoring padded batches. The only module of this room that imports torch."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from common.reward_model import Encoded, RewardModelFacts, encode, judged_text, padding

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def use_device(device: str) -> None:
    """One thread on CPUs: the evaluator's workers need the other cores. RuntimeError when there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("evaluator.reward_model_device is cuda, but PyTorch finds no CUDA device")
    torch.set_num_threads(1)
    logging.disable_progress_bar()


class RewardModel:
    """A sequence classifier with one label. Padding is on the right and masked: no score depends on its batch."""

    def __init__(self, path: str, facts: RewardModelFacts, device: str, dtype: str) -> None:
        directory = Path(path).expanduser()
        self.facts, self.device = facts, torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=_DTYPES[dtype])
        self.model.to(self.device).eval()
        text = self.model.config.get_text_config()
        if text.pad_token_id is None:
            text.pad_token_id = padding(self.tokenizer)
        self.pad = int(text.pad_token_id)

    def encode(self, prompt: str, texts: list[str]) -> list[Encoded | None]:
        """Tokens of each text; None where there is nothing to read and `floor` says what that is worth."""
        pairs = [judged_text(self.facts.reads, prompt, text) for text in texts]
        encoded = encode(self.tokenizer, pairs, self.facts.max_tokens)
        return [
            None if not judged and self.facts.floor is not None else found
            for (_, judged), found in zip(pairs, encoded, strict=True)
        ]

    @torch.inference_mode()
    def score(self, ids: list[list[int]]) -> list[float | None]:
        """Served scores of sequences; None for one that is not finite."""
        longest = max(len(sequence) for sequence in ids)
        tokens = torch.tensor([[*sequence, *[self.pad] * (longest - len(sequence))] for sequence in ids])
        mask = torch.tensor([[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in ids])
        output = self.model(input_ids=tokens.to(self.device), attention_mask=mask.to(self.device), use_cache=False)
        raw = output.logits[:, 0].float().tolist()
        return [self.facts.served(value) if math.isfinite(value) else None for value in raw]

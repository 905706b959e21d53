"""A tiny random model with a tokenizer, for tests of the actor."""

from __future__ import annotations

import json
from pathlib import Path

VOCAB = 300
EOS = 299


def make_model(path: Path, *, tied: bool = False, seed: int = 0) -> None:
    """A random Qwen3 with a word-level tokenizer: token i is the word `t<i>`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=EOS,
        initializer_range=0.3,  # far from uniform, so that temperature shows
    )
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(path)
    words = {f"t{i}": i for i in range(EOS)} | {"<eos>": EOS}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))

"""Owns the small world's models: one tokenizer, two sizes of a random-weight Qwen3, each a Hugging Face directory.

Both sizes share the tokenizer, so that the base model's samples teach the student as they are. The tokenizer has a
chat template of two tokens; data for training are rendered by `render_chat` to the same text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.small_world.vocabulary import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Size = Literal["base", "student"]

USER, ASSISTANT = "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{- '" + ASSISTANT + "' + message['content'] + eos_token -}}"
    "{%- else -%}{{- '" + USER + "' + message['content'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "' -}}{%- endif -%}"
)

# head_dim 32: the smallest that vLLM's attention on CPUs takes.
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 128, "intermediate_size": 384, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2},
    "student": {"hidden_size": 64, "intermediate_size": 192, "num_layers": 4, "num_heads": 2, "num_kv_heads": 1},
}
HEAD_DIM = 32
CONTEXT = 1024


def create_small_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both sizes: bytes, numbers, and each phrase of the small world as one token."""
    from recipes.tiny_model import create_tokenizer

    return create_tokenizer([USER, ASSISTANT, *tokens()], chat_template=CHAT_TEMPLATE)


def create_small_model(path: Path, *, size: Size = "base", seed: int = 0) -> Path:
    """Write a random model of the `size` into the directory `path`, and return `path`. Same seed, same weights."""
    from recipes.tiny_model import create_tiny_model

    return create_tiny_model(
        path,
        seed=seed,
        head_dim=HEAD_DIM,
        max_positions=CONTEXT,
        tokenizer=create_small_tokenizer(),
        **SHAPES[size],
    )


def render_chat(prompt: str) -> str:
    """What the chat template makes of one user message: the text that the model continues."""
    return f"{USER}{prompt}{ASSISTANT}"

"""Owns what must be known of a model before anything starts: its files, context, vocabulary and tokenizer.

Reads JSON and tokenizer.json only: no torch, so that a mistake in `model` shows within a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, ZeroqError
from recipes.conversations import ChatFacts, Messages, probe

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]


class HubUnreachable(ZeroqError):
    """A name that can only be looked up at the Hugging Face hub, which did not answer."""


@dataclass(frozen=True)
class ModelFacts:
    """A model's sizes. `context`: longest sequence in tokens, None when its configuration names none."""

    path: Path
    vocab_size: int
    context: int | None


def locate_model(name: str, *, weights: bool = True) -> Path:
    """Directory of the model `name`: a local directory, or the hub's snapshot of it.

    With `weights` a hub model is fetched whole; without, its small files only. Raises UserError for what is no model,
    HubUnreachable when only the hub could tell.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        _need(path, "config.json", "a Hugging Face model directory has one")
        if weights and not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
            raise UserError(f"model {path}: no *.safetensors there; save the model with save_pretrained()")
        return path
    if path.exists():
        raise UserError(f"model {path}: is a file; give the directory that holds config.json")
    if not is_hub_name(name):
        raise UserError(f"model {name}: no such directory; give a Hugging Face directory, a hub name, or 'tiny'")
    return _fetch(name, weights)


def is_hub_name(name: str) -> bool:
    """Whether `name` can be a hub name such as Qwen/Qwen2.5-1.5B; a path into an existing folder cannot."""
    return bool(_HUB_NAME.match(name)) and not ("/" in name and Path(name.split("/", maxsplit=1)[0]).is_dir())


def _fetch(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [*_SMALL_FILES, "*.safetensors"] if weights else _SMALL_FILES
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=10))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"model {name}: no such directory here and no such model at the hub ({_first(error)})"
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise HubUnreachable(
            f"model {name}: no such directory here, not in the hub's cache, and the hub is not reachable "
            f"({_first(error)})"
        ) from None


def _first(error: Exception) -> str:
    """First line of an error: one line is what a person gets to read."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]


def read_model_facts(path: Path) -> ModelFacts:
    """Sizes from `path`/config.json. UserError when it is unreadable or names no vocabulary."""
    config = _read_json(path / "config.json")
    for section in (config.get("text_config"), config):
        if isinstance(section, dict) and isinstance(section.get("vocab_size"), int):
            context = section.get("max_position_embeddings", section.get("n_positions"))
            return ModelFacts(path, section["vocab_size"], context if isinstance(context, int) else None)
    raise UserError(f"{path / 'config.json'}: no vocab_size; is this a language model's configuration?")


class PromptTokenizer:
    """The tokenizer as preparation needs it: ids of texts, the end-of-sequence id, the chat template.

    Uses `tokenizers` on tokenizer.json; only a model without that file, or `chat`, pays for importing transformers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fast: Any = None
        self._auto: Any = None
        if (path / "tokenizer.json").exists():
            from tokenizers import Tokenizer

            try:
                self._fast = Tokenizer.from_file(str(path / "tokenizer.json"))
            except Exception as error:  # the Rust library raises plain Exception
                raise UserError(f"{path / 'tokenizer.json'}: not a tokenizer: {_first(error)}") from None
            self._fast.no_padding()
            self._fast.no_truncation()
            self.eos_id = self._find_eos()
        else:
            self.eos_id = self._transformers().eos_token_id
        if self.eos_id is None:
            raise UserError(
                f"{path}: the tokenizer has no end-of-sequence token; name one as eos_token in tokenizer_config.json"
            )

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Token ids of each text; `special` adds what the tokenizer puts around a sequence (BOS)."""
        if self._fast is not None:
            return [e.ids for e in self._fast.encode_batch(list(texts), add_special_tokens=special)]
        return [list(ids) for ids in self._transformers()(list(texts), add_special_tokens=special)["input_ids"]]

    def chat(self, prompt: str | Messages) -> str:
        """`prompt` (text: the user's message) in the tokenizer's chat template, up to where the assistant speaks."""
        return self.render([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, True)

    def render(self, messages: Messages, open_turn: bool) -> str:
        """Messages in the chat template; `open_turn`: up to where the assistant speaks next. UserError when there is no
        template, or it refuses these messages (many take no system turn, or want turns to alternate)."""
        tokenizer = self._transformers()
        if not tokenizer.chat_template:
            raise UserError(f"{self.path}: the tokenizer has no chat template; set data.template=r1_zero or bare")
        from jinja2 import TemplateError

        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise UserError(
                f"{self.path}: the chat template refuses turns of {roles}: {_first(error)}; change these turns"
            ) from None

    def chat_facts(self) -> ChatFacts:
        """What the chat template does to reasoning and system turns (recipes/conversations.py)."""
        return probe(self.render)

    def _find_eos(self) -> int | None:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if not (self.path / name).exists():
                continue
            token = _read_json(self.path / name).get("eos_token")
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found: int | None = self._fast.token_to_id(text)
                if found is None:
                    raise UserError(f"{self.path / name}: eos_token {text!r} is not in the vocabulary")
                return found
        return None

    def _transformers(self) -> Any:
        if self._auto is None:
            from transformers import AutoTokenizer

            try:
                self._auto = AutoTokenizer.from_pretrained(self.path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}: no tokenizer that transformers can load: {_first(error)}") from None
        return self._auto


def _need(path: Path, name: str, remark: str) -> None:
    if not (path / name).is_file():
        raise UserError(f"model {path}: no {name} there; {remark}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {_first(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value

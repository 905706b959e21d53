"""Owns what it takes to put one model's weights into the engine of another: whether they fit, and their tensors.

An engine keeps the configuration, the vocabulary and the end-of-sequence tokens of the model that it started with; with
weights of another shape it would fail half-way, and with another tokenizer sample nonsense in silence. So everything
that can differ is compared first, from small files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from recipes.model_files import PromptTokenizer

if TYPE_CHECKING:
    from torch import Tensor

# Keys of a configuration that change nothing about what an engine computes with given weights.
_IRRELEVANT = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "attention_dropout",
        "bos_token_id",  # prompts come as ids
        "dtype",  # actors cast to actor.dtype
        "eos_token_id",  # see _stops
        "hidden_dropout",
        "initializer_range",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_STATE_OF_USE = ("padding", "truncation")  # of tokenizer.json: what its last user had set


def difference(base: Path, other: Path) -> str | None:
    """Why weights of `other` do not fit an engine that was started with `base`, in one line; None when they do."""
    ours, theirs = _configuration(base), _configuration(other)
    keys = sorted((ours.keys() | theirs.keys()) - _IRRELEVANT)
    different = [key for key in keys if ours.get(key) != theirs.get(key)]
    if different:
        nested = {key for key in different if isinstance(ours.get(key, theirs.get(key)), list | dict)}
        key = next((key for key in different if key not in nested), different[0])  # numbers say it best
        return f"config.json: {key} is {_short(theirs.get(key))} there and {_short(ours.get(key))} here"
    for name in _TOKENIZER_FILES:
        if _tokenizer_digest(base / name) != _tokenizer_digest(other / name):
            return f"{name} differs"
    stops = [_stops(path) for path in (base, other)]
    if stops[0] != stops[1]:
        return f"its sequences end with token {_listed(stops[1])} there and {_listed(stops[0])} here"
    return None


def check_same_engine(base: Path, other: Path) -> None:
    """UserError naming both models and what differs, unless `other`'s weights fit the engine of `base`."""
    why = difference(base, other)
    if why is not None:
        raise UserError(
            f"model {other} does not fit the engine of {base}: {why}; models that share an engine need the same "
            "architecture and tokenizer: evaluate this one in a command of its own"
        )


def checkpoint_tensors(model: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every weight in the directory, sorted by name, one at a time in memory.

    UserError for a file that cannot be read or a shard that is missing.
    """
    files = _weight_files(model)
    if files and files[0].suffix == ".bin":
        yield from _pickled(files)
        return
    from safetensors import SafetensorError, safe_open

    try:
        places: dict[str, Path] = {}
        for file in files:
            with safe_open(file, framework="pt") as archive:
                places |= dict.fromkeys(archive.keys(), file)
        opened: dict[Path, Any] = {file: safe_open(file, framework="pt") for file in files}
        for name in sorted(places):
            tensor = opened[places[name]].get_tensor(name)
            if tensor.is_floating_point():
                yield name, tensor
    except (SafetensorError, OSError) as error:
        raise UserError(f"model {model}: its weights cannot be read: {error}") from None


def _weight_files(model: Path) -> list[Path]:
    for index, pattern in (
        ("model.safetensors.index.json", "*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ):
        if (model / index).is_file():
            files = sorted({model / str(name) for name in _json(model / index).get("weight_map", {}).values()})
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"model {model}: {missing[0]}, which {index} names, is missing")
            return files
        if files := sorted(model.glob(pattern)):
            return files
    raise UserError(f"model {model}: no *.safetensors there; save the model with save_pretrained()")


def _pickled(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    import torch

    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None
    for name in sorted(tensors):
        if tensors[name].is_floating_point():
            yield name, tensors[name]


def _tokenizer_digest(path: Path) -> str | None:
    """Digest of what a tokenizer file says; None when there is none."""
    if not path.is_file():
        return None
    if path.name == "tokenizer.json":
        content = {key: value for key, value in _json(path).items() if key not in _STATE_OF_USE}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _configuration(model: Path) -> dict[str, Any]:
    """config.json as transformers understands it: keys renamed or left out by older versions are like the newest."""
    raw = _json(model / "config.json")
    from transformers import AutoConfig

    try:
        read: dict[str, Any] = AutoConfig.from_pretrained(model).to_dict()
    except (ValueError, KeyError, OSError, TypeError):  # an architecture that only vLLM knows
        return raw
    return read


def _stops(model: Path) -> set[int]:
    """Every token at which vLLM ends a sequence of this model."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        value = _json(model / name).get("eos_token_id")
        found |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    eos_id = PromptTokenizer(model).eos_id
    return found | ({eos_id} if isinstance(eos_id, int) else set())


def _listed(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""What launcher and recipe tests start from: a tokenizer-only model directory and a small configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from common.config import RunConfig, load_config


def make_model_directory(path: Path, *, context: int = 64, eos: str | None = "<end>") -> Path:
    """A directory that passes for a model: one token per character of ASCII, no real weights."""
    path.mkdir(parents=True)
    vocabulary = {chr(i): i for i in range(128)} | {"<end>": 128}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos} if eos else {}))
    (path / "config.json").write_text(json.dumps({"vocab_size": 129, "max_position_embeddings": context}))
    (path / "model.safetensors").write_bytes(b"")
    return path


def write_problems(path: Path, count: int, **extra: Any) -> Path:
    """A JSON-lines file of `count` problems with solutions."""
    rows = (
        {"id": f"p/{i}", "prompt": f"{i} + 1?", "answer": str(i + 1), "solution": f"{i} and one"} | extra
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(folder: Path, **changes: Any) -> Path:
    """CPU configuration in `folder`, with its own model and 20 problems; `changes` replace top-level keys."""
    model = folder / "model"
    if not model.exists():
        make_model_directory(model)
        write_problems(folder / "problems.jsonl", 20)
    tree: dict[str, Any] = {
        "model": str(model),
        "run": {"dir": str(folder / "runs")},
        "data": {"train": str(folder / "problems.jsonl"), "eval_size": 5, "template": "bare"},
        "rollout": {"group_size": 2, "max_tokens": 16},
        "learner": {"device": "cpu", "max_steps": 3, "groups_per_step": 2},
        "actor": {"device": "cpu"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


def make_config(folder: Path, *overrides: str) -> RunConfig:
    """The configuration above with overrides."""
    return load_config(write_config(folder), list(overrides))

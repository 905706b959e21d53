"""Small reward models for tests (random weights, or weights that make every score NaN), and how to train one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from common.cli import Process
from common.job_config import RewardModelConfig
from common.lifecycle import RunPaths, StopFlag
from common.reward_model import RewardModelFacts, write_reward_model
from learner.reward_model.loop import run
from recipes.tiny_model import create_tiny_model, create_tokenizer


def make_reward_model(path: Path, facts: RewardModelFacts, *, seed: int = 0, broken: bool = False) -> Path:
    """Write a reward model of 2 layers and 32 channels into `path`; `broken`: its scores are NaN."""
    tokenizer = create_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen3ForSequenceClassification(config)
        with torch.no_grad():
            model.score.weight.normal_()
            if broken:
                model.score.weight.fill_(float("nan"))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    write_reward_model(path, facts)
    return path


_WORDS = ("we", "add", "two", "numbers", "now", "then", "so", "the", "first", "second", "total", "is")


def preferences(kind: str, num: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Synthetic rows that a tiny model learns at once: good responses thank, bad ones hold the word never.

    Lengths say nothing. In safety data the word stands in the reasoning, so that a summary alone does not show it.
    """
    rng = random.Random(seed)

    def words(extra: str | None) -> str:
        chosen = rng.choices(_WORDS, k=rng.randint(3, 14))
        if extra is not None:
            chosen.insert(rng.randrange(len(chosen)), extra)
        return " ".join(chosen)

    def response(good: bool) -> str:
        word = "thank" if good else "never"
        think, answer = (None, word) if kind == "helpful" else (word, None)
        return f"<think>{words(think)}</think><answer>{words(answer)}</answer>"

    rows = []
    for number in range(num):
        row: dict[str, Any] = {
            "id": f"{kind}/{number}",
            "prompt": f"User: {seed} {number}\nAssistant:",
            "source": "test",
        }
        if kind == "helpful":
            rows.append({**row, "chosen": response(True), "rejected": response(False), "margin": 1.0})
        else:
            safe = rng.random() < 0.5  # the number in the prompt must not tell
            rows.append({**row, "response": response(safe), "label": int(safe)})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as Parquet or JSON lines, by the path's suffix."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_base(path: Path) -> Path:
    """A causal language model of 2 layers and 64 channels with random weights."""
    return create_tiny_model(
        path, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32
    )


def make_job(model: Path, kind: str, data: Path, **settings: Any) -> RewardModelConfig:
    """A configuration for CPUs. `settings` go to the section reward_model, but for `learner` and `resume`."""
    learner = {"device": "cpu", "dtype": "float32", "num_threads": 1, **settings.pop("learner", {})}
    resume = settings.pop("resume", "never")
    section = {"kind": kind, "data": str(data), "batch_size": 16, "lr": 2e-3, "max_tokens": 128, **settings}
    return RewardModelConfig.model_validate(
        {"model": str(model), "resume": resume, "learner": learner, "reward_model": section}
    )


def run_job(directory: Path, config: RewardModelConfig) -> dict[str, Any]:
    """Run a job in this process; returns its summary."""
    directory.mkdir(exist_ok=True)
    run(Process(config, RunPaths(directory), "learner", StopFlag()))
    summary: dict[str, Any] = json.loads((directory / "learner_summary.json").read_text())
    return summary

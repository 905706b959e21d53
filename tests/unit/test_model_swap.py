"""Which models fit one engine: everything that an engine keeps from its first model is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from launcher.model_swap import check_same_engine, checkpoint_tensors, difference
from tests.unit.launcher_inputs import make_model_directory


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [make_model_directory(tmp_path / name) for name in ("base", "other")]


def test_models_that_differ_in_nothing_that_matters_fit(models: list[Path]) -> None:
    base, other = models
    edit(other / "config.json", transformers_version="9", dtype="bfloat16", _name_or_path="x", use_cache=False)
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "?"}
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    edit(other / "tokenizer.json", padding=padding, truncation=truncation)
    (other / "README.md").write_text("trained")
    assert difference(base, other) is None
    check_same_engine(base, other)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"vocab_size": 200}, "config.json: vocab_size is 200 there and 129 here"),
        ("config.json", {"num_hidden_layers": 3}, "config.json: num_hidden_layers is 3 there and None here"),
        ("config.json", {"architectures": ["Other"]}, "config.json: architectures is"),
        ("config.json", {"layers": ["a"], "rope_theta": 1e6}, "config.json: rope_theta is"),
        ("config.json", {"eos_token_id": 5}, "its sequences end with token 5, 128 there and 128 here"),
        ("generation_config.json", {"eos_token_id": [7, 128]}, "its sequences end with token 7, 128 there"),
        ("tokenizer_config.json", {"eos_token": "a"}, "its sequences end with token 97 there and 128 here"),
        ("tokenizer.json", {"version": "2.0"}, "tokenizer.json differs"),
        ("merges.txt", {}, "merges.txt differs"),
    ],
)
def test_what_differs_is_named(models: list[Path], file: str, changes: dict[str, Any], said: str) -> None:
    base, other = models
    edit(other / file, **changes)
    why = difference(base, other)
    assert why is not None
    assert said in why
    with pytest.raises(UserError, match=f"model {other} does not fit the engine of {base}: "):
        check_same_engine(base, other)


def test_configurations_are_compared_as_transformers_reads_them(models: list[Path]) -> None:
    """An older transformers left keys out that a newer one writes."""
    base, other = models
    sizes = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    for model in models:
        edit(model / "config.json", **sizes, intermediate_size=64, num_key_value_heads=1)
    edit(other / "config.json", hidden_act="silu", layer_types=["full_attention"] * 2)
    assert difference(base, other) is None
    edit(other / "config.json", hidden_act="gelu")
    assert "hidden_act is 'gelu' there" in str(difference(base, other))


def test_tensors_come_sorted_from_all_shards_without_what_is_no_weight(tmp_path: Path) -> None:
    shards = {"b.safetensors": {"z": torch.ones(2), "a": torch.zeros(3)}, "c.safetensors": {"m": torch.arange(2)}}
    for name, tensors in shards.items():
        save_file(tensors, tmp_path / name)
    assert [(name, tensor.tolist()) for name, tensor in checkpoint_tensors(tmp_path)] == [
        ("a", [0.0, 0.0, 0.0]),
        ("z", [1.0, 1.0]),
    ]


def test_a_pickled_checkpoint_is_read_as_data_only(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert [name for name, _ in checkpoint_tensors(tmp_path)] == ["w"]


def test_a_missing_shard_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*\.safetensors there"):
        list(checkpoint_tensors(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="its weights cannot be read"):
        list(checkpoint_tensors(tmp_path))
    index = {"weight_map": {"w": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        UserError, match=r"model-2\.safetensors, which model\.safetensors\.index\.json names, is missing"
    ):
        list(checkpoint_tensors(tmp_path))

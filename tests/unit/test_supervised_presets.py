"""The presets carry the published figures (arXiv 2501.12948; RECIPE's table), each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.job_config import SftConfig, load_sft_config

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
DISTILLED = {
    "1.5b": ("Qwen/Qwen2.5-Math-1.5B", 1e-4),
    "7b": ("Qwen/Qwen2.5-Math-7B", 8e-5),
    "8b": ("meta-llama/Llama-3.1-8B", 5e-5),
    "14b": ("Qwen/Qwen2.5-14B", 7e-5),
    "32b": ("Qwen/Qwen2.5-32B", 6e-5),
    "70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5),
}


def load(name: str) -> SftConfig:
    return load_sft_config(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(("name", "epochs"), [("sft_r1", 2), ("sft_cold_start", 3)])
def test_r1_stages(name: str, epochs: int) -> None:
    sft = load(name).sft
    assert (sft.epochs, sft.max_steps, sft.batch_size, sft.max_tokens) == (epochs, None, 128, 32_768)
    assert sft.lr == 5e-5
    assert sft.lr * sft.lr_final_ratio == pytest.approx(5e-6)


@pytest.mark.parametrize("size", DISTILLED)
def test_distillation(size: str) -> None:
    config = load(f"distill_{size}")
    sft = config.sft
    assert (config.model, sft.lr) == DISTILLED[size]
    assert (sft.batch_size, sft.lr_final_ratio, sft.max_tokens) == (64, 0.1, 32_768)
    assert sft.epochs is not None
    assert 2 <= sft.epochs <= 3


def test_there_is_a_preset_for_each_size_and_every_published_value_names_its_source() -> None:
    names = sorted(path.stem for path in CONFIGS.glob("distill_*.yaml"))
    assert names == sorted(f"distill_{size}" for size in DISTILLED)
    for name in [*names, "sft_r1", "sft_cold_start"]:
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert "arXiv 2501.12948" in text
        for key in ("epochs", "batch_size", "lr", "lr_final_ratio", "max_tokens"):
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            assert "# [R1]" in line, f"{name}: {line}"

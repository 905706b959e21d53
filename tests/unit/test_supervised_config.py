"""Configurations of fine-tuning jobs: what they take, and the one line that a mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config_file import dump_config
from common.errors import UserError
from common.job_config import SftConfig, load_sft_config


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "job.yaml", "model: m\nsft: {data: a.parquet, max_steps: 10}\n")


def test_data_may_be_a_path_a_list_or_mappings(file: Path) -> None:
    assert [f.path for f in load_sft_config(file).sft.data] == ["a.parquet"]
    sft = load_sft_config(file, ["sft.data=[a.parquet, {path: b.jsonl, weight: 0.5, limit: 7}]"]).sft
    assert [(f.path, f.weight, f.limit) for f in sft.data] == [("a.parquet", 1.0, None), ("b.jsonl", 0.5, 7)]


def test_what_is_dumped_is_read_back_equal(file: Path, tmp_path: Path) -> None:
    config = load_sft_config(file, ["sft.data=[{path: b.jsonl, weight: 2}]", "sft.epochs=1.5", "learner.ranks=2"])
    dump_config(config, tmp_path / "copy.yaml")
    assert load_sft_config(tmp_path / "copy.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lr=1e-4", "unknown key learner.lr"),
        ("sft.batchsize=3", "did you mean sft.batch_size"),
        ("sft.data=[]", "sft.data"),
        ("sft.data=[{path: a.parquet, wieght: 2}]", "sft.data.0.wieght"),
        ("sft.data=[{path: a.parquet, weight: 0}]", "sft.data.0.weight = 0"),
        ("sft.lr=0", "sft.lr = 0"),
        ("sft.epochs=.nan", "sft.epochs"),
    ],
)
def test_a_mistake_is_one_line_with_key_and_override(file: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_sft_config(file, [override])
    assert message in str(caught.value)
    assert override in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_end_and_known_sections_are_needed(file: Path) -> None:
    with pytest.raises(UserError, match=r"sft: nothing says when to stop; set sft\.epochs or sft\.max_steps"):
        load_sft_config(file, ["sft.max_steps=null"])
    with pytest.raises(UserError, match=r"unknown key data\.train; known keys here: .*learner.*sft"):
        load_sft_config(file, ["data.train=x"])


def test_two_ways_to_say_the_warm_up_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="warmup_ratio and warmup_steps"):
        load_sft_config(file, ["sft.warmup_ratio=0.1", "sft.warmup_steps=3"])


@pytest.mark.parametrize(("settings", "steps"), [([], 0), (["sft.warmup_ratio=0.03"], 3), (["sft.warmup_steps=7"], 7)])
def test_warm_up(file: Path, settings: list[str], steps: int) -> None:
    assert isinstance(load_sft_config(file), SftConfig)
    assert load_sft_config(file, settings).sft.warmup(100) == steps

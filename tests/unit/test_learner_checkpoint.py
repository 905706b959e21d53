"""Checkpoints: complete or not there at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from common.errors import RunFailure, UserError
from learner import checkpoint
from learner.batch import build_batch
from learner.checkpoint import CheckpointStore, TrainingState, restore, verify
from learner.ranks import Ranks
from learner.trainer import Trainer
from tests.learner_rig import make_config, make_group, tiny_model, whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trainer(model: Path) -> Iterator[Trainer]:
    config = make_config(model)
    with Ranks(config.learner) as ranks:
        yield Trainer(config, model, ranks)


def train(trainer: Trainer, step: int) -> None:
    trainer.step(build_batch([make_group(step)], 0, trainer.config.learner)[0], step)


def test_saved_and_restored_is_the_same(tmp_path: Path, model: Path, trainer: Trainer) -> None:
    train(trainer, 0)
    state = TrainingState(step=1, version=1, cursor=7, outstanding=[3, 5], counters={"tokens": 9.0})
    path = CheckpointStore(tmp_path, keep=2).save(trainer, state, model)
    assert path.name == "step-1"
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "manifest.json"} <= {
        file.name for file in path.iterdir()
    }
    config = json.loads((path / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "zeroq_packed" not in json.dumps(config)
    loaded = AutoModelForCausalLM.from_pretrained(path)
    for name, own in trainer.policy.module.named_parameters():
        assert torch.equal(loaded.get_parameter(name), whole(own))
    random_state = torch.get_rng_state()
    torch.rand(5)
    other = Trainer(trainer.config, path, trainer.ranks)
    assert restore(path, other) == state
    assert torch.equal(torch.get_rng_state(), random_state)
    train(trainer, 1)
    train(other, 1)
    for own, again in zip(trainer.policy.module.parameters(), other.policy.module.parameters(), strict=True):
        assert torch.equal(whole(own), whole(again))


def test_old_ones_are_pruned_and_unfinished_ones_passed_over(tmp_path: Path, model: Path, trainer: Trainer) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.find("auto") is None
    for step in (1, 2, 10):
        store.save(trainer, TrainingState(step=step), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-2"]
    (tmp_path / "step-11").mkdir()  # no manifest
    (tmp_path / ".step-12.99.tmp").mkdir()
    assert store.find("auto") == tmp_path / "step-10"
    assert store.find("never") is None
    weights = tmp_path / "step-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # the size is right
    assert store.find("auto") == tmp_path / "step-2"
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        store.find(str(tmp_path / "step-10"))
    with pytest.raises(UserError, match="not complete"):
        store.find(str(tmp_path / "step-11"))
    store.save(trainer, TrainingState(step=13), model)
    assert not (tmp_path / ".step-12.99.tmp").exists()


def damage(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("why", ["damaged", "not named"])
def test_what_is_saved_after_going_back_is_kept_and_gone_on_from(
    tmp_path: Path, model: Path, trainer: Trainer, why: str
) -> None:
    """Checkpoints of later steps used to push every new one out of the `keep` newest, as soon as it was written."""
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20):
        store.save(trainer, TrainingState(step=step), model)
    if why == "damaged":
        damage(tmp_path / "step-20")
        assert store.find("auto") == tmp_path / "step-10"
    else:
        assert store.find(str(tmp_path / "step-10")) == tmp_path / "step-10"
    for step in (12, 14):
        store.save(trainer, TrainingState(step=step), model)
        assert store.find("auto") == tmp_path / f"step-{step}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abandoned-step-20", "step-12", "step-14"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_from_nothing(
    tmp_path: Path, model: Path, trainer: Trainer
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2):
        damage(store.save(trainer, TrainingState(step=step), model))
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole, the newest is step-2"):
        store.find("auto")
    assert store.find("never") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 105728 vs 105616"),  # PyTorch's words
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, model: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The three are what real full disks raised, as files of different size met their ends."""
    store = CheckpointStore(tmp_path, keep=1)
    kept = store.save(trainer, TrainingState(step=1), model)

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(RunFailure, match=r"(No space left on device|unexpected pos).*step-1"):
        store.save(trainer, TrainingState(step=2), model)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    verify(kept)


def test_the_manifest_is_written_last(
    tmp_path: Path, model: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = Path.rename

    def watch(self: Path, target: Path) -> Path:
        seen.append(sorted(json.loads((self / "manifest.json").read_text())["files"]))
        assert not target.exists()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watch)
    store = CheckpointStore(tmp_path, keep=1)
    store.save(trainer, TrainingState(step=1), model)
    path = store.save(trainer, TrainingState(step=1, version=5), model)  # the same step again
    assert json.loads((path / "manifest.json").read_text())["version"] == 5
    assert "trainer/optimizer.pt" in seen[0]
    assert "model.safetensors" in seen[0]


def test_only_tensors_are_unpickled(tmp_path: Path, model: Path, trainer: Trainer) -> None:
    path = CheckpointStore(tmp_path, keep=1).save(trainer, TrainingState(step=1), model)
    torch.save(Path("/evil"), path / "trainer" / "optimizer.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        restore(path, trainer)

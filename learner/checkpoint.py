"""Owns checkpoints: directories that transformers and vLLM load as they are, and that training goes on from.

    checkpoints/step-40/
        config.json generation_config.json tokenizer...   as in the source model
        model.safetensors (or shards and an index)        master weights, float32
        trainer/state.json optimizer.pt rng.pt [reference.safetensors]
        manifest.json                                     written last: size and digest of every file

Everything is written into a hidden directory, synced to disk, and renamed in one go. A directory without a manifest, or
with one that does not match, is not a checkpoint. Nothing is unpickled but tensors (`weights_only`).

A run that goes on from an older checkpoint than the newest (which is damaged, or was not named) leaves a history. Its
checkpoints of later steps become `abandoned-step-N` with the first one saved: else they would be gone on from next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from common.errors import RunFailure, UserError
from learner import metrics
from learner.model import Policy
from learner.optimizer import Optimizer
from learner.ranks import Ranks

log = logging.getLogger(__name__)

FORMAT = 1
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SCATTER = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
_MAX_COPIED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, besides tensors."""

    step: int = 0
    """Optimizer steps done."""
    version: int = 0
    """Publishes done."""
    cursor: int = 0
    """Number of training tasks admitted so far; the next one admitted is this."""
    outstanding: list[int] = field(default_factory=list)
    """Admitted tasks that are neither trained nor given up."""
    counters: dict[str, float] = field(default_factory=dict)
    """Running totals (tokens, groups) and figures measured before training."""


class Trained(Protocol):
    """What a checkpoint holds: an RL trainer, or a supervised one (without a reference)."""

    @property
    def policy(self) -> Policy: ...
    @property
    def reference(self) -> Policy | None: ...
    @property
    def optimizer(self) -> Optimizer: ...
    @property
    def ranks(self) -> Ranks: ...


class CheckpointStore:
    """The checkpoints of one run. `save` and `load` are collective."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, trainer: Trained, state: TrainingState, source: str | Path) -> Path:
        """Write `step-N` and prune older ones; returns its path. `source`: where tokenizer files are copied from.

        RunFailure when it cannot be written (disk full): earlier checkpoints stay as they are.
        """
        began = time.monotonic()
        module, ranks = trainer.policy.module, trainer.ranks
        ranks.beat(f"checkpoint of step {state.step}")
        weights = get_model_state_dict(module, options=_FULL)
        optimizer = get_optimizer_state_dict(module, trainer.optimizer.adam, options=_FULL)
        reference = None
        if trainer.reference is not None:
            reference = get_model_state_dict(trainer.reference.module, options=_FULL)
        random_states = _gather_random_states(trainer)
        target = self.directory / f"step-{state.step}"
        if ranks.first:

            def write(directory: Path) -> None:
                _write_model(module, weights, directory, source)
                extra = directory / "trainer"
                extra.mkdir()
                (extra / "state.json").write_text(json.dumps(asdict(state), indent=1))
                torch.save(optimizer, extra / "optimizer.pt")
                torch.save(random_states, extra / "rng.pt")
                if reference is not None:
                    save_file(_untied(reference), extra / "reference.safetensors")

            ranks.beat(f"writing the checkpoint of step {state.step}")
            manifest = self._write_atomically(target, write, state)
            metrics.checkpoint_saved(manifest, time.monotonic() - began)
            log.info("saved %s", target)
        ranks.barrier()
        return target

    def latest(self) -> Path | None:
        """The newest complete checkpoint; half-written and damaged ones are passed over."""
        for _, path in self._by_step():
            try:
                verify(path)
            except UserError as error:
                log.warning("passed over: %s", error)
            else:
                return path
        return None

    def find(self, resume: str) -> Path | None:
        """What `resume: never | auto | PATH` asks for; UserError when PATH is no complete checkpoint, or when there are
        checkpoints and all are damaged: to begin from nothing is not what `auto` asks for then."""
        if resume == "never":
            return None
        if resume == "auto":
            if (latest := self.latest()) is None and (damaged := self._by_step()):
                raise UserError(
                    f"no checkpoint in {self.directory} is whole, the newest is {damaged[0][1].name}; bring one "
                    "back, or move them away to begin anew"
                )
            return latest
        path = Path(resume)
        verify(path)
        return path

    def agree(self, resume: str, ranks: Ranks) -> Path | None:
        """`find` on rank 0, for all ranks: the others' machines may have no checkpoints. Collective."""
        found = self.find(resume) if ranks.first else None
        name = ranks.broadcast_text(str(found or ""))
        return Path(name) if name else None

    def _write_atomically(self, target: Path, write: Callable[[Path], None], state: TrainingState) -> dict[str, Any]:
        """The manifest of what was written."""
        temporary = self.directory / f".{target.name}.{os.getpid()}.tmp"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()
            write(temporary)
            manifest: dict[str, Any] = {
                "format": FORMAT,
                "step": state.step,
                "version": state.version,
                "time": time.time(),
                "weights_dtype": "float32",
                "files": {name: _describe(temporary / name) for name in _files(temporary)},
            }
            sync_s = sum(_sync(temporary / name) for name in manifest["files"])
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            for path in (temporary / "manifest.json", temporary / "trainer", temporary):
                sync_s += _sync(path)
            self._set_aside(state.step)
            if target.exists():  # the same step again, after a resume from an older one
                shutil.rmtree(target)
            temporary.rename(target)
            metrics.CHECKPOINT_FSYNC_SECONDS.observe(sync_s + _sync(self.directory))
        except (
            OSError,
            SafetensorError,
            RuntimeError,
        ) as error:  # what a full disk is to those three
            reason = f"{str(error).splitlines()[0]}; {_free_bytes(self.directory)} bytes were free"
            shutil.rmtree(temporary, ignore_errors=True)
            raise RunFailure(
                f"checkpoint {target} could not be written: {reason}; the last complete one is "
                f"{self.latest() or 'none'}. Free space and go on with resume=auto"
            ) from error
        for _, path in self._by_step()[self.keep :]:
            shutil.rmtree(path)
        return manifest

    def _set_aside(self, step: int) -> None:
        """Checkpoints of later steps than the one that is about to be saved are of a history that was left."""
        for later, path in self._by_step():
            if later > step:
                aside = path.with_name(f"abandoned-{path.name}")
                log.warning("%s is of a history that this run has left; it is %s now", path, aside.name)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _by_step(self) -> list[tuple[int, Path]]:
        """Directories that look like finished checkpoints, newest first, with their steps."""
        found = []
        for path in self.directory.glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdigit() and (path / "manifest.json").exists():
                found.append((int(number), path))
        return sorted(found, reverse=True)

    def _remove_leftovers(self) -> None:
        for path in self.directory.glob(".step-*.tmp"):
            shutil.rmtree(path)


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a complete checkpoint; UserError when a file is missing, of another size or digest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        files = manifest["files"]
        for name, expected in files.items():
            if _describe(path / name) != expected:
                raise UserError(f"checkpoint {path}: {name} is damaged (size or digest differs); use an older one")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} is not complete: {type(error).__name__}: {error}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} has format {manifest.get('format')}, this version reads {FORMAT}")
    return dict(manifest)


def restore(path: Path, trainer: Trained) -> TrainingState:
    """Load what `save` wrote, besides the weights (the policy is loaded from `path` as any model); collective, and only
    rank 0 reads files."""
    ranks = trainer.ranks
    text = (path / "trainer" / "state.json").read_text() if ranks.first else None
    state = TrainingState(**json.loads(ranks.broadcast_text(text)))
    module, adam = trainer.policy.module, trainer.optimizer.adam
    loaded: dict[str, Any] = {}
    random_states = None
    if ranks.first:
        random_states = torch.stack(torch.load(path / "trainer" / "rng.pt", weights_only=True)).to(torch.int64)
        loaded = torch.load(path / "trainer" / "optimizer.pt", weights_only=True, map_location="cpu")
    set_optimizer_state_dict(module, adam, loaded, options=_SCATTER)
    if trainer.reference is not None:
        file = path / "trainer" / "reference.safetensors"
        if ranks.first and not file.exists():
            raise UserError(f"checkpoint {path} has no reference policy; it was written with learner.loss.kl_coef=0")
        weights = load_file(file) if ranks.first else {}
        trainer.reference.reshard()
        set_model_state_dict(
            trainer.reference.module,
            weights,
            options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False),
        )
    states = ranks.broadcast(random_states)
    if len(states) == ranks.size:  # with another number of ranks, the seeded start stands
        torch.set_rng_state(states[ranks.rank].to(torch.uint8))
    return state


def _write_model(module: Any, weights: dict[str, Any], directory: Path, source: str | Path) -> None:
    for file in _companions(source):
        shutil.copyfile(file, directory / file.name)
    module.save_pretrained(directory, state_dict=_untied(weights))


def _companions(source: str | Path) -> list[Path]:
    """Tokenizer and other small files beside the source model's weights."""
    directory = Path(source)
    if not directory.is_dir():
        from huggingface_hub import snapshot_download

        directory = Path(snapshot_download(str(source), local_files_only=True))
    return [
        file
        for file in sorted(directory.iterdir())
        if file.is_file()
        and not file.name.startswith(".")
        and not file.name.endswith(_WEIGHT_FILES)
        and file.name not in ("manifest.json", "config.json", "generation_config.json", "reward_model.json")
        and file.stat().st_size <= _MAX_COPIED_BYTES
    ]


def _untied(weights: dict[str, Any]) -> dict[str, Any]:
    """Without further names of the same memory, which safetensors refuses."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept


def _gather_random_states(trainer: Trained) -> list[torch.Tensor]:
    """Random state of each rank."""
    own = torch.get_rng_state()
    if trainer.ranks.size == 1:
        return [own]
    table = torch.zeros(trainer.ranks.size, len(own), dtype=torch.int64)
    table[trainer.ranks.rank] = own.long()
    return list(trainer.ranks.sum(table).to(torch.uint8))


def _free_bytes(directory: Path) -> int:
    existing = next(place for place in (directory, *directory.parents) if place.exists())
    return shutil.disk_usage(existing).free


def _files(directory: Path) -> Iterator[str]:
    yield from sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"size_bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def _sync(path: Path) -> float:
    """Have `path` on the disk; seconds it took."""
    began = time.monotonic()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.monotonic() - began

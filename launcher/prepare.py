"""Owns `zeroq prepare`: model and data of a run made ready in a directory that a learner is started in later.

    [locked] ── same configuration, data, model as in prepared.json? ── yes: done
                 └─ no ── make all in a hidden folder ── checkpoints of another model? refuse
                    ── prepared.json: incomplete ── swap model/ and data/ ── config.yaml ── prepared.json: complete

Killed at any point, the next call begins again: until prepared.json says `complete`, nothing is taken for ready, and it
keeps saying which model the checkpoints beside it are of. On a cluster this is the learner's init container.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.check import check_writable
from common.config import RunConfig, dump_config, load_config
from common.errors import UserError
from common.lifecycle import RunPaths, write_atomic
from launcher.checks import check_files, check_resume
from launcher.ready import make_ready, resolved_config, versions
from launcher.run_directory import locked
from recipes.datasets import find_file

FORMAT = 1
LOOK_EVERY_S = 2.0
TELL_EVERY_S = 60.0
_STAMP = "prepared.json"
_STAGE = ".prepare.tmp"
_IRRELEVANT = {
    *("run", "resume", "logging", "hub", "learner", "broker", "weights"),
    *("security", "metrics", "autoscaler", "evaluator", "actor"),
}
"""Sections that neither model nor data depend on; of `actor` the context length counts."""
_WHOLE_BYTES = 64 * 1024 * 1024
_END_BYTES = 64 * 1024


@dataclass(frozen=True)
class Stamp:
    """prepared.json. `model`: digest of the model's files; `programs`: whether there are programs to grade."""

    wanted: str
    model: str
    tiny_seed: int | None
    programs: bool
    complete: bool
    format: int = FORMAT


def prepare(config_path: Path, run_dir: Path, overrides: list[str], *, wait_for_model: bool = False) -> str:
    """Make `run_dir` ready; returns what there is to say. UserError for bad input, and when the directory's checkpoints
    are of another model or would be passed over (`resume: never`). `wait_for_model`: one that is a folder may come
    later, and gets its name when it is whole (deploy/k8s/model-fetch)."""
    config = load_config(config_path, overrides)
    if wait_for_model:
        _await_folder(config.model)
    paths = RunPaths(run_dir.resolve())
    check_writable(paths.root, "--run-dir")
    check_resume(config)
    check_files(config)
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run-dir={run_dir}: cannot be made: {error.strerror}; name another") from None
    with locked(paths):
        _check_resumes(config, paths)
        stamp, wanted = _read_stamp(paths), _fingerprint(config)
        if stamp is not None and stamp.complete and stamp.wanted == wanted and _is_there(config, paths, stamp):
            _write_config(resolved_config(config, paths, programs=stamp.programs), paths)
            return f"{paths.root} is prepared already"
        return _prepare(config, paths, stamp, wanted, versions(config_path, overrides))


def _await_folder(model: str) -> None:
    folder, told_at = Path(model).expanduser(), float("-inf")
    while folder.is_absolute() and not folder.is_dir():
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            print(f"model {model} is not there yet; waiting for it", flush=True)
        time.sleep(LOOK_EVERY_S)


def _prepare(config: RunConfig, paths: RunPaths, stamp: Stamp | None, wanted: str, about: dict[str, object]) -> str:
    stage = RunPaths(paths.root / _STAGE)
    shutil.rmtree(stage.root, ignore_errors=True)
    try:
        stage.root.mkdir()
        tiny = config.model == "tiny"
        keep = tiny and stamp is not None and stamp.complete and stamp.tiny_seed == config.seed and paths.model.is_dir()
        ready = make_ready(config, paths, stage, made_model_in=paths.root if keep else stage.root)
        model = _identity(ready.model)
        _check_checkpoints(config, paths, ready.model, model, stamp)
        new = Stamp(wanted, model, config.seed if tiny else None, ready.programs, complete=False)
        _write_stamp(paths, new)
        for name in ("model", "data"):
            _swap(stage.root / name, paths.root / name)
        _write_config(ready.config, paths)
        write_atomic(paths.versions, json.dumps(about, indent=2) + "\n")
        _write_stamp(paths, Stamp(**{**asdict(new), "complete": True}))
    finally:
        shutil.rmtree(stage.root, ignore_errors=True)
    data = ready.data
    notes = "".join(f"\n  note: {note}" for note in data.notes)
    return (
        f"prepared {paths.root}: {len(data.train)} training problems, {len(data.evaluation)} held out, "
        f"{len(data.cold_start)} cold-start traces; longest prompt {data.longest_prompt} tokens{notes}"
    )


def _swap(new: Path, place: Path) -> None:
    """Put `new`, if there is one, in the place of what was there. Both lie in the same file system."""
    if not new.exists():
        return
    if place.exists():
        place.rename(new.with_name(f"old-{new.name}"))
    new.rename(place)


def _is_there(config: RunConfig, paths: RunPaths, stamp: Stamp) -> bool:
    """Whether what prepared.json speaks of still is in its place, unchanged as far as the model goes."""
    if not (paths.root / "data" / "train.jsonl").is_file():
        return False
    folder = paths.model if config.model == "tiny" else Path(config.model).expanduser()
    if config.model != "tiny" and not folder.is_dir():
        return True  # a hub name, which cannot be looked up without the hub
    return folder.is_dir() and _identity(folder) == stamp.model


# ---------------------------------------------------------------- checkpoints


def _check_resumes(config: RunConfig, paths: RunPaths) -> None:
    found = _newest_checkpoint(paths)
    if found is not None and config.resume == "never":
        raise UserError(
            f"{paths.checkpoints} holds {found.name} and resume=never would pass it over; set resume=auto to go on "
            "from there, or use an empty directory"
        )


def _check_checkpoints(config: RunConfig, paths: RunPaths, folder: Path, model: str, stamp: Stamp | None) -> None:
    """UserError when there are checkpoints of another model: training would go on with it, under another's name."""
    found = _newest_checkpoint(paths)
    if found is None:
        return
    if stamp is not None:
        same = stamp.model == model
    else:  # from elsewhere: a run directory that was copied here
        same = _shape(found) == _shape(folder)
    if not same:
        raise UserError(
            f"{paths.checkpoints} holds {found.name} of another model than {config.model}; put `model` back as it was, "
            "or use an empty directory"
        )


def _newest_checkpoint(paths: RunPaths) -> Path | None:
    steps = [path.parent for path in paths.checkpoints.glob("step-*/manifest.json")]
    return max(steps, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def _shape(folder: Path) -> dict[str, Any]:
    """What of config.json weights must agree with."""
    sizes = json.loads((folder / "config.json").read_text())
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: sizes.get(name) for name in names}


# ---------------------------------------------------------------- what counts as the same


def _fingerprint(config: RunConfig) -> str:
    """Of everything that model and data are made from."""
    digest = hashlib.blake2b(digest_size=16)
    relevant = config.model_dump(mode="json", exclude=_IRRELEVANT)
    relevant |= {"format": FORMAT, "max_model_len": config.actor.max_model_len}
    digest.update(json.dumps(relevant, sort_keys=True).encode())
    general = None if config.data.general is None else config.data.general.source
    for source in (config.data.train, config.data.eval, general, config.data.general_eval):
        file = find_file(source) if isinstance(source, str) else None
        if file is not None:
            for part in _content(file):
                digest.update(part)
    return digest.hexdigest()


def _identity(folder: Path) -> str:
    """Digest of a model's directory. Of large files the size and both ends count: enough to tell two models apart."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            for part in _content(path) if size <= _WHOLE_BYTES else _ends(path, size):
                digest.update(part)
    return digest.hexdigest()


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            yield part


def _ends(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield file.read(_END_BYTES)
        file.seek(size - _END_BYTES)
        yield file.read(_END_BYTES)


# ---------------------------------------------------------------- files


def _read_stamp(paths: RunPaths) -> Stamp | None:
    try:
        fields = json.loads((paths.root / _STAMP).read_text())
        return Stamp(**fields) if fields["format"] == FORMAT else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{paths.root / _STAMP}: cannot be read ({error}); remove it to prepare anew") from None


def _write_stamp(paths: RunPaths, stamp: Stamp) -> None:
    write_atomic(paths.root / _STAMP, json.dumps(asdict(stamp), indent=1) + "\n")


def _write_config(config: RunConfig, paths: RunPaths) -> None:
    new = paths.root / f".{paths.config.name}.new"
    dump_config(config, new)
    new.replace(paths.config)

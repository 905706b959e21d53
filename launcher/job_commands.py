"""Owns the commands of supervised jobs (`zeroq sft CONFIG`): make ready, run the job, write summary and report.

Imported by the command line, so everything that is dear is imported when a command runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import EXIT_INTERRUPTED, EXIT_OK, UserError, ZeroqError

if TYPE_CHECKING:
    from common.job_config import CorpusFile, JobConfig
    from common.lifecycle import RunPaths
    from launcher.jobs import JobKind

COMMANDS: dict[str, JobKind] = {"sft": "sft", "reward-model": "reward_model"}
"""Command and kind of job; each has a parser in `add_job_parsers` and a way to be loaded in `_load`."""
_CORPUS_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")
_PARQUET_MAGIC = b"PAR1"


def add_job_parsers(commands: argparse._SubParsersAction[Any]) -> None:
    """The commands' part of the command line."""
    sft = commands.add_parser(
        "sft",
        help="supervised fine-tuning on prompts and responses",
        description="Fine-tune a model on Parquet or JSON lines with `prompt` and `response`: packed, cosine schedule.",
        epilog="""\
examples:

  zeroq sft recipes/configs/sft_r1.yaml model=Qwen/Qwen2.5-7B sft.data=samples.parquet
  zeroq sft recipes/configs/distill_1.5b.yaml sft.data='[a.parquet, {path: b.parquet, weight: 2}]' learner.ranks=8
  zeroq sft recipes/configs/sft_r1.yaml run.name=mine resume=auto          continue a job that was stopped

Any key of the configuration can be set as key=value. Exit codes: 0 success, 1 the job failed, 2 the input is wrong,
130 Ctrl-C (a checkpoint is saved).""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reward_model = commands.add_parser(
        "reward-model",
        help="train a reward model on preferences",
        description="Train a sequence classifier on pairs (kind: helpful, Bradley-Terry: prompt, chosen, rejected) or "
        "on labelled responses (kind: safety, point-wise: prompt, response, label).",
        epilog="""\
examples:

  zeroq reward-model recipes/configs/reward_model_helpful.yaml model=DIR reward_model.data=pairs.parquet
  zeroq reward-model recipes/configs/reward_model_safety.yaml model=DIR reward_model.data=labels.parquet learner.ranks=1
  zeroq reward-model recipes/configs/reward_model_safety.yaml run.name=mine resume=auto      continue a stopped job

The last checkpoint is the reward model: name it in a run as reward.components with kind: reward_model, model: DIR.
Any key of the configuration can be set as key=value. Exit codes: 0 success, 1 the job failed, 2 the input is wrong,
130 Ctrl-C (a checkpoint is saved).""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for command in (sft, reward_model):
        command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; see recipes/configs/")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")


def run_job_command(command: str, config_path: Path, overrides: list[str]) -> int:
    """Train; returns the exit code. UserError for bad input (a new run leaves nothing behind), RunFailure."""
    from rich.console import Console

    from common.lifecycle import StopFlag
    from launcher.job_report import print_job_summary, write_job_report
    from launcher.jobs import run_job
    from launcher.summary import write_summary

    kind, began, console = COMMANDS[command], time.monotonic(), Console()
    with _ready(kind, config_path, overrides) as (config, paths, new):
        print(f"run {paths.root}", flush=True)
        try:
            summary = run_job(kind, config, paths, stop=StopFlag().install(), console=console)
        except UserError:
            if new and not paths.checkpoints.exists():
                shutil.rmtree(paths.root, ignore_errors=True)
            raise
        except ZeroqError:
            with contextlib.suppress(OSError):  # a full disk must not hide why the job failed
                failed = {"result": "failed", "kind": kind, "name": paths.root.name}
                write_summary(paths, failed | {"wall_s": round(time.monotonic() - began, 3)})
                write_job_report(paths)
            raise
        write_job_report(paths)
    print_job_summary(paths, summary, console)
    return EXIT_OK if summary["result"] == "finished" else EXIT_INTERRUPTED


@contextlib.contextmanager
def _ready(kind: JobKind, config_path: Path, overrides: list[str]) -> Iterator[tuple[JobConfig, RunPaths, bool]]:
    """Configuration, directory and whether it is new; the directory is locked until the block ends."""
    from common.config_file import dump_config
    from common.lifecycle import write_atomic
    from launcher.checks import check_resume
    from launcher.machine import inspect_machine, place_job
    from launcher.ready import absolute_model, resolve_model, versions
    from launcher.run_directory import choose_run_directory, locked, staged
    from recipes.model_files import HubUnreachable

    config = _load(kind, config_path, overrides)
    place_job(config.learner, inspect_machine())
    paths = choose_run_directory(config, config_path)
    check_resume(config)
    with contextlib.ExitStack() as stack:
        new = not paths.root.exists()
        if not new:
            stack.enter_context(locked(paths))
        with staged(paths) as stage:
            try:
                resolve_model(config, stage.root)
            except HubUnreachable as error:
                raise UserError(f"{error}; fetch it on a machine with a network, or give a local path") from None
            where = {"name": paths.root.name, "dir": str(paths.root.parent)}
            config = config.model_copy(
                update={
                    "model": str(paths.model) if config.model == "tiny" else absolute_model(config.model),
                    "resume": absolute_model(config.resume),
                    "run": config.run.model_copy(update=where),
                }
            )
            if not new:
                stage.config.replace(stage.config.with_name("config.before-resume.yaml"))
            dump_config(config, stage.config)
            write_atomic(stage.versions, json.dumps(versions(config_path, overrides), indent=2) + "\n")
        if new:
            stack.enter_context(locked(paths))
        yield config, paths, new


def _load(kind: JobKind, config_path: Path, overrides: list[str]) -> JobConfig:
    """The job's configuration with its files found and made absolute."""
    if kind == "sft":
        from common.job_config import load_sft_config

        config = load_sft_config(config_path, overrides)
        files = {name: [find_corpus(file) for file in getattr(config.sft, name)] for name in ("data", "eval_data")}
        return config.model_copy(update={"sft": config.sft.model_copy(update=files)})
    if kind == "reward_model":
        from common.job_config import CorpusFile, load_reward_model_config

        job = load_reward_model_config(config_path, overrides)
        named = {"data": job.reward_model.data, "eval_data": job.reward_model.eval_data}
        found = {name: find_corpus(CorpusFile(path=path)).path for name, path in named.items() if path is not None}
        return job.model_copy(update={"reward_model": job.reward_model.model_copy(update=found)})
    raise AssertionError(f"no configuration for jobs of kind {kind}")


def find_corpus(file: CorpusFile) -> CorpusFile:
    """The file with its absolute path: as given, else in $ZEROQ_DATA. UserError when it is missing, of a kind that is
    not read, or a Parquet file without its end."""
    given = Path(file.path).expanduser()
    if not file.path.endswith(_CORPUS_SUFFIXES):
        raise UserError(f"{file.path}: expected a name ending in {', '.join(_CORPUS_SUFFIXES)}")
    folder = os.environ.get("ZEROQ_DATA")
    candidates = [given] if given.is_absolute() or not folder else [given, Path(folder) / given]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise UserError(f"{file.path}: no such file, neither here nor in $ZEROQ_DATA ({folder or 'not set'})")
    if path.suffix == ".parquet":
        with path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - len(_PARQUET_MAGIC)))
            if opened.read() != _PARQUET_MAGIC:
                raise UserError(
                    f"{path}: not a whole Parquet file (its end is missing); it was perhaps cut off while being "
                    "written: run the stage that writes it again"
                )
    return file.model_copy(update={"path": str(path.resolve())})

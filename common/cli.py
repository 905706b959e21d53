"""What `python -m broker|actor|evaluator|learner|...` have in common: arguments, logging, exporter, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from typing_extensions import TypeVar

from common.config import CommonConfig, RunConfig
from common.config_file import load
from common.errors import EXIT_FAILURE, EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError
from common.lifecycle import RunPaths, StopFlag, configure_logging, die_with_parent, register_process
from common.metrics import start_exporter

AnyConfig = TypeVar("AnyConfig", bound=CommonConfig, default=RunConfig)


@dataclass(frozen=True)
class Process(Generic[AnyConfig]):
    """What a room's `run` is handed. `Process` alone is one of a run; jobs have configurations of their own."""

    config: AnyConfig
    paths: RunPaths
    name: str
    stop: StopFlag


def main(role: str, run: Callable[[Process], None], description: str, *, export_metrics: bool = True) -> int:
    """Parse `--run-dir DIR --name NAME`, set the process up and call `run`; returns the exit code."""
    return main_of(RunConfig, role, run, description, export_metrics=export_metrics)


def main_of(
    model: type[AnyConfig],
    role: str,
    run: Callable[[Process[AnyConfig]], None],
    description: str,
    *,
    export_metrics: bool = True,
) -> int:
    """`main` for a process whose DIR/config.yaml is a `model`."""
    parser = argparse.ArgumentParser(prog=f"python -m {role}", description=description)
    parser.add_argument("--run-dir", type=Path, required=True, help="run directory holding config.yaml")
    parser.add_argument("--name", default=role, help="name of this process in logs and metrics")
    parser.add_argument("--keep-running", action="store_true", help="outlive the parent process (containers)")
    arguments = parser.parse_args()
    if not arguments.keep_running:
        die_with_parent()
    configure_logging(arguments.name)
    paths = RunPaths(arguments.run_dir.resolve())
    stop = StopFlag().install()
    try:
        config = load(model, paths.config)
        port = start_exporter() if export_metrics else None
        register_process(paths, arguments.name, role, port)
        run(Process(config, paths, arguments.name, stop))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailure as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_OK

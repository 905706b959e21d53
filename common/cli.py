"""What `python -m broker|actor|evaluator|learner|...` have in common: arguments, logging, exporter, exit codes.

    python -m ROLE --run-dir DIR [--config FILE] [--name NAME] [--keep-running] [--check] [key=value ...]

docs/processes.md is the page for operators.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from typing_extensions import TypeVar

from common.arguments import LineParser, add_process_options
from common.check import check_process
from common.config import CommonConfig, RunConfig
from common.config_file import load
from common.errors import EXIT_FAILURE, EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError
from common.health import Health
from common.lifecycle import RunPaths, StopFlag, configure_logging, die_with_parent, register_process
from common.metrics import start_exporter

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""The machine's affair, which a traceback would not explain; any other OSError is our fault and keeps its own."""

AnyConfig = TypeVar("AnyConfig", bound=CommonConfig, default=RunConfig)


@dataclass(frozen=True)
class Process(Generic[AnyConfig]):
    """What a room's `run` is handed. `Process` alone is one of a run; jobs have configurations of their own."""

    config: AnyConfig
    paths: RunPaths
    name: str
    stop: StopFlag
    health: Health = field(default_factory=Health)


def main(
    role: str,
    run: Callable[[Process], None],
    description: str,
    *,
    export_metrics: bool = True,
    check: Callable[[Process], None] | None = None,
    arguments: argparse.Namespace | None = None,
) -> int:
    """`main_of` for one of a run's processes."""
    return main_of(RunConfig, role, run, description, export_metrics=export_metrics, check=check, arguments=arguments)


def main_of(
    model: type[AnyConfig],
    role: str,
    run: Callable[[Process[AnyConfig]], None],
    description: str,
    *,
    export_metrics: bool = True,
    check: Callable[[Process[AnyConfig]], None] | None = None,
    arguments: argparse.Namespace | None = None,
) -> int:
    """Parse the command line, set the process up and call `run`; returns the exit code.

    The configuration is a `model`. `check`: what --check verifies beyond what all processes have in common.
    `arguments`: for a caller that has parsed the command line (`zeroq autoscaler`), as `parse_arguments` returns them.
    """
    arguments = arguments or parse_arguments(role, description)
    if not (arguments.keep_running or arguments.check):
        die_with_parent()
    configure_logging(arguments.name)
    paths = RunPaths(arguments.run_dir.resolve())

    def start() -> None:
        config = read_config(model, paths, arguments.config, arguments.overrides)
        stop = StopFlag()
        process = Process(config, paths, arguments.name, stop, Health(stopping=lambda: stop.draining))
        if arguments.check:
            check_process(config, paths, role)
            if check is not None:
                check(process)
            print(f"{role}: {arguments.config or paths.config} is in order")
            return
        stop.install()
        port = None
        if export_metrics:
            host, wanted = ("127.0.0.1", 0)
            if isinstance(config, RunConfig):
                host, wanted = config.metrics.host, config.metrics.port
            port = start_exporter(host, wanted, process.health).port
        register_process(paths, arguments.name, role, port)
        run(process)

    return exit_code_of(start)


def exit_code_of(start: Callable[[], None]) -> int:
    """Call `start`; what it raises becomes a line on standard error and an exit code."""
    try:
        start()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailure as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else "a file of this run: "
        print(f"failed: {where}{error.strerror}; what was saved before is whole", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_OK


def parse_arguments(role: str, description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """`run_dir`, `config`, `name`, `keep_running`, `check` and `overrides`; exits with 2 and one line if it cannot."""
    parser = LineParser(prog=f"python -m {role}", description=description)
    add_process_options(parser, role)
    return parser.parse_intermixed_args(arguments)


def read_config(model: type[AnyConfig], paths: RunPaths, file: Path | None, overrides: list[str]) -> AnyConfig:
    """The configuration of this process: `file`, or the run directory's own, with the overrides applied.

    `model: tiny` means the model that `zeroq prepare` has made in this run directory.
    """
    config = load(model, file or paths.config, overrides)
    return config.model_copy(update={"model": str(paths.model)}) if config.model == "tiny" else config

"""Owns the command line of `zeroq prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common.errors import EXIT_OK


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """The command `zeroq prepare`."""
    command = commands.add_parser(
        "prepare",
        help="make model and data ready in a directory, for a learner that somebody else starts",
        description="""\
Do what zeroq run does before it starts anything, in the learner's own directory: find or make the model, read, check
and tokenise the data. Does nothing where that is done already for this configuration and data, does it again when they
have changed, and may be stopped at any time. Checkpoints are never touched.""",
        epilog="""\
example, as the learner's init container runs it:

  zeroq prepare /etc/zeroq/config.yaml --run-dir /var/lib/zeroq/run

Exit codes: 0 ready, 1 it failed here, 2 the input is wrong.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    command.add_argument(
        "--wait-for-model",
        action="store_true",
        help="where `model` is a folder that is not there yet, wait for it: somebody else brings it",
    )
    command.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="the learner's run directory")


def run_from_options(options: argparse.Namespace) -> int:
    """Run what the command line asks for; returns the exit code."""
    from launcher.prepare import prepare

    said = prepare(options.config, options.run_dir, options.overrides, wait_for_model=options.wait_for_model)
    print(said, flush=True)
    return EXIT_OK

"""Command lines: one line for a wrong one, and the options that all processes of a run have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from common.errors import EXIT_USER_ERROR


class LineParser(argparse.ArgumentParser):
    """One line for a wrong command line, like for every other user's error."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}; see {self.prog} --help\n")


def add_process_options(parser: argparse.ArgumentParser, name: str) -> None:
    """`run_dir`, `config`, `name` (by default `name`), `keep_running`, `check` and `overrides`."""
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="run directory of this process")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: DIR/config.yaml)")
    parser.add_argument("--name", default=name, help="name of this process in logs and metrics")
    parser.add_argument("--keep-running", action="store_true", help="outlive the parent process (containers)")
    parser.add_argument("--check", action="store_true", help="verify what can be verified, start nothing; exit 0 or 2")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")

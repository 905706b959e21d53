"""Owns the command lines of `zeroq samples` and `zeroq push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parsers(commands: Any) -> None:
    """Add both commands to the sub-parsers of `zeroq`."""
    _add_samples(commands)
    _add_push(commands)


def _add_samples(commands: Any) -> None:
    command = commands.add_parser(
        "samples",
        help="read the rollouts of a run, a pipeline or an evaluation",
        description="Show the completions that training and evaluation kept (samples*.parquet below RUN).",
        epilog="""\
examples:

  zeroq samples runs/NAME --step 40-60 --max-reward 0         what failed in these steps
  zeroq samples runs/NAME --id 40:train-812/3                 one of the table in full
  zeroq samples runs/PIPELINE --stage reasoning_rl --html rollouts.html""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("run", metavar="RUN", help="a run, a pipeline or an evaluation's --out directory, or one file")
    command.add_argument("--step", metavar="N|A-B", help="of this step, or these steps")
    command.add_argument("--min-reward", type=float, metavar="X")
    command.add_argument("--max-reward", type=float, metavar="X")
    command.add_argument("--outcome", choices=["pass", "fail", "timeout", "error"])
    command.add_argument("--stage", metavar="S", help="of this stage of a pipeline")
    command.add_argument("--id", metavar="ID", help="one in full, by the table's first column")
    command.add_argument("--limit", type=int, metavar="N", help="at most N (default 20; --html 2,000)")
    shape = command.add_mutually_exclusive_group()
    shape.add_argument("--html", type=Path, metavar="FILE", help="write one page with filters of its own")
    shape.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_push(commands: Any) -> None:
    command = commands.add_parser(
        "push",
        help="upload a model or a run's last checkpoint to the Hugging Face hub",
        description="Upload a model with a model card: weights and tokenizer, without the trainer's state.",
        epilog="The token is read from HF_TOKEN or from `hf auth login`. HF_ENDPOINT names another hub.",
    )
    command.add_argument("model", metavar="MODEL_OR_RUN", help="Hugging Face directory, checkpoint or run directory")
    command.add_argument("repo", metavar="REPO", help="NAMESPACE/NAME; made if it does not exist")
    command.add_argument("--private", action="store_true", help="make it a private repository")
    command.add_argument("--revision", metavar="R", help="branch, made if it does not exist (default main)")


def run_command(options: argparse.Namespace) -> int:
    """Run the one that was asked for; returns the exit code."""
    if options.command == "samples":
        from launcher.samples_command import samples_from_options

        return samples_from_options(options)
    from launcher.hub import push_from_options

    return push_from_options(options)

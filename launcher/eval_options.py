"""Owns the way from `zeroq eval`'s options to a validated configuration."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml

from common.config import RunConfig, load_config
from common.errors import UserError
from launcher.evaluate import EvalRequest, run_evaluation
from launcher.machine import inspect_machine
from launcher.ready import absolute_model


def evaluate_from_options(options: argparse.Namespace) -> int:
    """Run the evaluation that the command line asks for; returns the exit code."""
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be at least 1")
    config = eval_config(options)
    request = EvalRequest(
        samples=config.eval.samples,
        greedy=not options.no_greedy,
        max_tokens=config.eval.max_tokens,
        limit=options.limit,
        json_path=options.json,
    )
    return run_evaluation(config, request)


def eval_config(options: argparse.Namespace) -> RunConfig:
    """The run configuration of an evaluation; UserError for options out of range."""
    device = options.device or ("cuda" if inspect_machine().gpus else "cpu")
    base = {
        "model": absolute_model(options.model),
        "data": {"train": options.data, "template": options.template, "shuffle": False},
        "actor": {"device": device, "enforce_eager": device == "cpu"},  # compiling takes minutes on a CPU
        "learner": {"device": device},
    }
    given = [
        f"eval.samples={options.samples}",
        f"eval.temperature={options.temperature}",
        f"eval.top_p={options.top_p}",
        *([f"eval.max_tokens={options.max_tokens}"] if options.max_tokens is not None else []),
    ]
    with tempfile.TemporaryDirectory(prefix="zeroq-options-") as folder:
        path = Path(folder) / "eval-options.yaml"
        path.write_text(yaml.safe_dump(base), encoding="utf-8")
        config = load_config(path, [*given, *options.overrides])
    if config.model == "tiny":
        raise UserError("MODEL: give a directory or hub name; zeroq init-model PATH makes a tiny one")
    return config

"""Owns the command lines of `zeroq pipeline` and `zeroq stage`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """The commands `zeroq pipeline` and `zeroq stage`."""
    raw = argparse.RawDescriptionHelpFormatter
    pipeline = commands.add_parser(
        "pipeline",
        help="R1's whole recipe: stages from base model to distilled students",
        description="Run the stages of a pipeline, or continue one: what is done is skipped.",
        epilog="""\
examples:

  zeroq pipeline recipes/configs/r1_cpu.yaml                    all stages on this machine's CPU
  zeroq pipeline recipes/configs/r1_cpu.yaml seed=1             another seed, in a directory of its own
  zeroq pipeline recipes/configs/r1_cpu.yaml --until sft        stop after a stage; the same command goes on
  zeroq pipeline recipes/configs/r1_cpu.yaml --redo reasoning_rl stages.reasoning_rl.run.learner.max_steps=60
  zeroq pipeline recipes/configs/r1_qwen2.5_7b.yaml --check     validate, and list stages with their inputs
  zeroq stage sft recipes/configs/r1_cpu.yaml stages.sft.model=DIR     one stage alone

The directory is runs/NAME (run.name, default: configuration and seed). Exit codes: 0 success, 1 a stage failed,
2 wrong input, 130 Ctrl-C; in every case the same command goes on.""",
        formatter_class=raw,
    )
    stage = commands.add_parser(
        "stage",
        help="one stage of a pipeline",
        description="Run one stage. Its inputs are those of the pipeline's directory, or paths given for its keys.",
        epilog="""\
examples:

  zeroq stage r1_zero recipes/configs/r1_cpu.yaml
  zeroq stage rejection_sample recipes/configs/r1_cpu.yaml run.name=mine stages.rejection_sample.model=DIR
  zeroq stage preferences recipes/configs/r1_qwen2.5_7b.yaml stages.preferences.model=DIR
      samples responses, asks a judge which of two helps more and which are safe; zeroq reward-model reads the files""",
        formatter_class=raw,
    )
    stage.add_argument("only", metavar="STAGE", help="name of the stage")
    for command in (pipeline, stage):
        command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; see recipes/configs/")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
        command.add_argument(
            "--redo", metavar="STAGE", help="set a stage and what depends on it aside, and run it again"
        )
        command.add_argument("--check", action="store_true", help="validate and show the plan, start nothing")
    pipeline.add_argument("--results", action="store_true", help="print the results of all seeds so far, start nothing")
    pipeline.add_argument("--only", metavar="STAGE", help="this stage alone")
    pipeline.add_argument("--until", metavar="STAGE", help="stop after this stage")


def pipeline_from_options(options: argparse.Namespace) -> int:
    """Run what the command line asks for; returns the exit code."""
    from launcher.pipeline import PipelineRequest, run_pipeline

    request = PipelineRequest(
        options.config,
        options.overrides,
        only=options.only,
        until=getattr(options, "until", None),
        redo=options.redo,
        check=options.check,
        results=getattr(options, "results", False),
    )
    return run_pipeline(request)

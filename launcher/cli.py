"""The `zeroq` command: parses the command line and turns every end of a command into an exit code.

    0 success    1 failure of a run    2 the user's error, one line on standard error    130 Ctrl-C

Commands are imported when they are used: `zeroq --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from common.arguments import LineParser
from common.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError, ZeroqError
from launcher.autoscaler_options import add_parser as add_autoscaler
from launcher.eval_options import add_parser as add_eval
from launcher.job_commands import COMMANDS as JOB_COMMANDS
from launcher.job_commands import add_job_parsers
from launcher.k8s_options import add_parsers as add_k8s
from launcher.k8s_options import add_status_arguments
from launcher.keygen_options import add_parser as add_keygen
from launcher.pipeline_options import add_parser as add_pipeline
from launcher.prepare_options import add_parser as add_prepare
from launcher.share_options import add_parsers as add_sharing
from launcher.watch.options import add_parser as add_watch

_DESCRIPTION = """\
Train reasoning models with reinforcement learning, as processes that talk over message queues.

  zeroq run recipes/configs/cpu_demo.yaml            train a small model on this machine's CPU
  zeroq check recipes/configs/r1_zero_gsm8k.yaml     say what a run would do, and what is wrong with it
  zeroq status                                       what the newest run is doing
  zeroq watch --html                                 the same as a page of charts
  zeroq eval runs/NAME/checkpoints/step-60 --data gsm8k_test.jsonl --samples 16
"""

_OVERRIDES = """\
Any key of the configuration can be set on the command line, as key=value:

  zeroq run recipes/configs/cpu_demo.yaml seed=1 run.name=second learner.max_steps=20
  zeroq run recipes/configs/cpu_demo.yaml data.train=gsm8k_train.jsonl.gz learner.max_steps=20
  zeroq run recipes/configs/r1_zero_gsm8k.yaml model=Qwen/Qwen2.5-1.5B learner.ranks=4

To continue a run that was stopped:

  zeroq run recipes/configs/cpu_demo.yaml run.name=second resume=auto

Files named in data.train and data.eval are also looked up in $ZEROQ_DATA.
Exit codes: 0 success, 1 the run failed, 2 the input is wrong, 130 Ctrl-C."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = LineParser(prog="zeroq", description=_DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train", description="Train.", epilog=_OVERRIDES, formatter_class=raw)
    check = commands.add_parser(
        "check",
        help="verify a configuration and say what it would run",
        description="Verify configuration, model, data and machine without starting anything.",
        epilog=_OVERRIDES,
        formatter_class=raw,
    )
    for command in (run, check):
        command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; see recipes/configs/")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")

    run.add_argument("--monitor", action="store_true", help="with a Prometheus of its own (docs/monitoring.md)")

    status = commands.add_parser("status", help="what a run is doing, or how it ended")
    status.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="default: the newest below runs/")
    add_status_arguments(status)
    report = commands.add_parser("report", help="write report.html anew, also of a run that is going on")
    report.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="default: the newest below runs/")
    scale = commands.add_parser(
        "scale",
        help="change the number of actors of a run that is going on",
        description="Example: zeroq scale runs/NAME actors=2",
    )
    scale.add_argument("run_dir", metavar="RUN_DIR")
    scale.add_argument("request", metavar="actors=N")

    add_eval(commands)
    _add_grade(commands)
    add_job_parsers(commands)
    add_pipeline(commands)
    add_sharing(commands)
    add_prepare(commands)
    add_watch(commands)
    add_keygen(commands)
    add_autoscaler(commands)
    add_k8s(commands)
    init = commands.add_parser(
        "init-model",
        help="make the demo's small random model",
        description="Write a small random-weight model and its tokenizer as a Hugging Face directory.",
    )
    init.add_argument("path", type=Path, metavar="PATH", help="directory to make; must not exist")
    init.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    init.add_argument(
        "--shape",
        choices=["tiny", "0.5b"],
        default="tiny",
        help="tiny: the demo's million parameters; 0.5b: Qwen2.5-0.5B's widths and vocabulary, for measuring",
    )
    return parser


def _add_grade(commands: argparse._SubParsersAction[LineParser]) -> None:
    command = commands.add_parser(
        "grade",
        help="grade programs, answers, format and language: JSON lines in, JSON lines out",
        description="""\
Grade JSON lines, with the graders that evaluators use. One answer line for each, in the same order.

  {"id": "1", "kind": "code", "language": "python", "source": "print(int(input()) * 2)",
   "tests": {"kind": "stdio", "cases": [{"stdin": "4", "expected": "8"}]}}
  {"id": "2", "kind": "math", "gold": "\\\\frac{1}{2}", "response": "<think>...</think> \\\\boxed{0.5}"}
  {"id": "3", "kind": "format", "response": "<think>...</think><answer>4</answer>"}
  {"id": "4", "kind": "language", "response": "<think>...</think>...", "language": "en"}

Programs run in a sandbox. tests.kind is stdio, call, assert, asserts (Python) or suffix; docs/evaluators.md has
them all, with limits and verdicts.""",
        epilog="""\
examples:

  zeroq grade answers.jsonl --workers 2 > graded.jsonl
  zeroq grade --capabilities          what the sandbox holds on this machine, and which languages it has

Exit codes: 0 all graded, 2 a line was malformed (its answer has "error"; the others are graded), 1 a line could not be
graded here (verdict infra_error).""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="JSON lines (default: standard input)")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="lines graded at once (default 1)")
    command.add_argument("--unordered", action="store_true", help="write answers as they come")
    command.add_argument(
        "--tier", type=int, choices=[1, 2, 3], default=2, help="least isolation of programs (default 2; 1: Python only)"
    )
    command.add_argument("--capabilities", action="store_true", help="say what can be graded here, and stop")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; `key=value` may also stand after options, which argparse alone does not allow."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if not hasattr(options, "overrides") or any(item.startswith("-") or "=" not in item for item in rest):
        if rest:
            parser.error(f"unexpected {' '.join(rest)}")
        return options
    options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # a closed terminal; `nohup` has it ignored
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        code = _dispatch(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailure as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except BrokenPipeError as error:
        if not _reader_gone():
            return _failed(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to be said when Python ends either
        return EXIT_FAILURE
    except PermissionError as error:
        print(f"error: {error.filename}: user {os.getuid()} has no right to it: {error.strerror}", file=sys.stderr)
        return EXIT_USER_ERROR
    except (ZeroqError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _failed(error: Exception) -> int:
    print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
    return EXIT_FAILURE


def _reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "run":
        from launcher.run import run_training

        return run_training(options.config, options.overrides, monitor=options.monitor)
    if options.command == "check":
        from launcher.preview import print_preview

        return print_preview(options.config, options.overrides)
    if options.command == "eval":
        from launcher.eval_options import evaluate_from_options

        return evaluate_from_options(options)
    if options.command == "grade":
        from launcher.grade import GradeRequest, grade, print_capabilities

        if options.capabilities:
            return print_capabilities(options.tier)
        return grade(GradeRequest(options.file, options.workers, options.unordered, options.tier))
    if options.command in ("pipeline", "stage"):
        from launcher.pipeline_options import pipeline_from_options

        return pipeline_from_options(options)
    if options.command in JOB_COMMANDS:
        from launcher.job_commands import run_job_command

        return run_job_command(options.command, options.config, options.overrides)
    if options.command == "watch":
        from launcher.watch.options import run_from_options

        return run_from_options(options)
    if options.command == "prepare":
        from launcher.prepare_options import run_from_options as run_prepare

        return run_prepare(options)
    if options.command in ("samples", "push"):
        from launcher.share_options import run_command

        return run_command(options)
    if options.command == "autoscaler":
        from launcher.autoscaler_options import run_from_options as run_autoscaler

        return run_autoscaler(options)
    if options.command in ("submit", "logs") or (options.command == "status" and options.k8s):
        from launcher.k8s_options import run_from_options as run_k8s

        return run_k8s(options)
    if options.command == "keygen":
        from launcher.keygen_options import run_from_options

        return run_from_options(options)
    if options.command == "init-model":
        return _init_model(options.path, options.seed, options.shape)
    from launcher.run_directory import open_run

    if options.command == "scale":
        from launcher.scale import request_scale

        actors = request_scale(open_run(options.run_dir), options.request)
        print(f"asked for {actors} actor(s); see zeroq status {options.run_dir}")
        return EXIT_OK
    paths = open_run(options.run_dir)
    if options.command == "report":
        from launcher.report import load_summary, write_report

        print(write_report(paths, load_summary(paths)))
        return EXIT_OK
    from rich.console import Console

    from launcher.status import print_status

    return print_status(paths, Console())


def _init_model(path: Path, seed: int, shape: str) -> int:
    if path.exists():
        raise UserError(f"{path}: exists; name a directory that does not")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a number from 0 to 2**32 - 1")
    try:
        path.mkdir(parents=True)  # before torch is imported
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}; name another") from None
    from recipes.tiny_model import SHAPES, create_tiny_model

    try:
        print(create_tiny_model(path, seed=seed, **SHAPES[shape]))  # type: ignore[arg-type]
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a model is none
        raise
    return EXIT_OK

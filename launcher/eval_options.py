"""Owns `zeroq eval` on the command line: its parser, and the way from its options to a validated request."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from common.config import RunConfig
    from launcher.evaluate import EvalRequest
    from recipes.suites.suite import Suite

_DESCRIPTION = """\
Measure models: pass@1 as the mean over k samples (T 0.6, top-p 0.95, at most 32,768 tokens, as R1's report does), with
standard error and bootstrap interval, unbiased pass@k, cons@k by the mathematics verifier's equality, greedy accuracy,
length, format rate and language consistency.

  --suite takes names (aime2024, math500, gsm8k, mgsm, mgsm_de, humaneval, humaneval_x_cpp, multipl_e_cs, mbpp,
  gpqa_diamond, livecodebench, codeforces, ...), JSON-lines files, Hugging Face datasets, YAML definitions
  (suites.yaml or suites.yaml:name), lm-eval's tasks (lm_eval:mmlu) and entry points of the group zeroq.suites."""

_EXAMPLES = """\
examples:

  zeroq eval Qwen/Qwen2.5-1.5B --suite aime2024,math500 --k auto --out results/base
  zeroq eval runs/NAME/checkpoints/step-60 --data runs/NAME/data/eval.jsonl --samples 8 --device cpu
  zeroq eval BASE runs/NAME/checkpoints/step-* --suite gsm8k --k 4 --limit 200        models of one shape, one engine
  zeroq eval MODEL --suite gsm8k --k 16 --select best_of_n --reward-model runs/rm/model
  zeroq eval MODEL --suite codeforces --standings standings.jsonl        a rating and percentile among people
  zeroq eval MODEL --data openai/gsm8k:main data.split=test data.fields.prompt=question --samples 4

--k auto: 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench (R1's report), 16 for others, 1 for
lm-eval's. An evaluation that was interrupted goes on with the same --out. Every sample is in OUT/samples.parquet:
zeroq samples OUT shows them."""


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command `eval`."""
    command = commands.add_parser(
        "eval",
        help="pass@1, pass@k, cons@k of models on suites of problems",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", nargs="+", metavar="MODEL", help="Hugging Face directories or names")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--suite", metavar="S,...", help="suites, separated by commas")
    what.add_argument("--data", metavar="D", help="JSON-lines file, datasets directory or hub name")
    command.add_argument("--k", default=None, metavar="auto|N", help="samples per problem (default auto)")
    command.add_argument("--samples", type=int, default=None, metavar="N", help="the same as --k N")
    command.add_argument("--select", choices=["best_of_n", "majority"], help="also measure the sample that this picks")
    command.add_argument("--reward-model", metavar="DIR", help="reward model that best_of_n picks by")
    command.add_argument(
        "--standings",
        metavar="FILE",
        help="people's results in the contests of the suites: also rate the models as Codeforces rates people "
        "(docs/conventions.md)",
    )
    command.add_argument("--temperature", type=float, default=None, help="default: the suite's, 0.6")
    command.add_argument("--top-p", type=float, default=None, help="default: the suite's, 0.95")
    command.add_argument(
        "--max-tokens", type=int, default=None, metavar="N", help="default: the suite's, 32768, as far as there is room"
    )
    command.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N problems of each suite")
    command.add_argument("--template", choices=["r1_zero", "bare", "chat"], default=None, help="default r1_zero")
    command.add_argument("--no-greedy", action="store_true", help="leave the greedy completions out")
    command.add_argument("--device", choices=["cpu", "cuda"], default=None, help="default: cuda if there is a GPU")
    command.add_argument("--out", type=Path, default=None, metavar="DIR", help="keep results and every sample there")
    command.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures there as well")
    command.set_defaults(overrides=[])


def evaluate_from_options(options: argparse.Namespace) -> int:
    """Run the evaluation that the command line asks for; returns the exit code."""
    settings = [name for name in options.model if "=" in name and not Path(name).is_dir()]
    models = [name for name in options.model if name not in settings]
    overrides = [*settings, *options.overrides]
    request, config = eval_request(options, models, overrides)
    from launcher.evaluate import run_evaluation

    return run_evaluation(config, request)


def eval_request(options: argparse.Namespace, models: list[str], overrides: list[str]) -> tuple[EvalRequest, RunConfig]:
    """The request and the run configuration of an evaluation. UserError for options that make no sense."""
    from launcher.eval_plan import EvalSettings
    from launcher.evaluate import EvalRequest
    from launcher.ready import absolute_model
    from recipes.suites.contests import read_standings

    _check(options, models)
    config = eval_config(options, absolute_model(models[0]), overrides)
    suites = _suites(options, config)
    settings = EvalSettings.of(config, limit=options.limit, select=options.select)
    standings = None if options.standings is None else read_standings(options.standings)
    request = EvalRequest(models, suites, settings, options.reward_model, options.out, options.json, standings)
    return request, config


def eval_config(options: argparse.Namespace, model: str, overrides: list[str]) -> RunConfig:
    """The run configuration: how actors and evaluators run. UserError for options out of range."""
    import yaml

    from common.config import load_config
    from launcher.machine import inspect_machine

    device = options.device or ("cuda" if inspect_machine().gpus else "cpu")
    data: dict[str, Any] = {"train": options.data or "suites.jsonl", "shuffle": False}
    if options.template is not None:
        data["template"] = options.template
    chosen = {
        "samples": _samples(options),
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "greedy": False if options.no_greedy else None,
    }
    base = {
        "model": model,
        "data": data,
        "actor": {"device": device, "enforce_eager": device == "cpu"},  # compiling takes minutes on a CPU
        "learner": {"device": device},
    }
    given = [f"eval.{key}={str(value).lower()}" for key, value in chosen.items() if value is not None]
    with tempfile.TemporaryDirectory(prefix="zeroq-options-") as folder:
        path = Path(folder) / "eval-options.yaml"
        path.write_text(yaml.safe_dump(base), encoding="utf-8")
        return load_config(path, [*given, *overrides])


def _suites(options: argparse.Namespace, config: RunConfig) -> list[Suite]:
    from recipes.suites.registry import find_suites
    from recipes.suites.suite import Suite

    if options.suite is not None:
        return find_suites([name for name in (part.strip() for part in options.suite.split(",")) if name])
    source = config.data.train
    if not isinstance(source, str):
        raise UserError("--data: give a JSON-lines file, a datasets directory or a hub name")
    name = Path(source.rstrip("/")).name.partition(".")[0]
    return [Suite(name, source, split=config.data.split, fields=config.data.fields)]


def _samples(options: argparse.Namespace) -> int | None:
    """k, or None for the suites' own."""
    k: int | None = options.samples
    if options.k not in (None, "auto"):
        if not options.k.isdecimal():
            raise UserError(f"--k {options.k}: give a number of samples per problem, or auto")
        if k is not None and k != int(options.k):
            raise UserError(f"--k {options.k} and --samples {k} say different things; give one")
        k = int(options.k)
    if k is not None and k < 1:
        raise UserError(f"--k {k}: must be at least 1")
    return k


def _check(options: argparse.Namespace, models: list[str]) -> None:
    """What the types of options do not say."""
    if not models:
        raise UserError("MODEL: name at least one directory or hub name")
    twins = sorted({name for name in models if models.count(name) > 1})
    if twins:
        raise UserError(f"MODEL: {twins[0]} is named twice")
    if "tiny" in models and not Path("tiny").is_dir():
        raise UserError("MODEL: give a directory or hub name; zeroq init-model PATH makes a tiny one")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be at least 1")
    if options.select == "best_of_n" and options.reward_model is None:
        raise UserError("--select best_of_n: needs --reward-model DIR, which scores the samples")
    if options.select == "majority" and _samples(options) == 1:
        raise UserError("--select majority: one sample has no majority; give --k 2 or more")
    if options.reward_model is not None:
        from common.reward_model import read_reward_model

        try:
            read_reward_model(Path(options.reward_model).expanduser())
        except UserError as error:
            raise UserError(f"--reward-model: {error}") from None
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out}: is a file; give a directory")

"""Owns `zeroq check`: all checks of a run, and a summary of what it would do. Starts nothing, leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.config import RunConfig, load_config
from common.errors import EXIT_OK
from common.lifecycle import RunPaths
from launcher.checks import check_anywhere, check_here
from launcher.display import number
from launcher.machine import MachineLacks
from launcher.ready import resolve_model
from launcher.run_directory import resume_note
from recipes.model_files import HubUnreachable, PromptTokenizer, locate_model, read_model_facts
from recipes.prepare import PreparedData, build_data, context_limit


def print_preview(config_path: Path, overrides: list[str]) -> int:
    """Check and print; returns the exit code. UserError for what `zeroq run` would refuse."""
    config = load_config(config_path, overrides)
    paths = check_anywhere(config, config_path)
    data, context, notes = _prepare(config)
    try:
        check_here(config)
    except MachineLacks as error:
        notes.append(f"it cannot run on this machine: {error}")
    if note := resume_note(config, paths):
        notes.append(note)
    console = Console()
    table = Table(title=f"{config_path}: in order", title_justify="left", show_header=False)
    for name, value in describe(config, paths, data, context):
        table.add_row(name, value)
    console.print(table)
    for note in (*notes, *(data.notes if data is not None else ())):
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    return EXIT_OK


def _prepare(config: RunConfig) -> tuple[PreparedData | None, int | None, list[str]]:
    """Model and data as a run would prepare them, in memory; notes on what only a network could tell."""
    try:
        with tempfile.TemporaryDirectory(prefix="zeroq-check-") as folder:
            tiny = config.model == "tiny"
            model = resolve_model(config, Path(folder)) if tiny else locate_model(config.model, weights=False)
            context = context_limit(config, read_model_facts(model).context)
            return build_data(config, PromptTokenizer(model), context), context, []
    except HubUnreachable as error:
        return (
            None,
            None,
            [f"{error}. Its tokenizer, its context and the prompts' lengths are verified when it is reachable"],
        )


def describe(
    config: RunConfig, paths: RunPaths, data: PreparedData | None, context: int | None
) -> list[tuple[str, str]]:
    """What would run, as (name, value) for people."""
    learner, rollout, actor = config.learner, config.rollout, config.actor
    groups, size = learner.groups_per_step, rollout.group_size
    rollouts = groups * size
    sizes = "not looked at"
    if data is not None:
        sizes = (
            f"{len(data.train):,} to train on, {len(data.evaluation):,} held out, {len(data.cold_start):,} to imitate"
        )
    length = f"longest prompt {data.longest_prompt} + " if data else "prompt + "
    passes = f"{learner.max_steps * groups / max(1, len(data.train)):.2f} passes over the data" if data else "-"
    return [
        ("run directory", str(paths.root)),
        ("model", f"{config.model}, context {number(context, 0)} tokens"),
        ("data", f"{_source(config)}: {sizes}"),
        ("template", config.data.template),
        ("completions", f"{length}{rollout.max_tokens} tokens at most, temperature {rollout.temperature}"),
        (
            "processes",
            f"1 broker, {config.evaluator.replicas} evaluator(s), {actor.replicas} actor(s) on {actor.device}, learner "
            f"with {learner.ranks} rank(s) on {learner.device}, weights by {config.weights.backend}",
        ),
        (
            "a step",
            f"{groups} groups x {size} = {rollouts:,} rollouts, at most {rollouts * rollout.max_tokens:,} tokens",
        ),
        (
            "steps",
            f"{learner.max_steps:,} ({passes}), lr {learner.lr:g}, a publish every {learner.steps_per_publish} step(s)",
        ),
        (
            "asynchrony",
            f"staleness at most {learner.max_staleness} publish(es), policy {learner.staleness_policy}: credit for "
            f"{config.credit_limit} groups outstanding",
        ),
        ("rewards", ", ".join(f"{c.weight:g} x {c.name} ({c.function or c.kind})" for c in config.reward.components)),
        ("cold start", f"{config.cold_start.steps} SFT steps" if config.cold_start.steps else "none"),
        (
            "evaluation",
            f"{config.eval.samples} samples of {config.data.eval_size} problems at T={config.eval.temperature}, "
            f"top-p {config.eval.top_p}, "
            + (f"every {config.eval.every_steps} steps" if config.eval.every_steps else "before and after"),
        ),
    ]


def _source(config: RunConfig) -> str:
    source = config.data.train
    return source if isinstance(source, str) else f"reasoning_gym {source.reasoning_gym} {source.params}"

"""Owns the stages of reinforcement learning: a `zeroq run` in the stage's folder, continued where it was stopped.

STAGE/run.yaml    the run's configuration, defaults and stage merged
STAGE/run/        its run directory: metrics, checkpoints, samples, report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from common.config import RunConfig
from common.config_file import validate
from common.errors import EXIT_OK, RunFailure
from common.lifecycle import RunPaths, write_atomic
from launcher.report import read_view
from launcher.stages import Interrupted, Outcome, StageContext
from recipes.pipeline.config import merged, read_preset

_FIGURES = (
    *("pass_at_1_before", "pass_at_1_after", "greedy_before", "greedy_after", "mean_length_before"),
    *("mean_length_after", "steps", "wall_s", "actor_tokens_per_s", "learner_tokens_per_s", "staleness_max"),
    *("groups_trained", "groups_lost"),
)
_LAST_STEPS = 5


def grpo_config(context: StageContext) -> dict[str, Any]:
    """The run's whole configuration as a tree; UserError for a key that `zeroq run` does not have."""
    own = {
        "model": context.settings.model,
        "seed": context.seed,
        "run": {"dir": str(context.folder), "name": "run"},
    }
    tree = merged(read_preset(context.settings.preset), context.defaults.run, context.settings.run, own)
    validate(RunConfig, tree, f"stages.{context.name}.run")
    return tree


def train_grpo(context: StageContext) -> Outcome:
    """Train, or go on; the last checkpoint is the stage's model."""
    from launcher.run import run_training

    tree = grpo_config(context)
    paths = RunPaths(context.folder / "run")
    config_path = context.folder / "run.yaml"
    write_atomic(config_path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    overrides = ["resume=auto"] if paths.config.exists() else []
    if run_training(config_path, overrides, stop=context.stop) != EXIT_OK:
        raise Interrupted(f"stage {context.name}: stopped; the same command goes on from its last checkpoint")
    return Outcome({"model": last_checkpoint(paths), "run": paths.root}, _figures(paths))


def last_checkpoint(paths: RunPaths) -> Path:
    """The newest checkpoint of a finished run. RunFailure when there is none."""
    found = [p for p in paths.checkpoints.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    if not found:
        raise RunFailure(f"{paths.checkpoints}: the run left no checkpoint")
    return max(found, key=lambda p: int(p.name.removeprefix("step-")))


def _figures(paths: RunPaths) -> dict[str, Any]:
    """The summary's figures, and the means of reward components over the last steps."""
    summary = json.loads(paths.summary.read_text(encoding="utf-8"))
    figures = {name: summary[name] for name in _FIGURES if summary.get(name) is not None}
    rows = read_view(paths).rows[-_LAST_STEPS:]
    names = sorted({key for row in rows for key in row if key.startswith("rewards/") and key.endswith("/mean")})
    for name in names:
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            figures[name] = sum(values) / len(values)
    return figures

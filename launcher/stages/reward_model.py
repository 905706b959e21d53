"""Owns the stage of reward models: helpful from pairs, safety from labels; two jobs one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config_file import validate
from common.job_config import RewardModelConfig
from common.lifecycle import RunPaths
from launcher.stages import Interrupted, Outcome, StageContext
from launcher.stages.checks import reward_model_data
from launcher.stages.grpo import last_checkpoint
from recipes.model_files import locate_model
from recipes.pipeline.config import merged, read_preset

_FIGURES = ("accuracy", "auc", "length_correlation", "steps", "seconds", "num_pairs", "num_examples")


def train_reward_models(context: StageContext) -> Outcome:
    """Train what the stage has preferences for."""
    settings = context.settings
    wanted = {
        "helpful": (settings.helpful, merged(read_preset(settings.helpful_preset), settings.helpful_job)),
        "safety": (settings.safety, merged(read_preset(settings.safety_preset), settings.safety_job)),
    }
    outputs: dict[str, Path] = {}
    figures: dict[str, Any] = {}
    for kind, (data, own) in wanted.items():
        if data is None:
            continue
        context.say(f"reward model: {kind}")
        outputs[kind], found = _train(context, kind, data, own)
        figures |= {f"{kind}_{name}": value for name, value in found.items()}
    return Outcome(outputs, figures)


def _train(context: StageContext, kind: str, data: str, own: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    from rich.console import Console

    from launcher.jobs import run_job

    paths = RunPaths(context.folder / kind)
    fixed = {
        "model": str(locate_model(context.settings.model)),
        "seed": context.seed,
        "resume": "auto" if paths.checkpoints.exists() else "never",
        "run": {"dir": str(context.folder), "name": kind},
    }
    tree = merged(context.defaults.reward_model, own, fixed, reward_model_data(kind, data))
    config = validate(RewardModelConfig, tree, f"stages.{context.name}.{kind}_job")
    summary = run_job("reward_model", config, paths, stop=context.stop, console=Console())
    if summary["result"] != "finished":
        raise Interrupted(f"stage {context.name}: stopped; the same command goes on from its last checkpoint")
    return last_checkpoint(paths), {name: summary[name] for name in _FIGURES if summary.get(name) is not None}

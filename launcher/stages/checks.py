"""Owns the checks of a whole pipeline before its first stage starts: every run's and job's keys, ranges and types.

References stand for paths that are not there yet, so files are looked at when their stage begins.
"""

from __future__ import annotations

from typing import Any

from common.config import RunConfig
from common.config_file import validate
from common.job_config import RewardModelConfig, SftConfig
from recipes.pipeline.config import (
    ColdStartStage,
    EvaluateStage,
    GrpoStage,
    PipelineConfig,
    PreferencesStage,
    RejectionSampleStage,
    RewardModelStage,
    SftStage,
    merged,
    read_preset,
)


def check_stages(config: PipelineConfig) -> None:
    """UserError naming stage, key and value for the first setting that its stage would refuse."""
    for name in config.stages:
        stage, where = config.stage(name), f"stages.{name}"
        common: dict[str, Any] = {"model": getattr(stage, "model", "model"), "seed": config.seed}
        defaults = config.defaults
        match stage:
            case GrpoStage():
                validate(RunConfig, merged(read_preset(stage.preset), defaults.run, stage.run, common), f"{where}.run")
            case SftStage() | ColdStartStage():
                _check_sft(merged(read_preset(stage.preset), defaults.sft, stage.job, common), f"{where}.job")
        match stage:
            case ColdStartStage():
                _check_sampling(merged(defaults.run, defaults.sampling, stage.sampling, common), f"{where}.sampling")
            case RejectionSampleStage() | EvaluateStage():
                _check_sampling(merged(defaults.run, defaults.sampling, stage.run, common), f"{where}.run")
            case PreferencesStage():
                tree = merged(defaults.run, defaults.sampling, stage.run, common)
                _check_sampling(tree, f"{where}.run")
                _check_sampling(merged(tree, stage.judge_run), f"{where}.judge_run")
            case RewardModelStage():
                for kind, data, preset, job in (
                    ("helpful", stage.helpful, stage.helpful_preset, stage.helpful_job),
                    ("safety", stage.safety, stage.safety_preset, stage.safety_job),
                ):
                    if data is not None:
                        tree = merged(
                            read_preset(preset), defaults.reward_model, job, common, reward_model_data(kind, data)
                        )
                        validate(RewardModelConfig, tree, f"{where}.{kind}_job")


def _check_sft(tree: dict[str, Any], where: str) -> None:
    validate(SftConfig, merged(tree, {"sft": {"data": ["corpus.parquet"]}}), where)


def _check_sampling(tree: dict[str, Any], where: str) -> None:
    validate(RunConfig, merged(tree, {"data": {"train": "problems.jsonl"}}), where)


def reward_model_data(kind: str, data: str) -> dict[str, Any]:
    """The keys of a reward-model job that say what is trained on what."""
    return {"reward_model": {"kind": kind, "data": data}}

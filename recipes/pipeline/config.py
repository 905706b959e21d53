"""Owns a pipeline's configuration: stages in their order, each with its kind's settings, and defaults for all of them.

    seed: 0
    defaults:
      run: {...}                    keys of `zeroq run`, for every GRPO stage
      sft: {...}                    keys of `zeroq sft`, for every supervised stage
      reward_model: {...}           keys of `zeroq reward-model`
      sampling: {...}               keys of `zeroq run`, for stages that sample from checkpoints
    stages:
      r1_zero: {kind: grpo, model: "@world.base", run: {learner: {lr: 3.0e-6}}}
      ...

A stage's own keys win over the defaults, and `key=value` on the command line over both
(`stages.r1_zero.run.learner.max_steps=20`). Every stage is validated before the first one starts, with references to
what earlier stages will make left open.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from common.config import RunSection
from common.config_file import Section, read_tree, validate
from common.errors import UserError
from recipes.pipeline.references import check_references
from recipes.stages.endpoint import EndpointSettings
from recipes.stages.judge import JudgeSettings
from recipes.stages.merge import MergeSettings
from recipes.stages.preferences import PreferenceSettings
from recipes.stages.selection import SelectionSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class SmallWorldStage(Section):
    """Makes the world of the CPU pipeline: models, problems, corpora, preferences (recipes/small_world)."""

    kind: Literal["small_world"] = "small_world"
    scale: float = Field(1.0, gt=0, le=1, description="Sizes of data sets, relative to their defaults.")


class GrpoStage(Section):
    """Reinforcement learning: r1_zero, reasoning_rl, rl_all; a `zeroq run` of its own."""

    kind: Literal["grpo"] = "grpo"
    model: str = Field(description="Where to start from: a directory, a hub name or a reference.")
    preset: str | None = Field(None, description="A run's YAML file below defaults.run: here, or in recipes/configs/.")
    run: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq run`.")


class SftStage(Section):
    """Supervised fine-tuning of `model` on corpora: the SFT stage, distillation, pretraining of small models."""

    kind: Literal["sft"] = "sft"
    model: str
    data: list[Any] = Field(min_length=1, description="Corpora: paths, references, or {path: ..., limit: ...}.")
    preset: str | None = Field(None, description="A YAML file of `zeroq sft` below defaults.sft.")
    job: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq sft`.")
    held_out: list[str] = Field(default_factory=list, description="Evaluation sets that corpora must not overlap.")
    ngram: int | None = Field(10, ge=3, description="Words of an overlap (R1: 10); null: whole problems only.")
    allow_other_tokenizer: bool = Field(
        False, description="Take corpora whose prompts were rendered for a model of another tokenizer."
    )


class Problems(Section):
    """Problems of a sampling stage."""

    path: str
    limit: int | None = Field(None, ge=1, description="The first so many (in a seeded order).")


class SampleSettings(Section):
    """How completions are sampled from a checkpoint."""

    samples: int = Field(4, ge=1, le=1024, description="Completions per prompt.")
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, description="Default: rollout.max_tokens of `sampling`.")


class FilteredSource(Section):
    """Cold-start chains that a checkpoint produced itself (R1: readable, filtered R1-Zero outputs)."""

    model: str
    problems: list[Problems] = Field(min_length=1)
    sampling: SampleSettings = SampleSettings()
    selection: SelectionSettings = SelectionSettings(per_prompt=1)


class FewShotSource(Section):
    """Cold-start chains that a model wrote after worked examples in its prompt."""

    model: str
    examples: str = Field(description="Corpus whose first rows are the worked examples.")
    num_examples: int = Field(2, ge=1, le=16)
    problems: list[Problems] = Field(min_length=1)
    sampling: SampleSettings = SampleSettings()
    selection: SelectionSettings = SelectionSettings(per_prompt=1)


class ColdStartStage(Section):
    """SFT of the base model on few, long, readable chains (R1, stage 2a), from up to three sources."""

    kind: Literal["cold_start"] = "cold_start"
    model: str
    user: list[Any] = Field(default_factory=list, description="Corpora of the user's own.")
    filtered: FilteredSource | None = None
    few_shot: FewShotSource | None = None
    merge: MergeSettings = Field(MergeSettings(), description="Filters, duplicates and caps over all sources.")
    held_out: list[str] = Field(default_factory=list, description="Evaluation sets that chains must not overlap.")
    ngram: int | None = Field(10, ge=3, description="Words of an overlap (R1: 10); null: whole problems only.")
    preset: str | None = Field(None, description="A YAML file of `zeroq sft` below defaults.sft.")
    job: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq sft`.")
    sampling: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq run`, for sampling.")


class RejectionSampleStage(Section):
    """Several samples per prompt from a checkpoint; what is right and readable becomes a corpus (R1, stage 2c)."""

    kind: Literal["rejection_sample"] = "rejection_sample"
    model: str
    problems: list[Problems] = Field(min_length=1)
    sampling: SampleSettings = SampleSettings()
    selection: SelectionSettings = SelectionSettings()
    decontaminate: list[str] = Field(default_factory=list, description="Evaluation sets, by file or suite name.")
    ngram: int | None = Field(10, ge=3, description="Words of an overlap (R1: 10); null: whole problems only.")
    common_ngram_share: float | None = Field(
        None, gt=0, lt=1, description="n-grams in more than this share of an evaluation set are templates, no overlap."
    )
    judge: JudgeSettings = Field(JudgeSettings(), description="Who answers where selection.judge asks somebody.")
    judge_model: str | None = Field(None, description="A local model that judges; null: judge.endpoint.")
    run: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq run`, for sampling.")


class PreferenceSource(Section):
    """Prompts whose responses are judged."""

    problems: list[Problems] = Field(min_length=1, description="Prompts; answers are not needed.")
    sampling: SampleSettings = SampleSettings(samples=2)


class PreferencesStage(Section):
    """What reward models are trained on: a checkpoint's responses, judged in pairs (helpful) or one by one (safety)."""

    kind: Literal["preferences"] = "preferences"
    model: str = Field(description="Whose responses are judged.")
    helpful: PreferenceSource | None = Field(None, description="Every two samples of a prompt are a pair.")
    safety: PreferenceSource | None = Field(None, description="Every sample is labelled.")
    judging: PreferenceSettings = PreferenceSettings()
    endpoint: EndpointSettings | None = Field(None, description="Who judges (R1: DeepSeek-V3).")
    judge_model: str | None = Field(None, description="Or a local model that judges.")
    judge_temperature: float = Field(1.0, ge=0, le=10, description="Of a local model; at 0 all its replies are equal.")
    judge_run: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `zeroq run` that differ for it, such as data.template."
    )
    run: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq run`, for sampling.")

    @model_validator(mode="after")
    def _complete(self) -> PreferencesStage:
        if self.helpful is None and self.safety is None:
            raise ValueError("name the prompts of helpful, of safety, or of both")
        if (self.endpoint is None) == (self.judge_model is None):
            raise ValueError("name who judges: endpoint (base_url, model), or judge_model, and not both")
        if self.helpful is not None and self.helpful.sampling.samples < 2:
            raise ValueError("helpful.sampling.samples: 1 makes no pair; sample 2 or more")
        temperature = self.judge_temperature if self.endpoint is None else self.endpoint.temperature
        if self.helpful is not None and temperature == 0 and self.judging.queries > 2:
            raise ValueError(
                f"judging.queries: {self.judging.queries}, and a judge at temperature 0 says the same each time; raise "
                "endpoint.temperature or judge_temperature, or set judging.queries=2"
            )
        return self


class RewardModelStage(Section):
    """Reward models: helpful (pairwise) and safety (point-wise), each from its preferences."""

    kind: Literal["reward_model"] = "reward_model"
    model: str
    helpful: str | None = Field(None, description="Pairs (Parquet).")
    safety: str | None = Field(None, description="Labelled responses (Parquet).")
    helpful_preset: str | None = Field(None, description="A YAML file of `zeroq reward-model`.")
    safety_preset: str | None = None
    helpful_job: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq reward-model`.")
    safety_job: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> RewardModelStage:
        if self.helpful is None and self.safety is None:
            raise ValueError("name the preferences of helpful, of safety, or of both")
        return self


class EvaluateStage(Section):
    """pass@1, pass@k, cons@k, length, format, language and preferences of several models, as one table."""

    kind: Literal["evaluate"] = "evaluate"
    models: dict[str, str] = Field(min_length=1, description="Row label: model; a row per stage.")
    suites: list[str] = Field(min_length=1, description="Names or files.")
    general: str | None = Field(None, description="Prompts without gold, for preference scores.")
    general_samples: int = Field(4, ge=1)
    reward_models: dict[Literal["helpfulness", "safety"], str] = Field(
        default_factory=dict, description="Reward models whose scores of the general prompts are in the table."
    )
    quality: str | None = Field(None, description="module:function (TRL's signature): held-out quality of the same.")
    k: int | Literal["auto"] = "auto"
    sampling: SampleSettings = SampleSettings(temperature=0.6, top_p=0.95)
    run: dict[str, Any] = Field(default_factory=dict, description="Keys of `zeroq run`, for sampling.")


Stage = (
    SmallWorldStage
    | GrpoStage
    | SftStage
    | ColdStartStage
    | RejectionSampleStage
    | PreferencesStage
    | RewardModelStage
    | EvaluateStage
)
KINDS: dict[str, type[Section]] = {
    "small_world": SmallWorldStage,
    "grpo": GrpoStage,
    "sft": SftStage,
    "cold_start": ColdStartStage,
    "rejection_sample": RejectionSampleStage,
    "preferences": PreferencesStage,
    "reward_model": RewardModelStage,
    "evaluate": EvaluateStage,
}
OUTPUTS: dict[str, tuple[str, ...]] = {
    "small_world": (
        *("base", "student", "train", "eval", "eval_sums", "eval_legs", "eval_code", "general_train", "general_eval"),
        *("corpus_base", "corpus_cold_start_user", "corpus_general"),
        *("preferences_helpful", "preferences_helpful_test", "preferences_safety", "preferences_safety_test"),
    ),
    "grpo": ("model", "run"),
    "sft": ("model",),
    "cold_start": ("model", "corpus"),
    "rejection_sample": ("corpus", "acceptance"),
    "preferences": ("helpful", "safety"),
    "reward_model": ("helpful", "safety"),
    "evaluate": ("results", "table", "samples"),
}


class Defaults(Section):
    """Settings that stages of a kind share."""

    run: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)
    reward_model: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)


class PipelineConfig(Section):
    """The whole pipeline."""

    seed: int = Field(0, ge=0, lt=2**32)
    run: RunSection = RunSection()
    defaults: Defaults = Defaults()
    stages: dict[str, Any] = Field(min_length=1)

    def stage(self, name: str) -> Stage:
        """The settings of one stage. UserError naming stage and key for what is wrong with them."""
        return _stage(name, self.stages[name], [other for other in self.stages if other != name])

    def outputs(self, name: str) -> tuple[str, ...]:
        """Names of what the stage makes."""
        return made_by(self.stage(name))


def load_pipeline(path: str | Path, overrides: list[str] | None = None) -> PipelineConfig:
    """Read YAML, apply `key=value` overrides, validate every stage and every reference between them. UserError."""
    tree, origins = read_tree(path, overrides)
    config = validate(PipelineConfig, tree, str(path), origins)
    outputs: dict[str, tuple[str, ...]] = {}
    for name in config.stages:
        if not _NAME.fullmatch(name):
            raise UserError(f"{path}: stages.{name!r}: a stage's name has small letters, digits, '_' and '-'")
        try:
            stage = config.stage(name)
            check_references(stage.model_dump(), f"stages.{name}", outputs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        outputs[name] = made_by(stage)
    for section, defaults in config.defaults.model_dump().items():
        try:
            check_references(defaults, f"defaults.{section}", {})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return config


def made_by(stage: Stage) -> tuple[str, ...]:
    """Names of a stage's outputs: those of its kind; of preferences and reward models, those that it is asked for."""
    names = OUTPUTS[stage.kind]
    if isinstance(stage, PreferencesStage | RewardModelStage):
        return tuple(name for name in names if getattr(stage, name) is not None)
    return names


def read_preset(name: str | None) -> dict[str, Any]:
    """The tree of a preset file, here or in recipes/configs/; empty for None. UserError when there is none."""
    if name is None:
        return {}
    given, shipped = Path(name), CONFIGS / name
    return read_tree(given if given.is_file() or not shipped.is_file() else shipped)[0]


def defaults_of(stage: Stage) -> dict[str, Any]:
    """What the settings of this kind of stage are where nothing is said."""
    usual = {
        name: field.get_default(call_default_factory=True)
        for name, field in type(stage).model_fields.items()
        if not field.is_required()
    }
    dumped: dict[str, Any] = type(stage).model_construct(**usual).model_dump(mode="json", include=set(usual))
    return dumped


def merged(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of several; later ones win, mappings are merged key by key, lists are replaced."""
    result: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            before = result.get(key)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _stage(name: str, tree: Any, others: list[str]) -> Stage:
    where = f"stages.{name}"
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: expected settings such as {{kind: sft, model: ...}}, got {tree!r}")
    kind = tree.get("kind", name)
    if not isinstance(kind, str):
        raise UserError(f"{where}.kind = {kind!r}: a stage's kind is a name; known: {', '.join(KINDS)}")
    if kind not in KINDS and "kind" not in tree and (near := difflib.get_close_matches(name, others, n=1)):
        raise UserError(f"{where}: no such stage, and no kind for a new one; did you mean stages.{near[0]}?")
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(KINDS)}"
        raise UserError(f"{where}.kind = {kind!r}: no such kind of stage; {hint}")
    return validate(KINDS[kind], {**tree, "kind": kind}, where)  # type: ignore[return-value]

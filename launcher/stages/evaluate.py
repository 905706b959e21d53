"""Owns the stage that measures: every model on every suite and on general prompts; one row a model, as in the paper.

    models that fit one engine ── Sampler.load(model) ── suites, general prompts ── STAGE/LABEL.SUITE.jsonl
                                                                                └── rows, results.json, samples.parquet

The reward models and the gold quality of general prompts are reward components here: scores, nobody is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.lifecycle import write_atomic
from evaluator.extract import final_answer, read
from launcher.equality import AnswerEquality
from launcher.eval_plan import engine_groups
from launcher.pipeline_report import markdown
from launcher.sampling import Sampler
from launcher.stages import Outcome, StageContext
from launcher.stages.samples import write_samples
from launcher.stages.sampling import ProblemSampling, Sampled, sampling_config
from recipes.datasets import Example, load_examples
from recipes.model_files import locate_model
from recipes.pipeline.config import SampleSettings
from recipes.suites.metrics import Equal, ProblemResult, RewardNames, Sample, evaluation_figures, same_text
from recipes.suites.registry import find_suites
from recipes.suites.suite import Suite, load_suite

GENERAL = "general"
VERIFIER_LIMIT_S = 1.0
_SCORES = ("helpfulness", "safety", "quality")
_NAMES = RewardNames(format="format", language="language")


@dataclass(frozen=True)
class Measurement:
    """One model on one set of problems."""

    label: str
    suite: str
    sampling: ProblemSampling


def evaluate(context: StageContext) -> Outcome:
    """Measure `settings.models`; those that fit one engine share it."""
    settings = context.settings
    sets = _problem_sets(context)
    rows: dict[str, dict[str, Any]] = {}
    details: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, list[Sampled]]] = {}
    for group in engine_groups({label: locate_model(name) for label, name in settings.models.items()}):
        for label, suite, sampled in _measure(context, group, sets):
            found.setdefault(label, {})[suite] = sampled
    with AnswerEquality(VERIFIER_LIMIT_S) as equal:
        for label in settings.models:  # in the order of the table, whatever engine they ran in
            own = {suite: suite_figures(found[label][suite], general=suite == GENERAL, equal=equal) for suite in sets}
            details[label], rows[label] = own, table_row(label, own)
    for label, by_suite in found.items():
        for suite, sampled in by_suite.items():
            path = context.folder / "samples" / f"samples.{_file_name(label)}.{suite}.parquet"
            path.parent.mkdir(exist_ok=True)
            write_samples(path, sampled, extra={"model": label, "suite": suite})
    table, results = context.folder / "table.md", context.folder / "results.json"
    write_atomic(table, markdown(list(rows.values())))
    write_atomic(results, json.dumps(details, indent=1) + "\n")
    figures = {"rows": list(rows.values()), "k": settings.k}
    return Outcome({"results": results, "table": table, "samples": context.folder / "samples"}, figures)


def suite_figures(sampled: Sequence[Sampled], *, general: bool, equal: Equal = same_text) -> dict[str, Any]:
    """Figures of one model on one set; general prompts have no pass@1. `equal`: whether two answers vote together."""
    results = [
        ProblemResult(s.example.id, [_sample(s, c) for c in s.completions], votable=s.example.code is None)
        for s in sampled
    ]
    figures = evaluation_figures(results, equal=equal, names=_NAMES)
    if general:
        for name in ("pass_at_1", "pass_at_1_standard_error", "pass_at_1_interval", "pass_at_k", "cons_at_k"):
            figures[name] = None
    return figures


def table_row(label: str, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A model's row: pass@1 of each suite, then means over the suites, then the scores of general prompts."""
    reasoning = {suite: own for suite, own in figures.items() if suite != GENERAL}
    k = max(own["samples"] for own in reasoning.values())
    row: dict[str, Any] = {"model": label}
    row |= {f"{suite.removeprefix('eval_')} pass@1": own["pass_at_1"] for suite, own in reasoning.items()}
    row["pass@1"] = _mean([own["pass_at_1"] for own in reasoning.values()])
    row["±"] = _mean_error([own["pass_at_1_standard_error"] for own in reasoning.values()])
    row[f"cons@{k}"] = _mean([own["cons_at_k"] for own in reasoning.values()])
    row["length"] = _mean([own["mean_length"] for own in reasoning.values()])
    row["format"] = _mean([own["format_rate"] for own in reasoning.values()])
    row["language"] = _mean([own["language_consistency"] for own in reasoning.values()])
    for name in _SCORES:
        value = figures.get(GENERAL, {}).get("rewards", {}).get(name)
        if value is not None:
            row[name] = value
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _measure(
    context: StageContext, group: Mapping[str, Path], sets: Mapping[str, tuple[list[Example], SampleSettings]]
) -> list[tuple[str, str, list[Sampled]]]:
    """Every model of a group on every set; the engine starts only if something is missing."""
    measurements = []
    for label, model in group.items():
        config = _config(context, model)
        for suite, (examples, settings) in sets.items():
            name = f"{_file_name(label)}.{suite}"
            measurements.append(
                Measurement(label, suite, ProblemSampling(context, config, examples, settings, name=name))
            )
    if any(measurement.sampling.missing for measurement in measurements):
        first = _config(context, next(iter(group.values())))
        with Sampler(first, stop=context.stop, say=context.say, swappable=True) as sampler:
            for measurement in measurements:
                if measurement.sampling.missing:
                    context.check_stop()
                    sampler.load(group[measurement.label])
                    context.say(f"{measurement.label}: {measurement.suite}")
                    measurement.sampling.run(sampler)
    return [(m.label, m.suite, m.sampling.results()) for m in measurements]


def _config(context: StageContext, model: Path) -> RunConfig:
    """How this stage samples and grades: accuracy, format, language, and the scores of general prompts."""
    settings = context.settings
    components: list[dict[str, Any]] = [
        {"name": "accuracy", "kind": "accuracy"},
        {"name": "format", "kind": "format"},
        {"name": "language", "kind": "language", "language": "auto"},
    ]
    for aspect, reward_model in settings.reward_models.items():
        components.append({"name": aspect, "kind": "reward_model", "model": reward_model, "when": {"aspect": aspect}})
    if settings.quality is not None:
        components.append(
            {"name": "quality", "kind": "function", "function": settings.quality, "when": {"kind": "general"}}
        )
    return sampling_config(context, str(model), {**settings.run, "reward": {"components": components}})


def _problem_sets(context: StageContext) -> dict[str, tuple[list[Example], SampleSettings]]:
    """Problems and sampling of each suite, and of the general prompts."""
    settings = context.settings
    sets = {}
    for suite in find_suites(settings.suites):
        sets[suite.name] = (load_suite(suite, say=context.say), _suite_sampling(settings, suite))
    if settings.general is not None:
        examples = load_examples(settings.general, training=False, need_answer=False)
        sets[GENERAL] = (examples, settings.sampling.model_copy(update={"samples": settings.general_samples}))
    return sets


def _suite_sampling(settings: Any, suite: Suite) -> SampleSettings:
    sampling: SampleSettings = settings.sampling
    return sampling.model_copy(update={"samples": suite.k if settings.k == "auto" else settings.k})


def _sample(sampled: Sampled, completion: Any) -> Sample:
    return Sample(
        passed=completion.verdict.outcome == "pass",
        answer=final_answer(read(sampled.prompt, completion.text)),
        num_tokens=completion.num_tokens,
        clipped=completion.clipped,
        rewards=completion.verdict.rewards,
    )


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", label).strip("_")


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return sum(given) / len(given) if given else None


def _mean_error(errors: Sequence[float | None]) -> float | None:
    """Standard error of a mean of independent suites."""
    given = [error for error in errors if error is not None]
    return sum(error**2 for error in given) ** 0.5 / len(given) if given else None

"""Owns evaluation: several models on several suites through as few engines as fit, no training.

    suites ── plan (template, tokens) ──> requests ── Sampler ──> graded samples ── journal ── figures ──> table, files

`evaluate_models` is what a pipeline calls with a sampler of its own; `run_evaluation` is the `zeroq eval` command.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.errors import EXIT_OK, UserError
from common.lifecycle import StopFlag
from evaluator.extract import final_answer, read
from evaluator.graders import CODE, NO_ACCURACY, accuracy_kind
from launcher.equality import AnswerEquality
from launcher.eval_journal import GradedSample
from launcher.eval_plan import (
    GREEDY,
    REWARD_MODEL,
    SAMPLED,
    SCORE,
    EvalSettings,
    Plan,
    Say,
    Select,
    engine_groups,
    grading_config,
    load_suites,
    plan,
)
from launcher.eval_report import EvalProblem, SuiteResult, print_table, write_json, write_results
from launcher.sampling import Completion, Sampler, SampleRequest
from recipes.model_files import HubUnreachable, locate_model
from recipes.prepare import Record
from recipes.suites.contests import Contest, Entry, contest_figures, enter
from recipes.suites.metrics import ProblemResult, RewardNames, Sample, evaluation_figures, same_text, winner
from recipes.suites.suite import Suite


@dataclass(frozen=True)
class EvalRequest:
    """The command's request: model directories or names, suites, and where results go."""

    models: Sequence[str]
    suites: Sequence[Suite]
    settings: EvalSettings
    reward_model: str | None = None
    out: Path | None = None
    json_path: Path | None = None
    standings: Mapping[str, Contest] | None = None


def run_evaluation(config: RunConfig, request: EvalRequest) -> int:
    """Evaluate and show; returns the exit code. Models of the same shape share an engine."""
    if request.json_path is not None and not request.json_path.resolve().parent.is_dir():
        raise UserError(f"--json {request.json_path}: its directory does not exist")
    began = time.monotonic()
    try:
        models = {name: locate_model(name).resolve() for name in request.models}
    except HubUnreachable as error:
        raise UserError(f"{error}; give a local path") from None
    config = grading_config(config, request.suites, request.reward_model)
    examples = load_suites(request.suites)
    stop = StopFlag().install()
    results: dict[str, dict[str, SuiteResult]] = {}
    entries: dict[str, list[Entry]] = {}
    for group in engine_groups(models):
        own = config.model_copy(update={"model": str(next(iter(group.values())))})
        plans = plan(own, group, request.suites, request.settings, request.out, examples)
        if request.standings is not None and not entries:
            entries = enter_contests(plans, request.standings)
        if any(p.missing for p in plans):
            with Sampler(own, stop=stop, swappable=len(group) > 1) as sampler:
                _sample(plans, sampler, print)
        results |= _results(own, plans, request.settings, entries)
    wall_s = time.monotonic() - began
    print_table(results)
    if request.out is not None:
        write_results(request.out, results)
        print(f"results, and every sample, in {request.out}")
    if request.json_path is not None:
        write_json(request.json_path, results, wall_s)
    return EXIT_OK


def evaluate_models(
    config: RunConfig,
    models: Mapping[str, Path],
    suites: Sequence[Suite],
    sampler: Sampler,
    settings: EvalSettings,
    *,
    out: Path | None = None,
    say: Say = print,
) -> dict[str, dict[str, SuiteResult]]:
    """Every model on every suite through one running engine: {model's name: {suite's name: result with all samples}}.

    `config` is the sampler's, made by `grading_config` for these suites; models must fit its engine. With `out`,
    samples are kept there as they come, what is there is not sampled again, and results are written. Raises UserError,
    RunFailure, and KeyboardInterrupt when the sampler is stopped.
    """
    plans = plan(config, models, suites, settings, out, load_suites(suites, say))
    _sample(plans, sampler, say)
    results = _results(config, plans, settings)
    if out is not None:
        write_results(out, results)
    return results


def enter_contests(plans: Sequence[Plan], standings: Mapping[str, Contest]) -> dict[str, list[Entry]]:
    """The contests that the problems of each suite make up; UserError if there is not one."""
    entries: dict[str, list[Entry]] = {}
    lacking: dict[str, list[str]] = {}
    for name, records in {p.suite.name: p.records for p in plans}.items():
        entries[name], lacking[name] = enter([record["spec"].get("columns", {}) for record in records], standings)
    if not any(entries.values()):
        raise UserError(
            f"--standings: no suite has all problems of a contest of it ({_listed(list(standings))}); problems name "
            "theirs by the columns contest_id and index"
        )
    for name, contests in lacking.items():
        if contests:
            print(f"{name}: contests that lack problems are not rated: {_listed(contests)}")
    return entries


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _sample(plans: Sequence[Plan], sampler: Sampler, say: Say) -> None:
    """Sample what is missing, model by model; every problem is in its journal as soon as it is graded."""
    for model in dict.fromkeys(p.model for p in plans):
        own = [p for p in plans if p.model == model]
        left = {number: len(p.missing) for number, p in enumerate(own)}
        if not any(left.values()):
            continue
        there = sum(len(p.journal.found) for p in own)
        on = own[0].suite.name if len(own) == 1 else f"{len(own)} suites"
        say(f"{model}: {sum(left.values())} requests on {on}{f', {there} there already' if there else ''}")
        sampler.load(own[0].path)
        try:
            for task in sampler.sample(list(_requests(own))):
                number, index, kind = task.key.split("/")
                p = own[int(number)]
                p.journal.add(int(index), kind, [_graded(p.records[int(index)], c) for c in task.completions])
                left[int(number)] -= 1
                if not left[int(number)]:
                    say(f"{model}: {p.suite.name} is through")
        finally:
            for p in own:
                p.journal.close()


def _requests(plans: Sequence[Plan]) -> Iterator[SampleRequest]:
    for number, p in enumerate(plans):
        for index, kind in p.missing:
            yield SampleRequest(f"{number}/{index}/{kind}", p.records[index], *p.samplings[kind])


def _graded(record: Record, completion: Completion) -> GradedSample:
    verdict = completion.verdict
    scores = [v for name, v in verdict.rewards.items() if name.partition("_")[0] == SCORE and v is not None]
    return GradedSample(
        response=completion.text,
        num_tokens=completion.num_tokens,
        clipped=completion.clipped,
        outcome=verdict.outcome,
        passed=all(score >= 1.0 for score in scores) if scores else verdict.outcome == "pass",
        reward=verdict.reward,
        rewards=dict(verdict.rewards),
        detail=verdict.detail,
        answer=_answer(record, completion.text),
    )


def _answer(record: Record, text: str) -> str | None:
    """What a completion answers, by the extraction that its grading uses; programs are no answers to vote on."""
    response, kind = read(str(record["prompt"]), text), record["spec"].get("kind")
    if kind == CODE:
        return None
    how = accuracy_kind(kind)
    return final_answer(response) if how is None else how.extract(response)


def _results(
    config: RunConfig, plans: Sequence[Plan], settings: EvalSettings, entries: Mapping[str, list[Entry]] | None = None
) -> dict[str, dict[str, SuiteResult]]:
    """Figures of every plan, all of whose samples are there. `entries`: contests to be rated in, by suite."""
    names = _names(config)
    results: dict[str, dict[str, SuiteResult]] = {}
    with AnswerEquality(config.reward.math_timeout_s) as equality:
        for p in plans:
            measured = [_measured(p, index, equality) for index in range(len(p.records))]
            figures = evaluation_figures(measured, names=names, seed=settings.seed)
            problems = [
                EvalProblem(
                    id=str(record["id"]),
                    prompt=str(record["prompt"]),
                    gold=record["spec"].get("answer"),
                    samples=p.journal.found[index, SAMPLED],
                    greedy=next(iter(p.journal.found.get((index, GREEDY), [])), None),
                    selected=_selected(measured[index], settings.select, equality),
                )
                for index, record in enumerate(p.records)
            ]
            if settings.select is not None:
                figures["selected"] = {
                    "by": settings.select,
                    "accuracy": _selected_accuracy(measured, problems, settings),
                }
            if own := (entries or {}).get(p.suite.name):
                figures["contests"] = contest_figures(own, [[s.passed for s in m.samples] for m in measured])
            asked = p.asked | {"max_tokens": p.samplings[SAMPLED][1].max_tokens}
            results.setdefault(p.model, {})[p.suite.name] = SuiteResult(p.model, p.suite, asked, figures, problems)
    return results


def _names(config: RunConfig) -> RewardNames:
    """The components that hold format, language and the reward model's score."""
    first = {component.kind: component.name for component in reversed(config.reward.components)}
    score = REWARD_MODEL if any(c.name == REWARD_MODEL for c in config.reward.components) else None
    return RewardNames(first.get("format"), first.get("language"), score)


def _measured(p: Plan, index: int, equality: AnswerEquality) -> ProblemResult:
    record = p.records[index]
    kind = record["spec"].get("kind")
    greedy = p.journal.found.get((index, GREEDY))
    return ProblemResult(
        str(record["id"]),
        [_plain(sample) for sample in p.journal.found[index, SAMPLED]],
        None if greedy is None else _plain(greedy[0]),
        votable=kind not in (CODE, NO_ACCURACY),
        equal=equality if kind == "math" else same_text,
    )


def _plain(sample: GradedSample) -> Sample:
    return Sample(sample.passed, sample.answer, sample.num_tokens, sample.clipped, sample.rewards)


def _selected_accuracy(
    measured: Sequence[ProblemResult], problems: Sequence[EvalProblem], settings: EvalSettings
) -> float | None:
    """Share of problems whose selected sample is right; a majority only where answers can be compared."""
    able = [q for m, q in zip(measured, problems, strict=True) if m.votable or settings.select != "majority"]
    right = [q.selected is not None and q.samples[q.selected].passed for q in able]
    return sum(right) / len(right) if right else None


def _selected(result: ProblemResult, select: Select | None, equality: AnswerEquality) -> int | None:
    """The sample that one would hand out: the majority's, or the one of the highest score."""
    if select is None:
        return None
    if select == "majority":
        return winner(result.samples, result.equal or equality)
    scores = [sample.rewards.get(REWARD_MODEL) for sample in result.samples]
    given = [score for score in scores if score is not None]
    return scores.index(max(given)) if given else 0

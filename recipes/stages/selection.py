"""Owns rejection sampling's bookkeeping: graded samples in, corpus rows and the acceptance table out.

    graded task ─ correct? ─ readable? ─ duplicates ─ judge (confirm) ─ cap per prompt ─┐ add(), task by task
                                                                                        │
    same prompt under two ids: duplicates and cap again ─ cap per source ─ corpus rows ─┘ finish()

Only correct samples are kept (arXiv 2501.12948, 2.3.3). Where rules cannot tell, a generative judge can: `confirm` asks
it about the samples that the rules passed, after the cheap filters; `decide` asks it about every graded or ungraded
sample in the rules' place. What the judge leaves unclear is kept out and counted.

difficulty = 1 - share of the graded samples that are correct; samples whose grader broke (`error`) are no evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from common.config import Section
from common.errors import UserError
from recipes.stages.acceptance import Acceptance, difficulty_bucket
from recipes.stages.corpus import CorpusRow
from recipes.stages.dedup import Prefer, cap_sources, choose, drop_duplicates, exact_key
from recipes.stages.filters import FilterInput, FilterReport, FilterSettings, LanguageShare, apply_filters
from recipes.stages.judge_contract import Judge, JudgeQuestion
from recipes.stages.text import split_response


class SelectionSettings(Section):
    """What is kept of the graded samples."""

    filters: FilterSettings = FilterSettings()
    judge: Literal["off", "confirm", "decide"] = Field(
        "off", description="confirm: a sample must pass the rules and the judge; decide: the judge in the rules' place."
    )
    near_duplicates: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity from which two responses to a prompt are one; null: exact only.",
    )
    duplicate_ngram: int = Field(5, ge=1, description="Words of an n-gram when responses are compared.")
    per_prompt: int | None = Field(4, ge=1, description="Most responses kept of one prompt; null: all.")
    prefer: Prefer = Field("diverse", description="Which are kept (recipes/stages/dedup.py): diverse, shortest, first.")
    per_source: int | None = Field(None, ge=1, description="Most rows of one source; null: all.")
    min_general_reward: float | None = Field(
        None, description="Least reward of a sample of kind general, which no rule can call correct; null: any."
    )
    seed: int = 0


@dataclass(frozen=True)
class GradedResponse:
    """One sample of a task. `outcome`: pass, fail, timeout or error (the grader broke: no evidence)."""

    text: str
    outcome: str
    reward: float
    num_tokens: int | None = None
    clipped: bool = False
    language_share: float | None = None


@dataclass(frozen=True)
class GradedTask:
    """One problem and its graded samples. `prompt`: as rendered; `gold`: the known answer, which judges need."""

    id: str
    source: str
    problem: str
    prompt: str
    responses: Sequence[GradedResponse]
    language: str | None = None
    gold: str | None = None
    domain: str = "math"
    kind: Literal["reasoning", "general"] = "reasoning"


@dataclass(frozen=True)
class Selection:
    """What rejection sampling gives: the corpus, and the account of what was left out."""

    rows: list[CorpusRow]
    acceptance: Acceptance


@dataclass(frozen=True)
class _Sample:
    """One response on its way through `Selector.add`."""

    id: str
    task: GradedTask
    response: GradedResponse
    difficulty: float | None = None

    @property
    def text(self) -> str:
        return self.response.text


class Selector:
    """Collects graded tasks as they come and keeps of each only what may end in the corpus."""

    def __init__(
        self,
        settings: SelectionSettings,
        *,
        origin: str,
        language_share: LanguageShare | None = None,
        judge: Judge | None = None,
    ) -> None:
        """`origin`: the stage, for the rows. UserError if the settings name a judge and there is none."""
        if settings.judge != "off" and judge is None:
            raise UserError(f"selection.judge is {settings.judge} and no judge is configured; set one, or judge=off")
        self._settings = settings
        self._origin = origin
        self._share = language_share
        self._judge = judge
        self._samples: list[_Sample] = []
        self._tasks: set[str] = set()
        self._acceptance = Acceptance()

    def add(self, tasks: Sequence[GradedTask]) -> int:
        """Take graded tasks; the judge is asked about all of them at once. Returns the number of samples still kept.

        Raises UserError for a task that was added before, or that a judge needs a gold answer for.
        """
        for task in tasks:
            if task.id in self._tasks:
                raise UserError(f"{self._origin}: problem {task.id!r} was given twice; merge its samples into one task")
            self._tasks.add(task.id)
        counts = {task.id: Counter({"prompts": 1, "sampled": len(task.responses)}) for task in tasks}
        correct = self._correct(tasks, counts)
        difficulty = {task.id: self._difficulty(task, counts[task.id]) for task in tasks}
        kept = [replace(sample, difficulty=difficulty[sample.task.id]) for sample in correct]
        kept = self._readable(kept, counts)
        kept = [sample for group in _by_task(kept) for sample in self._distinct(group, counts)]
        if self._settings.judge == "confirm":
            kept = self._judged(kept, counts)
        before = len(self._samples)
        for group in _by_task(kept):
            self._samples += self._capped(group, counts)
        for task in tasks:
            self._acceptance.add(task.source, difficulty_bucket(difficulty[task.id]), counts[task.id])
        return len(self._samples) - before

    def finish(self) -> Selection:
        """The corpus: prompts that came under several ids are made one, sources are capped, `kept` is counted."""
        late: dict[str, Counter[str]] = {}
        by_prompt: dict[bytes, list[_Sample]] = {}
        for sample in self._samples:
            by_prompt.setdefault(exact_key(sample.task.prompt), []).append(sample)
        kept: list[_Sample] = []
        for group in by_prompt.values():
            if len({sample.task.id for sample in group}) > 1:
                group = self._capped(self._distinct(group, late), late)
            kept += group
        chosen = cap_sources(
            kept,
            self._settings.per_source,
            source=lambda sample: sample.task.source,
            prompt=lambda sample: exact_key(sample.task.prompt),
            key=lambda sample: sample.id,
            seed=self._settings.seed,
        )
        _count_lost(kept, chosen, "capped", late)
        for sample in chosen:
            late.setdefault(sample.task.id, Counter())["kept"] += 1
        cells = {s.task.id: (s.task.source, difficulty_bucket(s.difficulty)) for s in self._samples}
        for task_id, counts in late.items():
            self._acceptance.add(*cells[task_id], counts)
        self._samples = chosen
        return Selection([self._row(sample) for sample in chosen], self._acceptance)

    # ------------------------------------------------------------------ steps

    def _correct(self, tasks: Sequence[GradedTask], counts: dict[str, Counter[str]]) -> list[_Sample]:
        """The samples that are correct, by the rules or by the judge in their place."""
        samples = [
            _Sample(f"{task.id}#{k}", bare, response)
            for task in tasks
            for bare in [replace(task, responses=())]  # a sample that is kept must not keep all others in memory
            for k, response in enumerate(task.responses)
        ]
        least = self._settings.min_general_reward
        decides = self._settings.judge == "decide"
        general = [s for s in samples if s.task.kind == "general" and (least is None or s.response.reward >= least)]
        reasoning = [s for s in samples if s.task.kind == "reasoning"]
        if decides:
            correct = self._judged([s for s in reasoning if not s.response.clipped], counts)
        else:
            correct = [s for s in reasoning if s.response.outcome == "pass"]
            for sample in reasoning:
                counts[sample.task.id]["ungraded"] += sample.response.outcome == "error"
        for sample in [*correct, *general]:
            counts[sample.task.id]["correct"] += 1
        return [*correct, *general]

    def _difficulty(self, task: GradedTask, counts: Counter[str]) -> float | None:
        """1 - share of the graded samples that are correct; None for general prompts and where none was graded."""
        unclear = counts["judged_unclear"] if self._settings.judge == "decide" else 0
        graded = len(task.responses) - counts["ungraded"] - unclear
        return 1.0 - counts["correct"] / graded if graded and task.kind == "reasoning" else None

    def _readable(self, samples: list[_Sample], counts: dict[str, Counter[str]]) -> list[_Sample]:
        kept: list[_Sample] = []
        for sample in samples:
            report = FilterReport()
            passed, _ = apply_filters(
                [sample], self._settings.filters, view=_filter_input, language_share=self._share, report=report
            )
            kept += passed
            for name, (row_id, detail) in report.examples.items():
                counts[sample.task.id][f"filtered_{name}"] += 1
                self._acceptance.examples.setdefault(name, (row_id, detail))
        return kept

    def _distinct(self, samples: list[_Sample], counts: dict[str, Counter[str]]) -> list[_Sample]:
        s = self._settings
        kept = drop_duplicates(samples, lambda sample: sample.text, n=s.duplicate_ngram, near=s.near_duplicates)
        return _count_lost(samples, kept, "duplicate", counts)

    def _capped(self, samples: list[_Sample], counts: dict[str, Counter[str]]) -> list[_Sample]:
        s = self._settings
        if s.per_prompt is None:
            return samples
        kept = choose(samples, lambda sample: sample.text, s.per_prompt, prefer=s.prefer, n=s.duplicate_ngram)
        return _count_lost(samples, kept, "capped", counts)

    def _judged(self, samples: list[_Sample], counts: dict[str, Counter[str]]) -> list[_Sample]:
        """The samples that the judge calls correct, and general ones, which have no gold; the others are counted."""
        assert self._judge is not None, "the constructor refuses settings that need a judge without one"
        asked = [sample for sample in samples if sample.task.kind == "reasoning"]
        opinions = self._judge.judge([_question(sample) for sample in asked])
        refused: set[str] = set()
        for sample, opinion in zip(asked, opinions, strict=True):
            counts[sample.task.id]["judged"] += 1
            if opinion != "correct":
                counts[sample.task.id][f"judged_{opinion}"] += 1
                refused.add(sample.id)
        return [sample for sample in samples if sample.id not in refused]

    def _row(self, sample: _Sample) -> CorpusRow:
        task = sample.task
        return CorpusRow(
            id=sample.id,
            source=task.source,
            language=task.language,
            problem=task.problem,
            prompt=task.prompt,
            response=sample.text,
            kind=task.kind,
            difficulty=sample.difficulty,
            num_tokens=sample.response.num_tokens,
            origin=self._origin,
        )


def _by_task(samples: list[_Sample]) -> list[list[_Sample]]:
    groups: dict[str, list[_Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.task.id, []).append(sample)
    return list(groups.values())


def _question(sample: _Sample) -> JudgeQuestion:
    gold = sample.task.gold
    if gold is None:
        raise UserError(
            f"judge: problem {sample.task.id!r} has no gold answer to compare with; leave it out, or judge=off"
        )
    prediction = split_response(sample.text, sample.task.prompt).summary
    return JudgeQuestion(sample.id, sample.task.problem, gold, prediction)


def _filter_input(sample: _Sample) -> FilterInput:
    task, response = sample.task, sample.response
    return FilterInput(
        id=sample.id,
        response=response.text,
        prompt=task.prompt,
        language=task.language,
        domain=task.domain,
        num_tokens=response.num_tokens,
        clipped=response.clipped,
        language_share=response.language_share,
    )


def _count_lost(
    before: list[_Sample], after: list[_Sample], name: str, counts: dict[str, Counter[str]]
) -> list[_Sample]:
    """`after`, with what it lacks of `before` counted under `name` by task."""
    left = {id(sample) for sample in after}
    for sample in before:
        if id(sample) not in left:
            counts.setdefault(sample.task.id, Counter())[name] += 1
    return after

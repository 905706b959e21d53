"""Owns decontamination: training problems that share ten words in a row with an evaluation problem are removed
(DeepSeek-R1, arXiv 2501.12948 v2: 10-gram decontamination against the evaluation sets).

Words are compared in compatibility form and without case or punctuation; digits are kept. Independently of n-grams the
whole problem is always compared, operators included, so that problems of fewer than n words are covered and
"4 + 9 - 6" is not "4 - 9 + 6". Give raw problems, never rendered prompts: a template is shared by all.

What n-grams cannot know:
- A copy with other numbers or words at least every n words apart is not found.
- Problems of one synthetic family share their template ("State the final answer to the following arithmetic problem"),
  so a family would match itself everywhere. For these either compare whole problems only (`n=None`), or set
  `max_share`: n-grams that stand in more than that share of the evaluation set are ignored. Its risk: in a small or
  uniform evaluation set a sentence of real problems is ignored as well, and copies that share only it go unseen. Off by
  default.
- In scripts without blanks a word is one character here, so ten of them are a short phrase: more is removed, not less.

The index holds the evaluation side (thousands of problems); the training side is streamed against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from common.errors import UserError
from recipes.stages.dedup import exact_key
from recipes.stages.text import normalised_units

NGRAM = 10
T = TypeVar("T")
_Gram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """One training problem and the first evaluation problem that it overlaps, by row (from 0), and what they share."""

    train: int
    evaluation: int
    shared: str


class EvaluationIndex:
    """All n-grams and whole problems of an evaluation set."""

    def __init__(self, problems: Sequence[str], *, n: int | None = NGRAM, max_share: float | None = None) -> None:
        """`n`: words of an n-gram, None: whole problems only; `max_share`: see the module. ValueError out of range."""
        if n is not None and n < 1:
            raise ValueError(f"an n-gram of {n} words says nothing; use at least 1, or null for whole problems only")
        if max_share is not None and not 0 < max_share <= 1:
            raise ValueError(f"max_share must lie in 0 to 1 and not be 0, got {max_share}")
        self.num_ignored = 0
        self._n = n
        self._whole: dict[bytes, int] = {}
        self._grams: dict[_Gram, int] = {}
        frequency: Counter[_Gram] = Counter()
        for number, problem in enumerate(problems):
            self._whole.setdefault(exact_key(problem), number)
            grams = set(self._ngrams(problem))
            for gram in grams:
                self._grams.setdefault(gram, number)
            if max_share is not None:
                frequency.update(grams)
        if max_share is not None:
            most = max(1.0, max_share * len(problems))
            ignored = [gram for gram, count in frequency.items() if count > most]
            self.num_ignored = len(ignored)
            for gram in ignored:
                del self._grams[gram]

    def find(self, problem: str) -> tuple[int, str] | None:
        """Row of the first evaluation problem that `problem` overlaps and the shared n-gram (or "whole problem")."""
        if not problem.strip():
            return None
        whole = self._whole.get(exact_key(problem))
        if whole is not None:
            return whole, "the whole problem"
        for gram in self._ngrams(problem):
            found = self._grams.get(gram)
            if found is not None:
                return found, " ".join(gram)
        return None

    def _ngrams(self, problem: str) -> Iterable[_Gram]:
        if self._n is None:
            return ()
        words = normalised_units(problem)
        return zip(*(words[shift:] for shift in range(self._n)), strict=False)


def overlapping(
    train_problems: Iterable[str],
    eval_problems: Sequence[str],
    *,
    n: int | None = NGRAM,
    max_share: float | None = None,
) -> list[Overlap]:
    """Each training problem that overlaps the evaluation set, with the first shared n-gram; in training order."""
    index = EvaluationIndex(eval_problems, n=n, max_share=max_share)
    found = []
    for number, problem in enumerate(train_problems):
        if hit := index.find(problem):
            found.append(Overlap(number, *hit))
    return found


@dataclass
class DecontaminationReport:
    """What was removed: rows seen and removed, and by suite how many overlap it (a row may overlap several).

    `examples`: by suite (training row's name, evaluation row from 0, what they share).
    """

    seen: int = 0
    removed: int = 0
    by_suite: dict[str, int] = field(default_factory=dict)
    ignored_ngrams: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[str, int, str]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, str | int]]:
        """One row a suite, for a results table."""
        rows = []
        for suite, count in self.by_suite.items():
            name, number, shared = self.examples.get(suite, ("", 0, ""))
            row: dict[str, str | int] = {"suite": suite, "removed": count, "ignored_ngrams": self.ignored_ngrams[suite]}
            rows.append(row | {"example": name, "eval_row": number if count else "", "shared": shared})
        return rows


def decontaminate(
    rows: Iterable[T],
    suites: Mapping[str, Sequence[str]],
    *,
    problem: Callable[[T], str],
    name: Callable[[T], str],
    n: int | None = NGRAM,
    max_share: float | None = None,
) -> tuple[list[T], DecontaminationReport]:
    """`rows` without those whose problem overlaps an evaluation problem of any of `suites` (name: raw problems).

    `max_share` is taken within each suite.
    """
    indexes = {suite: EvaluationIndex(problems, n=n, max_share=max_share) for suite, problems in suites.items()}
    report = DecontaminationReport(
        by_suite=dict.fromkeys(indexes, 0),
        ignored_ngrams={suite: index.num_ignored for suite, index in indexes.items()},
    )
    kept = []
    for row in rows:
        report.seen += 1
        clean = True
        for suite, index in indexes.items():
            if hit := index.find(problem(row)):
                clean = False
                report.by_suite[suite] += 1
                report.examples.setdefault(suite, (name(row), *hit))
        if clean:
            kept.append(row)
    report.removed = report.seen - len(kept)
    return kept, report


def refuse_overlap(
    train: Iterable[tuple[str, str]],
    evaluation: Sequence[tuple[str, str]],
    *,
    n: int | None = NGRAM,
    max_share: float | None = None,
) -> None:
    """Raise UserError naming both rows if a training problem overlaps the evaluation set.

    Both sides: (where a row stands, its raw problem). Stops at the first overlap.
    """
    index = EvaluationIndex([problem for _, problem in evaluation], n=n, max_share=max_share)
    for where, problem in train:
        if hit := index.find(problem):
            number, shared = hit
            what = shared if shared.startswith("the whole") else f'"{shared}"'
            raise UserError(
                f"evaluation set overlaps training data: {evaluation[number][0]} and {where} share {what}; remove the "
                "training row (decontamination does), or evaluate on another set"
            )

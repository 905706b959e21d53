"""Owns keeping what is trained on apart from what is measured on: evaluation sets by name; overlaps are refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from common.config import FieldMap
from recipes.datasets import Example, load_examples
from recipes.stages.corpus import CorpusRow, iterate_rows
from recipes.stages.decontaminate import refuse_overlap
from recipes.suites.registry import is_suite, suite_source


def evaluation_prompts(name: str, fields: FieldMap | None = None) -> list[Example]:
    """The problems of an evaluation set, given by file or by a suite's name."""
    source = suite_source(name) if is_suite(name) else name
    return load_examples(source, fields=fields, training=False, need_answer=False)


def refuse_held_out(corpora: Iterable[Path], held_out: Sequence[str], *, ngram: int | None) -> None:
    """UserError naming both rows if a corpus holds a problem of one of the evaluation sets."""
    sets = [(example.where, example.prompt) for name in held_out for example in evaluation_prompts(name)]
    if sets:
        rows = (
            (f"{path}: row {number}", row.problem)
            for path in corpora
            for number, row in enumerate(iterate_rows(path, CorpusRow), start=1)
        )
        refuse_overlap(rows, sets, n=ngram)

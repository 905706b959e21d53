"""Owns what an evaluation suite is: where its problems come from, and how they are sampled.

    Suite ── load_suite ──> examples        a file (also in $ZEROQ_DATA), a Hugging Face dataset, or rows made by code

Rows of a foreign shape are converted one by one to our own columns and then read like any file, with the same checks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.config import FieldMap
from common.errors import UserError
from recipes.datasets import Example, _hugging_face_rows, _read_lines, find_file, load_examples
from recipes.prompts import Template

DEFAULT_K = 16  # where R1's report names none
MAX_TOKENS = 32_768  # [R1]
TEMPERATURE = 0.6  # [R1]
TOP_P = 0.95  # [R1]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """One evaluation set.

    `source`: JSON-lines file (relative names also in $ZEROQ_DATA), datasets directory or hub name; or `rows` yields
    rows of our own schema. `convert` turns a row of the source into one of our schema (None: the problem is left out).
    `local`: a file NAME.jsonl in $ZEROQ_DATA, with the source's columns or ours, saves the way to the hub.
    `only`: dotted columns that must have these values. `language_from`: dotted column with the problem's language.
    `instruction` is added to the problem where the model's chat template is used. `score`: "module:function", a reward
    function that judges in place of the accuracy grader. `note` says what the reader of a result must know.
    """

    name: str
    source: str = ""
    rows: Callable[[], Iterable[Row]] | None = None
    convert: Callable[[Row], Row | None] | None = None
    local: bool = False
    split: str = "test"
    fields: FieldMap = field(default_factory=FieldMap)
    only: Mapping[str, Any] = field(default_factory=dict)
    language_from: str | None = None
    instruction: str | None = None
    template: Template | None = None
    score: str | None = None
    k: int = DEFAULT_K
    max_tokens: int = MAX_TOKENS
    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    note: str = ""


def load_suite(suite: Suite, *, say: Callable[[str], object] = print) -> list[Example]:
    """The problems, in order. UserError naming the suite; HubUnreachable when only the silent hub has it."""
    if suite.rows is not None:
        examples = _of_rows(suite, suite.rows())
    elif suite.convert is not None:
        examples = _converted(suite, suite.convert, say)
    else:
        source = local_copy(suite) or suite.source
        examples = load_examples(
            source, fields=suite.fields, split=suite.split, training=False, need_answer=suite.score is None
        )
    chosen = [example for example in examples if _matches(example, suite.only)]
    if not chosen:
        raise UserError(f"suite {suite.name}: no problem of {suite.source} has {dict(suite.only)}")
    return [_with_language(example, suite.language_from) for example in chosen]


def local_copy(suite: Suite) -> str | None:
    """The file in $ZEROQ_DATA that stands for the hub's dataset, if the suite allows it and there is one."""
    for name in (f"{suite.name}.jsonl", f"{suite.name}.jsonl.gz") if suite.local else ():
        try:
            find_file(name)
        except UserError:
            continue
        return name
    return None


def put_instruction(example: Example, instruction: str) -> Example:
    """The problem with the instruction below it (in its last turn, where it is a conversation)."""
    messages = example.messages
    if messages:
        last = messages[-1]
        messages = [*messages[:-1], last | {"content": f"{last['content']}\n{instruction}"}]
    return replace(example, prompt=f"{example.prompt}\n{instruction}", messages=messages)


def column(columns: Mapping[str, Any], dotted: str) -> Any:
    """`meta.lang` of {"meta": {"lang": "de"}}; None where there is none."""
    value: Any = columns
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _converted(suite: Suite, convert: Callable[[Row], Row | None], say: Callable[[str], object]) -> list[Example]:
    """Rows of another shape. A local copy may have the source's columns or ours."""
    converted: list[Row] = []
    num_left_out = 0
    for where, row in _source_rows(local_copy(suite) or suite.source, suite.split):
        try:
            found = row if "prompt" in row else convert(row)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"suite {suite.name}: {where}: not a row as {suite.source} has them: {error!r}") from None
        num_left_out += found is None
        converted += [] if found is None else [found]
    if num_left_out:
        say(f"suite {suite.name}: {num_left_out} problems left out ({suite.note})")
    return _of_rows(suite, converted)


def _source_rows(source: str, split: str) -> Iterator[tuple[str, Row]]:
    """(where, row) of a file, datasets directory or hub name, as they are there."""
    path = find_file(source)
    return _read_lines(path) if path else _hugging_face_rows(source, split)


def _of_rows(suite: Suite, rows: Iterable[Row]) -> list[Example]:
    """Rows of our own schema, checked as those of a file are."""
    with tempfile.TemporaryDirectory(prefix="zeroq-suite-") as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            examples = load_examples(str(path), training=False, need_answer=suite.score is None)
        except UserError as error:
            raise UserError(f"suite {suite.name}: {str(error).replace(str(path), 'row')}") from None
    return [replace(e, where=e.where.replace(str(path), f"suite {suite.name}: row")) for e in examples]


def _matches(example: Example, only: Mapping[str, Any]) -> bool:
    return all(column(example.columns, name) == value for name, value in only.items())


def _with_language(example: Example, language_from: str | None) -> Example:
    language = None if language_from is None else column(example.columns, language_from)
    return example if language is None else replace(example, columns=example.columns | {"language": language})

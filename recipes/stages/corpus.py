"""Owns the files that one stage hands to the next: typed rows in zstd Parquet, written whole or not at all.

    CorpusRow    what SFT trains on: prompt and response, and where they come from
    HelpfulPair  two responses to one prompt, the better first
    SafetyLabel  one response, safe (1) or not (0)

A file is written beside its place and renamed when it is complete, so a stage that was killed leaves no half of one.
Reading trusts nothing: every mistake is one `UserError` line with file, row (from 1) and remedy. What users bring may
also be JSON lines (.jsonl, .jsonl.gz); there all but prompt and response have defaults.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError

KINDS = ("reasoning", "general")
_BATCH = 4096
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One sample to train on. `prompt` is exactly what the model is given, `response` has no end token.

    `difficulty`: 1 - share of samples that passed; `origin`: the stage or file that it comes from. A row is known by
    (`origin`, `id`).
    """

    id: str
    source: str
    language: str | None
    problem: str
    prompt: str
    response: str
    kind: str
    difficulty: float | None
    num_tokens: int | None
    origin: str


@dataclass(frozen=True, slots=True)
class HelpfulPair:
    """Two whole responses to one rendered prompt. `margin`: how much better `chosen` was judged; null: unknown."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    margin: float | None
    source: str


@dataclass(frozen=True, slots=True)
class SafetyLabel:
    """One whole response to a rendered prompt; `label` 1: safe, 0: unsafe."""

    id: str
    prompt: str
    response: str
    label: int
    source: str


Row = TypeVar("Row", CorpusRow, HelpfulPair, SafetyLabel)
_WORDS = {"str": "text", "float": "a number", "int": "a whole number"}
_MAY_BE_EMPTY = ("source", "problem", "origin", "language")


def write_rows(path: Path, rows: Iterable[Row], row_type: type[Row]) -> int:
    """Write `rows` to the Parquet file `path`, replacing it only once all are written; returns how many.

    Raises UserError for a row that `read_rows` would refuse; what stood at `path` is then untouched.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(row_type)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")  # one name, so that what a kill leaves is written over
    count = 0
    seen: dict[str, int] = {}
    try:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in _batches(rows):
                values = [dataclasses.asdict(row) for row in batch]
                for row in values:
                    count += 1
                    _check(row, row_type, f"{path}: row {count}")
                    _check_new(row, seen, count, path)
                writer.write_table(pa.Table.from_pylist(values, schema=schema))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """All rows of a Parquet or JSON-lines file; UserError unless every one is whole and of `row_type`."""
    return list(iterate_rows(path, row_type))


def iterate_rows(path: Path, row_type: type[Row]) -> Iterator[Row]:
    """`read_rows` that holds one batch at a time, for corpora larger than memory."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that writes it, or correct the path")
    raw = _json_rows(path, row_type) if path.name.endswith(_JSON_SUFFIXES) else _parquet_rows(path, row_type)
    seen: dict[str, int] = {}
    for number, (where, row) in enumerate(raw, start=1):
        _check(row, row_type, where)
        _check_new(row, seen, number, path)
        yield row_type(**row)


def read_corpus(path: Path) -> list[CorpusRow]:
    """SFT samples of `path`."""
    return read_rows(path, CorpusRow)


def write_corpus(path: Path, rows: Iterable[CorpusRow]) -> int:
    """Write SFT samples; see `write_rows`."""
    return write_rows(path, rows, CorpusRow)


def concatenate(paths: Iterable[Path], output: Path, row_type: type[Row]) -> dict[str, int]:
    """One file of all rows of `paths`, in that order; returns the number of rows by path.

    Raises UserError if a row stands in two of them (same origin and id), or if one cannot be read.
    """
    counts: dict[str, int] = {}

    def rows() -> Iterator[Row]:
        for path in paths:
            counts[str(path)] = 0
            for row in iterate_rows(path, row_type):
                counts[str(path)] += 1
                yield row

    write_rows(output, rows(), row_type)
    return counts


# ------------------------------------------------------------------ checks


def _check(row: Mapping[str, Any], row_type: type[Row], where: str) -> None:
    """UserError unless every value is of its column's type and range."""
    for name, kind, optional in _columns(row_type):
        value = row[name]
        if value is None:
            if not optional:
                raise UserError(f"{where}: column {name!r} is null; {_WORDS[kind]} is required")
            continue
        if not _is_a(value, kind):
            raise UserError(f"{where}: column {name!r} must be {_WORDS[kind]}, got {_short(value)}")
        if kind == "str":
            _check_text(name, value, where)
        elif not math.isfinite(value):
            raise UserError(f"{where}: column {name!r} is {value}; write null for an unknown number")
    _check_ranges(row, where)


def _is_a(value: object, kind: str) -> bool:
    if kind == "str":
        return isinstance(value, str)
    return not isinstance(value, bool) and isinstance(value, int if kind == "int" else int | float)


def _check_text(name: str, value: str, where: str) -> None:
    if name not in _MAY_BE_EMPTY and not value.strip():
        raise UserError(f"{where}: column {name!r} is empty; leave the row out")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: column {name!r} is not text in UTF-8 (at character {error.start})") from None


def _check_ranges(row: Mapping[str, Any], where: str) -> None:
    if (kind := row.get("kind")) is not None and kind not in KINDS:
        raise UserError(f"{where}: kind {kind!r} is not known; one of {', '.join(KINDS)}")
    if (difficulty := row.get("difficulty")) is not None and not 0 <= difficulty <= 1:
        raise UserError(f"{where}: difficulty {difficulty} must lie in 0 to 1 (1 - share that passed)")
    if (tokens := row.get("num_tokens")) is not None and tokens < 0:
        raise UserError(f"{where}: num_tokens {tokens} must not be negative")
    if (label := row.get("label")) is not None and label not in (0, 1):
        raise UserError(f"{where}: label {label} must be 1 (safe) or 0 (unsafe)")


def _check_new(row: Mapping[str, Any], seen: dict[str, int], number: int, path: Path) -> None:
    key = f"{row.get('origin', '')}\0{row['id']}"
    if key in seen:
        of = f" of origin {row['origin']!r}" if "origin" in row else ""
        raise UserError(f"{path}: row {number}: id {row['id']!r}{of} is taken by row {seen[key]}; ids must differ")
    seen[key] = number


# ------------------------------------------------------------------ files


def _columns(row_type: type[Row]) -> list[tuple[str, str, bool]]:
    """(name, Python type, may be null) of every column, read off the annotations."""
    columns = []
    for column in dataclasses.fields(row_type):
        kind = str(column.type)
        columns.append((column.name, kind.removesuffix(" | None"), kind.endswith(" | None")))
    return columns


def _schema(row_type: type[Row]) -> Any:
    import pyarrow as pa

    types = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
    return pa.schema([pa.field(name, types[kind], optional) for name, kind, optional in _columns(row_type)])


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _parquet_rows(path: Path, row_type: type[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    names = [name for name, _, _ in _columns(row_type)]
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            if missing := [name for name in names if name not in present]:
                raise UserError(
                    f"{path}: no column {', '.join(missing)}; a file of {row_type.__name__} has {', '.join(names)}, "
                    f"this one has {', '.join(present) or 'none'}"
                )
            for batch in file.iter_batches(_BATCH, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet after row {number} ({_one_line(error)}); it is cut short or of another "
            "format: delete it and run the stage that writes it again"
        ) from None


def _json_rows(path: Path, row_type: type[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    columns = _columns(row_type)
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                given = _parse(line, where)
                row = {
                    name: given[name] if name in given else _default(name, given, path, number) for name, *_ in columns
                }
                if missing := [name for name, _, optional in columns if not optional and row[name] is None]:
                    raise UserError(
                        f"{where}: field {', '.join(missing)} is missing or null; the line has {_keys(given)}"
                    )
                yield where, row
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: cannot be read: {_one_line(error)}; write the file again") from None


def _default(name: str, given: Mapping[str, Any], path: Path, number: int) -> Any:
    stem = path.name.split(".")[0]
    defaults = {"id": f"{stem}:{number}", "source": stem, "origin": path.name, "kind": "reasoning"}
    return given.get("prompt") if name == "problem" else defaults.get(name)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{where}: not a JSON line in UTF-8: {_one_line(error)}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no fields"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

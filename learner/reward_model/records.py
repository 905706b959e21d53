"""Owns reading preferences: Parquet or JSON lines to rows, every mistake named by its row.

helpful   prompt, chosen, rejected, margin (may be missing or null)      two texts, value = margin
safety    prompt, response, label (1 safe, 0 unsafe)                     one text, value = label
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.reward_model import Kind

_CHUNK = 256
TEXTS: dict[Kind, tuple[str, ...]] = {"helpful": ("chosen", "rejected"), "safety": ("response",)}


@dataclass(frozen=True)
class Record:
    """One row. `value`: margin of a pair (0 where unknown), or label of a response; `where`: file and row."""

    where: str
    prompt: str
    texts: tuple[str, ...]
    value: float


def read_records(path: str | Path, kind: Kind, limit: int | None = None) -> Iterator[Record]:
    """The rows of a preference file, up to `limit`; UserError with file and row for what is none."""
    path, num = Path(path), 0
    rows = _parquet_rows(path, kind) if path.suffix == ".parquet" else _json_rows(path, kind)
    for where, row in rows:
        if num == limit:
            return
        num += 1
        yield _record(where, row, kind)
    if not num:
        raise UserError(f"{path}: no rows; run the stage that writes it again")


def _record(where: str, row: Mapping[str, Any], kind: Kind) -> Record:
    names = TEXTS[kind]
    for name in ("prompt", *names):
        value = row.get(name)
        if not isinstance(value, str):
            raise UserError(f"{where}: {name!r} must be text, found {type(value).__name__}")
        if not value.strip():
            raise UserError(f"{where}: {name!r} is empty; remove the row")
    texts = tuple(row[name] for name in names)
    if kind == "helpful" and texts[0] == texts[1]:
        raise UserError(f"{where}: 'chosen' and 'rejected' are the same; remove the row")
    return Record(where, row["prompt"], texts, _margin(where, row) if kind == "helpful" else _label(where, row))


def _margin(where: str, row: Mapping[str, Any]) -> float:
    margin = row.get("margin")
    if margin is None:
        return 0.0
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not math.isfinite(margin):
        raise UserError(f"{where}: 'margin' must be a finite number or null, found {margin!r}")
    return float(margin)


def _label(where: str, row: Mapping[str, Any]) -> float:
    label = row.get("label")
    if not isinstance(label, int | float) or label not in (0, 1):
        raise UserError(f"{where}: 'label' must be 1 (safe) or 0 (unsafe), found {label!r}")
    return float(label)


def _check_columns(path: Path, kind: Kind, columns: Sequence[str]) -> None:
    needed = ("prompt", *TEXTS[kind], *(("label",) if kind == "safety" else ()))
    missing = [name for name in needed if name not in columns]
    if not missing:
        return
    other: Kind = "safety" if kind == "helpful" else "helpful"
    hint = f"; this is data of kind: {other}" if set(TEXTS[other]) <= set(columns) else ""
    raise UserError(
        f"{path}: no column {' and '.join(map(repr, missing))}; kind: {kind} needs {', '.join(needed)}, the file has "
        f"{', '.join(columns) or 'none'}{hint}"
    )


def _parquet_rows(path: Path, kind: Kind) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            _check_columns(path, kind, columns)
            wanted = [name for name in ("prompt", *TEXTS[kind], "margin", "label") if name in columns]
            number = 0
            for batch in file.iter_batches(batch_size=_CHUNK, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: not a whole Parquet file ({reason}); it was perhaps cut off while being written: run the stage "
            "that writes it again"
        ) from None


def _json_rows(path: Path, kind: Kind) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                if number == 1:
                    _check_columns(path, kind, list(row))
                yield f"{path}:{number}", row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}:{max(number, 1)}: cannot be read: {' '.join(str(error).split())}") from None

"""Owns what an evaluation keeps: each problem's samples on disk as soon as they are graded, and all of them as Parquet.

    OUT/journal/MODEL.SUITE.jsonl   first line: what was asked; then a line a problem, appended      (resume)
    OUT/samples.parquet             every sample, with prompt, response, answer, rewards              (reading)

An evaluation that is begun again with the same --out goes on with what is missing. What was asked must be the same;
otherwise the difference is named, and nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from common.errors import UserError

_SAMPLED_BYTES = 1 << 20
_LENGTH = 64


@dataclass(frozen=True)
class GradedSample:
    """One completion as it is kept."""

    response: str
    num_tokens: int
    clipped: bool
    outcome: str
    passed: bool
    reward: float
    rewards: dict[str, float | None]
    detail: str
    answer: str | None


class Journal:
    """Samples of one model on one suite: {(problem's index, kind): samples}. `asked` must be JSON-able.

    `folder` None keeps them in memory only.
    """

    def __init__(self, folder: Path | None, model: str, suite: str, asked: Mapping[str, Any]) -> None:
        self.model, self.suite = model, suite
        self.found: dict[tuple[int, str], list[GradedSample]] = {}
        self._asked = json.loads(json.dumps(asked))
        self._path = None if folder is None else folder / "journal" / f"{file_name(model)}.{file_name(suite)}.jsonl"
        self._file: IO[str] | None = None
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def add(self, index: int, kind: str, samples: list[GradedSample]) -> None:
        """Keep the samples of one problem; they are on disk when this returns."""
        self.found[index, kind] = samples
        if self._path is None:
            return
        if self._file is None:
            new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
            if new:
                self._write({"asked": self._asked})
        self._write({"index": index, "kind": kind, "samples": [asdict(sample) for sample in samples]})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self, path: Path) -> None:
        """Take over what is there. A last line that a kill cut short is taken off."""
        *whole, rest = path.read_bytes().split(b"\n")
        if rest:
            with path.open("rb+") as file:
                file.truncate(sum(len(line) + 1 for line in whole))
        if not whole:
            path.unlink()
            return
        try:
            self._check_asked(path, json.loads(whole[0])["asked"])
            for line in whole[1:]:
                record = json.loads(line)
                self.found[record["index"], record["kind"]] = [GradedSample(**sample) for sample in record["samples"]]
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: not a journal of an evaluation ({error!r}); give another --out") from None

    def _check_asked(self, path: Path, before: Mapping[str, Any]) -> None:
        different = [key for key in {**before, **self._asked} if before.get(key) != self._asked.get(key)]
        if different:
            key = different[0]
            raise UserError(
                f"--out: {path} was begun with {key} {_short(before.get(key))}, and {self.model} on {self.suite} is "
                f"asked for with {_short(self._asked.get(key))} now; give another --out, or the same settings"
            )


def model_digest(model: Path) -> str:
    """Tells models apart: the weight files' names, sizes, first and last MiB, the configuration and the tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in model.iterdir() if p.suffix in (".safetensors", ".bin", ".json") and p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLED_BYTES))
            if size > _SAMPLED_BYTES:
                file.seek(max(_SAMPLED_BYTES, size - _SAMPLED_BYTES))
                digest.update(file.read())
    return digest.hexdigest()


def records_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """Tells prepared problems apart: ids, prompts as tokens, grading."""
    digest = hashlib.blake2b(digest_size=16)
    for record in records:
        digest.update(json.dumps([record["id"], record["prompt_ids"], record["spec"]], sort_keys=True).encode())
    return digest.hexdigest()


def file_name(text: str) -> str:
    """`text` as a file's name: no separators; a digest where letters were lost."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:_LENGTH]
    return plain if plain == text else f"{plain}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Samples as Parquet (see SAMPLE_COLUMNS), written beside and renamed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("model", pa.string()),
            ("suite", pa.string()),
            ("id", pa.string()),
            ("kind", pa.string()),
            ("prompt", pa.string()),
            ("response", pa.string()),
            ("answer", pa.string()),
            ("gold", pa.string()),
            ("reward", pa.float64()),
            ("rewards", pa.map_(pa.string(), pa.float64())),
            ("outcome", pa.string()),
            ("passed", pa.bool_()),
            ("selected", pa.bool_()),
            ("detail", pa.string()),
            ("num_tokens", pa.int32()),
            ("clipped", pa.bool_()),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with contextlib.closing(pq.ParquetWriter(temporary, schema)) as writer:
        for batch in _batches(rows, 1024):
            writer.write_table(pa.Table.from_pylist(batch, schema))
    temporary.replace(path)


def _batches(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append({**row, "rewards": list(row["rewards"].items())})
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Owns the data of supervised jobs: files of prompts and responses, tokenised once into one array.

    *.parquet *.jsonl -> tokenise, chunk by chunk, on rank 0 -> DIR/data/NAME.tokens -> mapped by all ranks

A corpus carries text, so any tokenizer can read it. An example longer than the context is left out and counted, never
cut; so is one that tokenises to nothing. The array lies in a file because R1's 800,000 samples are some 10 GB, which
every rank would otherwise hold once more.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.job_config import CorpusFile
from learner.packing import Ints, Sequences

_CHUNK = 256
_MOST_LEFT_OUT = 0.5
Pair = tuple[str, str]


def read_pairs(file: CorpusFile) -> Iterator[Pair]:
    """(prompt, response) of each row, up to the file's limit; UserError with file and row for what is none."""
    path = Path(file.path)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    num = 0
    for where, prompt, response in rows:
        if file.limit is not None and num >= file.limit:
            return
        if not (isinstance(prompt, str) and isinstance(response, str)):
            raise UserError(f"{where}: needs text under 'prompt' and 'response'")
        num += 1
        yield prompt, response
    if not num:
        raise UserError(f"{path}: no examples; leave the file out or write it again")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = sorted({"prompt", "response"} - set(file.schema_arrow.names))
            if missing:
                raise UserError(f"{path}: no column {' and '.join(map(repr, missing))}; a corpus has prompt, response")
            row = 0
            for batch in file.iter_batches(batch_size=_CHUNK, columns=["prompt", "response"]):
                columns = (batch.column(name).to_pylist() for name in ("prompt", "response"))
                for prompt, response in zip(*columns, strict=True):
                    row += 1
                    yield f"{path}: row {row}", prompt, response
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: not a whole Parquet file ({reason}); it was perhaps cut off while being written: run the stage "
            "that writes it again"
        ) from None


def _json_rows(path: Path) -> Iterator[tuple[str, Any, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise UserError(f"{path}:{number}: expected an object with 'prompt' and 'response'")
                yield f"{path}:{number}", record.get("prompt"), record.get("response")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


class Encoder:
    """Token ids of prompts and responses. The response goes on where the prompt ended, and ends with the end token."""

    def __init__(self, tokenizer: Any, model: str | Path) -> None:
        """UserError when the tokenizer names no end token."""
        if tokenizer.eos_token_id is None:
            raise UserError(f"{model}: the tokenizer has no end-of-sequence token; name one in tokenizer_config.json")
        self.tokenizer = tokenizer
        self.bos: str | None = tokenizer.bos_token

    def encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids with the end token) of each pair; an empty text has no tokens."""
        # A prompt opens with special tokens (Llama's BOS), unless its template has written them already.
        written = [self.bos is not None and prompt.startswith(self.bos) for prompt, _ in pairs]
        prompts: list[list[int]] = [[] for _ in pairs]
        for special in (True, False):
            rows = [row for row, has in enumerate(written) if has != special]
            if rows:
                texts = [pairs[row][0] for row in rows]
                ids = self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
                for row, found in zip(rows, ids, strict=True):
                    prompts[row] = found
        responses = self.tokenizer([r for _, r in pairs], add_special_tokens=False, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return [(p, [*r, end] if r else []) for p, r in zip(prompts, responses, strict=True)]


@dataclass
class CorpusFigures:
    """What became of the rows of the files. `examples`: kept, for each file."""

    examples: list[int] = field(default_factory=list)
    too_long: int = 0
    empty: int = 0
    tokens: int = 0
    response_tokens: int = 0


class Tokenisation:
    """Tokenises files into `path`.tokens and `path`.index.npz, as much at a time as there is time for."""

    def __init__(self, files: Sequence[CorpusFile], encoder: Encoder, max_tokens: int, path: Path) -> None:
        self.files, self.encoder, self.max_tokens, self.path = files, encoder, max_tokens, path
        self.figures = CorpusFigures()
        self.done = False
        self._work = self._run()

    def poll(self, seconds: float) -> bool:
        """Work for about `seconds`; True once all is written. UserError for bad files, or too little that fits."""
        deadline = time.monotonic() + seconds
        while not self.done and time.monotonic() < deadline:
            self.done = next(self._work, True)
        return self.done

    def _run(self) -> Iterator[bool]:
        """Yields False after each chunk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        prompts: list[int] = []
        responses: list[int] = []
        with _tokens_file(self.path).open("wb") as out:
            for file in self.files:
                before = len(prompts)
                for chunk in _chunks(read_pairs(file)):
                    kept = [pair for pair in self.encoder.encode(chunk) if self._fits(*pair)]
                    prompts += [len(prompt) for prompt, _ in kept]
                    responses += [len(response) for _, response in kept]
                    flat = [token for pair in kept for part in pair for token in part]
                    out.write(np.array(flat, dtype=np.int32).tobytes())
                    yield False
                self.figures.examples.append(len(prompts) - before)
        self._verify(len(prompts))
        self.figures.response_tokens = sum(responses)
        self.figures.tokens = sum(prompts) + sum(responses)
        np.savez(_index_file(self.path), prompts=np.array(prompts, np.int32), responses=np.array(responses, np.int32))

    def _fits(self, prompt: list[int], response: list[int]) -> bool:
        if not prompt or not response:
            self.figures.empty += 1
            return False
        if len(prompt) + len(response) > self.max_tokens:
            self.figures.too_long += 1
            return False
        return True

    def _verify(self, num_kept: int) -> None:
        figures, names = self.figures, ", ".join(file.path for file in self.files)
        num = num_kept + figures.too_long + figures.empty
        if figures.too_long > _MOST_LEFT_OUT * num:
            raise UserError(
                f"{names}: {figures.too_long} of {num} examples are longer than {self.max_tokens} tokens and would be "
                "left out; raise sft.max_tokens, or shorten the data"
            )
        if not num_kept:
            raise UserError(f"{names}: nothing to train on: {figures.empty} of {num} examples have no tokens")


class Corpus:
    """Tokenised examples, mapped from disk."""

    def __init__(self, path: Path) -> None:
        with np.load(_index_file(path)) as index:
            self.prompt_lengths_N: Ints = index["prompts"].astype(np.int64)
            self.response_lengths_N: Ints = index["responses"].astype(np.int64)
        self.starts: Ints = np.concatenate([[0], np.cumsum(self.prompt_lengths_N + self.response_lengths_N)])
        self._tokens: NDArray[np.int32] = np.memmap(_tokens_file(path), dtype=np.int32, mode="r")

    def __len__(self) -> int:
        return len(self.prompt_lengths_N)

    def batch(self, indices: Sequence[int] | Ints) -> Sequences:
        """The chosen examples, in the order given."""
        rows = np.asarray(indices, dtype=np.int64)
        parts = [self._tokens[self.starts[row] : self.starts[row + 1]] for row in rows]
        tokens = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        return Sequences(self.prompt_lengths_N[rows], self.response_lengths_N[rows], tokens)


def _tokens_file(path: Path) -> Path:
    return path.with_name(path.name + ".tokens")


def _index_file(path: Path) -> Path:
    return path.with_name(path.name + ".index.npz")


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    chunk: list[Pair] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

"""Owns preferences as token ids: tokenised once by rank 0 into a file that all ranks map, and split from held-out ones.

    DIR/data/NAME.tokens      int32, the sequences one after the other
    DIR/data/NAME.index.npz   lengths, values, and digests of prompts and rows

A row is a unit of training: the two sequences of a pair, or one labelled sequence. A row in which nothing can be read
or compared (a response without a summary, two responses with the same summary) is left out and counted.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.job_config import RewardModelSection
from common.reward_model import encode, judged_text
from learner.reward_model.records import TEXTS, Record, read_records

Ints = NDArray[np.int64]
_CHUNK = 64
_MOST_LEFT_OUT = 0.5


@dataclass
class StoreFigures:
    """What became of the rows of a file."""

    rows: int = 0
    unreadable: int = 0
    """Left out: a text in which there is nothing to read."""
    same: int = 0
    """Left out: pairs that read the same."""
    cut: int = 0
    """Texts longer than max_tokens, of which the end is read."""


class Preparation:
    """Tokenises a preference file into `path`, as much at a time as there is time for."""

    def __init__(
        self,
        source: str,
        section: RewardModelSection,
        tokenizer: Any,
        vocab_size: int,
        path: Path,
        limit: int | None = None,
    ) -> None:
        self.source, self.section, self.tokenizer, self.path = source, section, tokenizer, path
        self.vocab_size, self.limit = vocab_size, limit
        self.figures = StoreFigures()
        self.done = False
        self._work = self._run()

    def poll(self, seconds: float) -> bool:
        """Work for about `seconds`; True once all is written. UserError naming file and row for bad data."""
        deadline = time.monotonic() + seconds
        while not self.done and time.monotonic() < deadline:
            self.done = next(self._work, True)
        return self.done

    def _run(self) -> Iterator[bool]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lengths: list[int] = []
        characters: list[int] = []
        kept: list[Record] = []
        prompts: list[int] = []
        rows: list[int] = []
        with _tokens_file(self.path).open("wb") as out:
            for chunk in _chunks(read_records(self.source, self.section.kind, self.limit)):
                self.figures.rows += len(chunk)
                self._verify_margins(chunk)
                judged = [(record, self._judged(record)) for record in chunk]
                judged = [(record, texts) for record, texts in judged if self._readable(texts)]
                flat = [text for _, texts in judged for text in texts]
                encoded = encode(self.tokenizer, flat, self.section.max_tokens)
                self.figures.cut += sum(found.num_cut > 0 for found in encoded)
                for record, _ in judged:
                    kept.append(Record(record.where, "", (), record.value))
                    prompts.append(_digest(record.prompt))
                    rows.append(_digest(record.prompt, *record.texts))
                lengths += [len(found.ids) for found in encoded]
                characters += [len(text) for _, text in flat]
                self._verify_ids([found.ids for found in encoded], [record for record, _ in judged])
                out.write(np.array([i for found in encoded for i in found.ids], dtype=np.int32).tobytes())
                yield False
        self._verify(kept)
        np.savez(
            _index_file(self.path),
            lengths=np.array(lengths, np.int64),
            characters=np.array(characters, np.int64),
            values=np.array([record.value for record in kept], np.float64),
            prompts=np.array(prompts, np.uint64),
            rows=np.array(rows, np.uint64),
        )

    def _judged(self, record: Record) -> list[tuple[str, str]]:
        return [judged_text(self.section.read_part, record.prompt, text) for text in record.texts]

    def _readable(self, texts: Sequence[tuple[str, str]]) -> bool:
        if not all(text for _, text in texts):
            self.figures.unreadable += 1
            return False
        if len(texts) == 2 and texts[0] == texts[1]:
            self.figures.same += 1
            return False
        return True

    def _verify_margins(self, records: Sequence[Record]) -> None:
        """A margin below zero is the trace of a noisy label, and no matter until it is asked for."""
        wrong = next((record for record in records if record.value < 0), None)
        if self.section.margin_scale and wrong is not None:
            raise UserError(
                f"{wrong.where}: 'margin' is {wrong.value:g}, so the rejected response was the better one: swap the "
                "two, or set reward_model.margin_scale=0"
            )

    def _verify_ids(self, ids: Sequence[Sequence[int]], records: Sequence[Record]) -> None:
        per_row = len(TEXTS[self.section.kind])
        for number, sequence in enumerate(ids):
            if max(sequence) >= self.vocab_size:
                raise UserError(
                    f"{records[number // per_row].where}: token {max(sequence)} is outside the model's vocabulary of "
                    f"{self.vocab_size}: the tokenizer beside the model belongs to another"
                )

    def _verify(self, kept: Sequence[Record]) -> None:
        figures = self.figures
        left_out = figures.unreadable + figures.same
        if not kept or left_out > _MOST_LEFT_OUT * figures.rows:
            raise UserError(
                f"{self.source}: {left_out} of {figures.rows} rows cannot be used with reads: "
                f"{self.section.read_part} ({figures.unreadable} with nothing to read, {figures.same} pairs that read "
                "the same); write it again, or set reward_model.reads=response"
            )
        labels = {record.value for record in kept}
        if self.section.kind == "safety" and len(labels) < 2:
            raise UserError(
                f"{self.source}: every label is {labels.pop():g}, from {kept[0].where} on; a safety model needs safe "
                "(1) and unsafe (0) responses"
            )


class Store:
    """Tokenised rows, mapped from disk. `per_row`: sequences of a row (2: chosen, rejected)."""

    def __init__(self, path: Path, per_row: int) -> None:
        with np.load(_index_file(path)) as index:
            self.lengths: Ints = index["lengths"]
            self.characters: Ints = index["characters"]
            self.values: NDArray[np.float64] = index["values"]
            self.prompts: NDArray[np.uint64] = index["prompts"]
            self.rows: NDArray[np.uint64] = index["rows"]
        self.per_row = per_row
        self._starts: Ints = np.concatenate([[0], np.cumsum(self.lengths)])
        self._tokens: NDArray[np.int32] = np.memmap(_tokens_file(path), dtype=np.int32, mode="r")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self._starts[-1])

    def sequences(self, row: int) -> list[Ints]:
        """The token ids of a row's sequences."""
        first = row * self.per_row
        bounds = self._starts[first : first + self.per_row + 1]
        return [self._tokens[a:b].astype(np.int64) for a, b in itertools.pairwise(bounds)]

    def split(self, eval_size: int, seed: int) -> tuple[Ints, Ints]:
        """Rows to train on and rows held out: whole prompts, at most `eval_size` rows and a tenth (at least one row).

        UserError when there is but one prompt.
        """
        prompts, group_of_row = np.unique(self.prompts, return_inverse=True)
        if len(prompts) < 2:
            raise UserError("every row has the same prompt, so none can be held out; give reward_model.eval_data")
        wanted = max(1, min(eval_size, len(self) // 10))
        order = np.random.default_rng([seed, 3]).permutation(len(prompts))
        sizes = np.bincount(group_of_row)[order]
        num = max(1, min(int(np.searchsorted(np.cumsum(sizes), wanted, side="right")), len(prompts) - 1))
        is_held_out = np.isin(group_of_row, order[:num])
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def check_overlap(train: Store, held_out: Store, source: str) -> int:
    """How many held-out rows have a prompt that is trained on; UserError when a whole row is."""
    same = np.flatnonzero(np.isin(held_out.rows, train.rows))
    if len(same):
        raise UserError(
            f"{source}: {len(same)} of {len(held_out)} held-out rows are in the training data as well, the first is "
            f"usable row {int(same[0]) + 1}; take them out of one of the two"
        )
    return int(np.isin(held_out.prompts, train.prompts).sum())


def _digest(*texts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _tokens_file(path: Path) -> Path:
    return path.with_name(path.name + ".tokens")


def _index_file(path: Path) -> Path:
    return path.with_name(path.name + ".index.npz")

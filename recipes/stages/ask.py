"""Owns putting prompts to a judging model, whichever it is, and keeping its answers so that a rerun goes on.

    Question ── ReplyCache ── known? ──> reply
                     └── new ── Asker (endpoint, or a callable over a local model) ──> reply ── file

The cache is a JSON-lines file keyed by a digest of model, prompt and repeat. A reply is kept as it comes, and only if
its reader could use it: what was nonsense is asked again. A line that a kill cut short is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from common.errors import RunFailure, UserError

_BATCH = 256
Replies = Generator[tuple[int, str], None, None]
Accept = Callable[[str], bool]


@dataclass(frozen=True)
class Question:
    """One prompt. `row` names it in messages; `repeat` tells apart several draws of the same prompt."""

    row: str
    prompt: str
    repeat: int = 0


class Asker(Protocol):
    """A model that answers prompts. `model` goes into the cache's keys, `where` into messages."""

    model: str
    where: str

    def ask(self, questions: Sequence[Question]) -> Replies:
        """(index of the question, reply) in any order, as they come; a note in brackets for an answer without text.

        Raises RunFailure, after giving out what was answered by then.
        """
        ...


class SamplerAsker:
    """An `Asker` over a callable, such as a local model through an actor: prompts in, one reply each out, in order."""

    def __init__(self, ask: Callable[[list[str]], list[str]], *, model: str, batch: int = _BATCH) -> None:
        """`model` must change with the weights: it keys the cache (a digest or path). `batch`: prompts at once."""
        self.model = model
        self.where = f"model {model}"
        self._ask = ask
        self._batch = batch

    def ask(self, questions: Sequence[Question]) -> Replies:
        """See `Asker`."""
        for start in range(0, len(questions), self._batch):
            part = questions[start : start + self._batch]
            replies = self._ask([question.prompt for question in part])
            if len(replies) != len(part):
                raise RunFailure(
                    f"judge {self.where}: {len(replies)} replies to {len(part)} prompts from row {part[0].row!r} on; "
                    "the callable must return one for each"
                )
            for offset, reply in enumerate(replies):
                if not isinstance(reply, str):
                    raise RunFailure(
                        f"judge {self.where}: the reply to row {part[offset].row!r} is {type(reply).__name__}, not text"
                    )
                yield start + offset, reply


class ReplyCache:
    """Asks what it does not know yet and keeps what it is told."""

    def __init__(self, asker: Asker, path: Path | None) -> None:
        """`path`: the file of replies; None keeps them in memory only. UserError if it cannot be read."""
        self.asker = asker
        self._path = path
        self._known: dict[str, str] = {}
        if path is not None:
            self._load(path)

    def replies(self, questions: Sequence[Question], accept: Accept) -> Replies:
        """(index, reply) of every question, known ones first. Only replies that `accept` can use are kept.

        Equal questions (prompt and repeat) are asked once.
        """
        by_key: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            by_key.setdefault(self._key(question), []).append(index)
        new = []
        for key, indexes in by_key.items():
            if key in self._known:
                yield from ((index, self._known[key]) for index in indexes)
            else:
                new.append(key)
        if not new:
            return
        unknown = [questions[by_key[key][0]] for key in new]
        with self._open() as file, closing(self.asker.ask(unknown)) as answers:
            for number, reply in answers:
                if accept(reply):
                    self._known[new[number]] = reply
                    if file is not None:
                        file.write(json.dumps({"key": new[number], "reply": reply}) + "\n")
                        file.flush()
                yield from ((index, reply) for index in by_key[new[number]])

    def __len__(self) -> int:
        return len(self._known)

    def _key(self, question: Question) -> str:
        text = json.dumps([self.asker.model, question.prompt, question.repeat])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @contextmanager
    def _open(self) -> Iterator[IO[str] | None]:
        if self._path is None:
            yield None
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            if _cut_short(self._path):
                file.write("\n")  # so that the next line does not run on from what a kill left
            yield file

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"judge cache {path}: cannot be read: {error.strerror}; name another file") from None
        for line in lines:
            try:
                row = json.loads(line)
                self._known[str(row["key"])] = str(row["reply"])
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a kill: asked again


def _cut_short(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

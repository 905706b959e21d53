"""Owns reading problems: JSON-lines files, Hugging Face datasets, reasoning-gym generators, all to `Example`s.

A bad line is an error here, with file and line number, and not an exception of some process an hour later. Columns of
other libraries are read by recipes/columns.py, prompts that are chat messages by recipes/conversations.py.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import FieldMap, ReasoningGymSource
from common.errors import UserError
from recipes.code import code_spec, is_code, statement
from recipes.columns import Columns, columns_of, to_zeroq
from recipes.conversations import Messages, plain_text, read_messages
from recipes.model_files import HubUnreachable, is_hub_name
from recipes.problems import SOURCE as REASONING_GYM
from recipes.problems import reasoning_gym_problems

MAX_ID_CHARACTERS = 120
_SUFFIXES = (".jsonl", ".jsonl.gz")
_GSM8K_ANSWER = re.compile(r"\n#### *(\S.*?)\s*$")
_TESTS = ("tests", "challenge_tests")
_GSM8K_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Example:
    """One problem. `columns`: the rest of its line, for graders and user reward functions; `where`: its origin.

    `code`: how a program is graded (recipes/code.py); the tests are there and not in `columns`. `messages`: the prompt
    as a conversation, if the data have one; `prompt` is its text then (recipes/conversations.py), by which problems are
    told apart.
    """

    id: str
    prompt: str
    answer: str | None
    solution: str | None
    where: str
    columns: dict[str, Any] = field(default_factory=dict)
    reasoning_gym: dict[str, Any] | None = None
    code: dict[str, Any] | None = None
    messages: Messages | None = None

    @property
    def question(self) -> str | Messages:
        """What is put into a prompt template."""
        return self.messages if self.messages is not None else self.prompt


def _say(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)


def load_examples(
    source: str | ReasoningGymSource,
    *,
    fields: FieldMap | None = None,
    split: str = "train",
    training: bool = True,
    need_answer: bool = True,
    seed: int = 0,
    exclude: AbstractSet[str] = frozenset(),
    say: Callable[[str], object] = _say,
) -> list[Example]:
    """All problems of `source`, in its order, without those whose prompt is in `exclude`.

    `training` refuses lines marked eval_only; `need_answer` refuses lines without an answer (code needs none). `say`
    is told in one line when another library's columns were recognised (default: standard error).
    Raises UserError naming file, line and remedy; HubUnreachable when only the hub could tell.
    """
    if isinstance(source, ReasoningGymSource):
        return _generate(source, seed, exclude)
    fields = fields or FieldMap()
    examples = []
    seen: dict[str, str] = {}
    columns: Columns | None = None
    for where, row in read_rows(source, split):
        if columns is None:
            columns = columns_of(fields, row)
            if note := columns.note(source):
                say(note)
        example = _example(row, where, columns, training, need_answer)
        if example.id in seen:
            raise UserError(f"{where}: id {example.id!r} is taken by {seen[example.id]}; ids must differ")
        seen[example.id] = where
        if example.prompt not in exclude:
            examples.append(example)
    if not seen:
        raise UserError(f"{find_file(source) or source}: no problems in it; one JSON object a line is expected")
    return examples


def read_rows(source: str, split: str = "train") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) of a JSON-lines file or a Hugging Face dataset, as they are. UserError names file and line."""
    path = find_file(source)
    return _read_lines(path) if path else _hugging_face_rows(source, split)


def find_file(source: str) -> Path | None:
    """The JSON-lines file that `source` names: as given, else in $ZEROQ_DATA; None when it names something else."""
    given = Path(source).expanduser()
    folder = os.environ.get("ZEROQ_DATA")
    if given.is_file():
        if not source.endswith(_SUFFIXES):
            raise UserError(f"{source}: expected a name ending in .jsonl or .jsonl.gz")
        return given
    if source.endswith(_SUFFIXES):
        if folder and (Path(folder) / given).is_file():
            return Path(folder) / given
        place = f"{folder} ($ZEROQ_DATA)" if folder else "$ZEROQ_DATA (not set)"
        raise UserError(
            f"{source}: no such file, neither here nor in {place}; docs/conventions.md says what can be named"
        )
    return None


def cold_start_response(solution: str, answer: str) -> str:
    """A worked solution in R1's format, without GSM8K's calculator marks and closing `#### answer` line."""
    reasoning = _GSM8K_CALCULATOR.sub("", _GSM8K_ANSWER.sub("", solution)).strip()
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


def _read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                yield f"{path}:{number}", _parse(raw, f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: cannot be read: {error}") from None


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    if not raw.strip():
        raise UserError(f"{where}: empty line; remove it")
    try:
        row = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _example(given: Mapping[str, Any], where: str, names: Columns, training: bool, need_answer: bool) -> Example:
    if training and given.get("eval_only"):
        raise UserError(f"{where}: marked eval_only, which may not be trained on; use it as data.eval")
    try:
        row = to_zeroq(given, names)
        messages = read_messages(row["prompt"]) if isinstance(row["prompt"], list) else None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    prompt = row["prompt"] if messages is None else plain_text(messages)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(
            f"{where}: field {names.prompt!r} must be the problem's text, got {_short(prompt)}; the line has "
            f"{', '.join(map(str, given)) or 'no fields'} (name another with data.fields.prompt=NAME)"
        )
    answer, solution = _text(row["answer"], names.answer, where), _text(row["solution"], names.solution, where)
    if answer and solution is None and (marked := _GSM8K_ANSWER.search(answer)):
        solution, answer = answer, marked[1].replace(",", "")  # the hub's GSM8K keeps both in one column
    code = _code(row, where)
    if need_answer and not answer and code is None:
        raise UserError(
            f"{where}: field {names.answer!r} must hold the answer that the accuracy reward compares with "
            "(name another with data.fields.answer=NAME)"
        )
    identity = str(row.get("id") or where.rpartition("/")[2])
    if len(identity) > MAX_ID_CHARACTERS:
        raise UserError(f"{where}: id of {len(identity)} characters; at most {MAX_ID_CHARACTERS}")
    columns = {str(key): value for key, value in row.items() if key not in ("id", "prompt", names.prompt)}
    columns |= {"answer": answer, "solution": solution}
    if code is not None:
        if messages is None:
            prompt = statement(row, prompt, code)
        else:  # what the statement lacks is said at the end of the last turn
            last = messages[-1]
            messages = [*messages[:-1], last | {"content": statement(row, str(last["content"]), code)}]
            prompt = plain_text(messages)
        columns = {key: value for key, value in columns.items() if key not in _TESTS}
    try:
        json.dumps([identity, prompt, columns, code, messages], ensure_ascii=False).encode("utf-8")
    except (TypeError, UnicodeEncodeError) as error:
        raise UserError(f"{where}: cannot be sent as JSON in UTF-8: {error}") from None
    generated = _generated_entry(row, prompt, answer)
    return Example(identity, prompt, answer, solution, where, columns, generated, code, messages)


def _code(row: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    if not is_code(row):
        return None
    try:
        return code_spec(row)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _text(value: Any, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}: field {name!r} must be text or a number, got {_short(value)}")


def _generated_entry(row: Mapping[str, Any], prompt: str, answer: str | None) -> dict[str, Any] | None:
    """The scorer's entry of a line that recipes.problems wrote; such problems can have more than one right answer."""
    meta = row.get("meta")
    if row.get("source") != REASONING_GYM or not isinstance(meta, dict) or not {"dataset", "metadata"} <= meta.keys():
        return None
    entry = {"question": prompt, "answer": answer, "metadata": meta["metadata"]}
    return {"dataset": meta["dataset"], "entry": entry}


def _generate(source: ReasoningGymSource, seed: int, exclude: AbstractSet[str]) -> list[Example]:
    name = source.reasoning_gym
    try:
        problems = reasoning_gym_problems(
            name,
            num=source.size,
            seed=seed if source.seed is None else source.seed,
            exclude=exclude,
            **source.params,
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"reasoning_gym {name} with {source.params}: {error}") from None
    return [
        Example(
            id=problem.id,
            prompt=problem.prompt,
            answer=problem.answer,
            solution=problem.solution,
            where=f"reasoning_gym {problem.id}",
            columns={"answer": problem.answer, "solution": problem.solution, "meta": problem.meta},
            reasoning_gym={
                "dataset": name,
                "entry": {
                    "question": problem.prompt,
                    "answer": problem.answer,
                    "metadata": problem.meta["metadata"],
                },
            },
        )
        for problem in problems
    ]


def _hugging_face_rows(source: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a datasets directory (save_to_disk, or data files) or hub name; NAME:CONFIG picks a configuration."""
    name, _, subset = source.partition(":")
    directory = Path(name).expanduser()
    if not name or (not directory.is_dir() and not is_hub_name(name)):
        raise UserError(f"data {source}: no such file or directory, and no name of a Hugging Face dataset")
    import datasets

    try:
        if (directory / "dataset_dict.json").exists() or (directory / "state.json").exists():
            loaded = datasets.load_from_disk(str(directory))
            table = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            table = datasets.load_dataset(str(directory) if directory.is_dir() else name, subset or None, split=split)
    except KeyError:
        raise UserError(f"data {source}: no split {split!r}; it has {', '.join(loaded)} (set data.split)") from None
    except OSError as error:
        if directory.is_dir():
            raise UserError(f"data {source}: {_one_line(error)}") from None
        raise HubUnreachable(
            f"data {source}: no such file here, and not found at the hub ({_one_line(error)})"
        ) from None
    except (ValueError, IndexError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"data {source}: {_one_line(error.__cause__ or error)}") from None
    return ((f"{source}[{split}]:{index + 1}", row) for index, row in enumerate(table))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

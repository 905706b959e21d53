"""Owns the way from what a user names to suites. Suites are plugins:

aime2024, mbpp, ...            built in (recipes/suites/builtin.py)
mine.jsonl, folder/            a JSON-lines file or datasets directory
openai/gsm8k:main              a Hugging Face dataset
suites.yaml, suites.yaml:name  definitions in YAML: {name: {source: ..., k: ..., ...}}
lm_eval:mmlu                   tasks of EleutherAI's lm-eval (recipes/suites/lm_eval.py)
any other name                 an entry point of the group `zeroq.suites`: a Suite, or a function that returns some
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from common.config import FieldMap, Section
from common.config_file import parse_yaml
from common.errors import UserError
from recipes.model_files import is_hub_name
from recipes.prompts import Template
from recipes.suites.builtin import ALIASES, builtin_suites
from recipes.suites.suite import DEFAULT_K, MAX_TOKENS, TEMPERATURE, TOP_P, Suite, local_copy

ENTRY_POINTS = "zeroq.suites"
LM_EVAL = "lm_eval:"
_FILES = (".jsonl", ".jsonl.gz")


class SuiteDefinition(Section):
    """One suite of a user's YAML file; the fields of `Suite`."""

    source: str = Field(min_length=1, description="JSON-lines file (also in $ZEROQ_DATA), directory or hub name.")
    split: str = "test"
    fields: FieldMap = FieldMap()
    only: dict[str, Any] = Field(default_factory=dict, description="Dotted columns that must have these values.")
    language_from: str | None = None
    instruction: str | None = None
    template: Template | None = None
    k: int = Field(DEFAULT_K, ge=1)
    max_tokens: int = Field(MAX_TOKENS, ge=1)
    temperature: float = Field(TEMPERATURE, ge=0)
    top_p: float = Field(TOP_P, gt=0, le=1)
    note: str = ""


def find_suites(names: Sequence[str]) -> list[Suite]:
    """The suites that the names stand for, in order. UserError for an unknown name, with the nearest known ones."""
    found: list[Suite] = []
    for name in names:
        for suite in _find(name):
            twin = next((other for other in found if other.name == suite.name), None)
            if twin is not None:
                raise UserError(f"--suite {name}: there are two suites called {suite.name}; name each once")
            found.append(suite)
    if not found:
        raise UserError(f"--suite: name at least one; built in are {', '.join(builtin_suites())}")
    return found


def is_suite(name: str) -> bool:
    """Whether `name` is that of a built-in suite or of an entry point."""
    return (
        ALIASES.get(name, name) in builtin_suites() or name in importlib.metadata.entry_points(group=ENTRY_POINTS).names
    )


def suite_source(name: str) -> str:
    """Where the problems of a suite are (file or hub name), for whoever reads them itself; UserError without one."""
    (suite,) = find_suites([name])
    if not suite.source:
        raise UserError(f"suite {name}: its problems are made by code, there is no file or dataset of them")
    return local_copy(suite) or suite.source


def _find(name: str) -> list[Suite]:
    if name.startswith(LM_EVAL):
        from recipes.suites.lm_eval import lm_eval_suites

        return lm_eval_suites(name.removeprefix(LM_EVAL))
    path, _, member = name.partition(":")
    if path.endswith((".yaml", ".yml")):
        return _from_yaml(Path(path), member)
    if name.endswith(_FILES):
        return [Suite(Path(name).name.partition(".")[0], name)]
    known = builtin_suites()
    if (builtin := known.get(ALIASES.get(name, name))) is not None:
        return [builtin]
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name in points:
        return _from_entry_point(points[name])
    if Path(path).is_dir() or ("/" in path and is_hub_name(path)):
        return [Suite(Path(path).name, name)]
    nearest = difflib.get_close_matches(name, [*known, *ALIASES, *points], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join([*known, *points])}"
    raise UserError(f"--suite {name}: no suite, file or entry point of that name; {hint}")


def _from_yaml(path: Path, member: str) -> list[Suite]:
    """Definitions of a YAML file: all of them, or the one named."""
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--suite {path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{path}: expected suites by name, as in `mine: {{source: mine.jsonl, k: 4}}`")
    if member and member not in tree:
        raise UserError(f"{path}: no suite called {member}; it has {', '.join(map(str, tree))}")
    suites = []
    for name, fields in tree.items() if not member else [(member, tree[member])]:
        try:
            definition = SuiteDefinition.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (name, *first["loc"])))
            raise UserError(f"{path}: {where}: {first['msg']} (got {_short(first['input'])})") from None
        suites.append(Suite(name=str(name), **{key: getattr(definition, key) for key in SuiteDefinition.model_fields}))
    return suites


def _from_entry_point(point: importlib.metadata.EntryPoint) -> list[Suite]:
    where = f"suite {point.name}: entry point {point.value}"
    try:
        made = point.load()
        made = made if isinstance(made, Suite | list) else made()
    except Exception as error:  # a stranger's code
        raise UserError(f"{where}: {type(error).__name__}: {error}") from None
    suites = [made] if isinstance(made, Suite) else list(made)
    if not suites or not all(isinstance(suite, Suite) for suite in suites):
        raise UserError(f"{where}: expected a recipes.suites.suite.Suite or a list of them, got {_short(made)}")
    return suites


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

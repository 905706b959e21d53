"""Owns reading a configuration: YAML plus `key=value` overrides, checked against a pydantic model.

Every mistake becomes one `UserError` line naming file, key, value and remedy. `RunConfig` (common/config/) and the
supervised jobs (common/job_config.py) are read by the same code, so a mistake reads the same everywhere.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from common.errors import UserError

_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_COMMANDS = {"stages": "pipeline", "sft": "sft", "reward_model": "reward-model", "rollout": "run"}
"""Sections that one kind of configuration alone has, and the command that reads it."""


class _Loader(yaml.SafeLoader):
    """Plain data only, and a key once: of two equal ones YAML would drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused. `run.name=7` and `actor.cpu_threads=0` mean strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


def on_off(value: Any) -> Any:
    """To come before the check of a choice with `on` or `off`, which YAML reads as true and false unless quoted."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Config = TypeVar("Config", bound=Section)


def load(model: type[Config], path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read YAML, apply `key=value` overrides, validate against `model`.

    Raises UserError (one line: file or override, key, value, remedy) for anything wrong.
    """
    tree, origins = read_tree(path, overrides)
    return validate(model, tree, str(path), origins)


def read_tree(path: str | Path, overrides: list[str] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """The mapping in a YAML file with `key=value` overrides applied, and which key each override set. UserError."""
    tree = _read_yaml(Path(path))
    origins: dict[str, str] = {}
    for override in overrides or []:
        key = _apply_override(tree, override)
        origins[key] = override
    return tree, origins


def validate(model: type[Config], tree: Any, where: str, origins: Mapping[str, str] | None = None) -> Config:
    """`tree` as a `model`; UserError naming `where` (or the override), key, value and remedy for the first mistake."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, model, where, origins or {})) from None


def dump_config(config: Section, path: Path) -> None:
    """Write the resolved configuration as YAML that `load` reads back to an equal object."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file; the ones shipped are in recipes/configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the configuration: {error}") from None
    try:
        tree = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{where}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys, found {type(tree).__name__}")
    return tree


def parse_yaml(text: str) -> Any:
    """Plain data from YAML; YAMLError for anything else."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _apply_override(tree: dict[str, Any], override: str) -> str:
    key, separator, text = override.partition("=")
    if not separator or not key or any(not part for part in key.split(".")):
        raise UserError(f"override {override!r}: expected key=value, such as learner.lr=1e-6")
    try:
        value = _yaml_scalar(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"override {override!r}: the value is not valid YAML: {problem}") from None
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):  # a scalar or a missing section becomes a section
            child = {}
            node[parent] = child
        node = child
    node[last] = value
    return key


def _yaml_scalar(text: str) -> Any:
    """YAML value of an override. YAML 1.1 reads `1e-6` as a string; a person means a number (quoted: a string).
    `@stage.output` (a pipeline's reference) is text that YAML would want quoted."""
    if text.startswith("@"):
        return text
    if _SCIENTIFIC.fullmatch(text):
        return float(text)
    return parse_yaml(text) if text else ""


def _rank(error: ErrorDetails) -> int:
    """Which mistake to speak of: another command's file, or an unknown key, may be why others are missing."""
    if error["type"] != "extra_forbidden":
        return 2
    return 0 if len(error["loc"]) == 1 and error["loc"][0] in _COMMANDS else 1


def _explain(error: ValidationError, model: type[Section], where: str, origins: Mapping[str, str]) -> str:
    errors = error.errors(include_url=False)
    first = min(errors, key=_rank)
    members = {"str", *(section.__name__ for section in Section.__subclasses__())}  # pydantic names a union's members
    location = [str(part) for part in first["loc"] if part not in members]
    key = ".".join(location)
    origin = next((f"override {o!r}" for k, o in origins.items() if key == k or key.startswith(k + ".")), where)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        for name, override in origins.items():  # `lerner.lr=1` made the unknown section `lerner`
            if name.startswith(key + ".") and isinstance(first["input"], dict) and len(first["input"]) == 1:
                origin, location[-1:] = f"override {override!r}", name[len(key) - len(location[-1]) :].split(".")
        return f"{origin}: unknown key {'.'.join(location)}; {_remedy(model, location)}{more}"
    if first["type"] == "missing":
        return f"{origin}: {key} is missing; set it in the file or as {key}=VALUE{more}"
    message = first["msg"].removeprefix("Value error, ")
    shown = f" = {first['input']!r}" if key and not isinstance(first["input"], dict) else ""
    return f"{origin}: {key or 'configuration'}{shown}: {message}{more}"


def _remedy(model: type[Section], location: list[str]) -> str:
    """What to do about an unknown key: the nearest one, the command that knows it, or all that there are."""
    if len(location) == 1 and location[0] in _COMMANDS:
        return f"this is a configuration of: zeroq {_COMMANDS[location[0]]}"
    known: list[str] = []
    for depth, part in enumerate(location):
        known = known_keys(model, location[:depth])
        if known and part not in known:
            close = difflib.get_close_matches(part, known, n=1)
            if close:
                return f"did you mean {'.'.join([*location[:depth], close[0], *location[depth + 1 :]])}?"
            break
    return f"known keys here: {', '.join(known)}"


def known_keys(root: type[Section], location: list[str]) -> list[str]:
    """Names that may stand at `location` of a configuration; list indices are passed through; none: no section."""
    model: Any = root
    for part in location:
        if typing.get_origin(model) is list:  # `part` is an index
            model = typing.get_args(model)[0]
            continue
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        annotation = field.annotation
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            annotation = next((a for a in typing.get_args(annotation) if _is_model(a)), None)
        model = annotation
    return sorted(model.model_fields) if _is_model(model) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)

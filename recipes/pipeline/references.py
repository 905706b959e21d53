"""Owns references between stages: `@STAGE.OUTPUT` anywhere in a stage's settings stands for what that stage made.

    model: "@reasoning_rl.model"        a checkpoint directory
    data: ["@rejection_sample.corpus"]  a Parquet file

A reference is the whole string, never a part of one. `@@text` is the text `@text`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UserError

_REFERENCE = re.compile(r"@([A-Za-z0-9_-]+)\.([A-Za-z0-9_.-]+)")


@dataclass(frozen=True, order=True)
class Reference:
    """Output `output` of the stage `stage`."""

    stage: str
    output: str

    def __str__(self) -> str:
        return f"@{self.stage}.{self.output}"


def parse_reference(value: object) -> Reference | None:
    """The reference that `value` is; None for any other value. ValueError for a string that only begins like one."""
    if not isinstance(value, str) or not value.startswith("@") or value.startswith("@@"):
        return None
    found = _REFERENCE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r}: a reference reads @STAGE.OUTPUT (a text that begins with @ is written @@...)")
    return Reference(found[1], found[2])


def references(tree: Any, path: str = "") -> Iterator[tuple[str, Reference]]:
    """(path of the key, reference) of every reference below `tree`, in order. UserError for a malformed one."""
    for key, value in _leaves(tree, path):
        try:
            reference = parse_reference(value)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None
        if reference is not None:
            yield key, reference


def resolve(tree: Any, lookup: Callable[[Reference], str]) -> Any:
    """`tree` with every reference replaced by `lookup(reference)`; other values as they are."""
    if isinstance(tree, Mapping):
        return {key: resolve(value, lookup) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [resolve(value, lookup) for value in tree]
    reference = parse_reference(tree)
    if reference is not None:
        return lookup(reference)
    return tree[1:] if isinstance(tree, str) and tree.startswith("@@") else tree


def check_references(tree: Any, path: str, outputs: Mapping[str, tuple[str, ...]]) -> None:
    """UserError unless every reference below `tree` names an earlier stage and one of its outputs.

    `outputs`: names of the outputs of the stages that come before.
    """
    for key, reference in references(tree, path):
        if reference.stage not in outputs:
            close = difflib.get_close_matches(reference.stage, outputs, n=1)
            hint = f"did you mean @{close[0]}.{reference.output}?" if close else f"before it: {', '.join(outputs)}"
            raise UserError(f"{key} = {reference}: no stage {reference.stage!r} comes before this one; {hint}")
        if reference.output not in outputs[reference.stage]:
            raise UserError(
                f"{key} = {reference}: {reference.stage} makes {', '.join(outputs[reference.stage])}, "
                f"not {reference.output!r}"
            )


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, tree

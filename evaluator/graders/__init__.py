"""Graders, and the registry of accuracy kinds: the seam at which a new kind of checking (code, proofs) is added.

An accuracy kind says what to take out of a response (`extract`, pure, runs in the evaluator) and which function
judges it (`target`, runs in a worker process under a limit):

    register_accuracy("code", AccuracyKind("evaluator.graders.code:grade", extract=program, spec_keys=("tests",)))

A judge has the signature `grade(answer: str, spec: dict) -> {"score": float, "detail": str}`; a score of 1 or more is
a pass. It raises for anything that is not the answer's fault: the group then goes back to the broker ungraded.
Its module may define `prepare(answer, spec)` for slow imports and caches, which no limit counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluator.extract import Response, answer_block, final_answer

MAX_ANSWER_BYTES = 2048


@dataclass(frozen=True)
class AccuracyKind:
    """How one `spec["kind"]` is graded. Only `spec_keys` of the specification travel to the worker."""

    target: str
    extract: Callable[[Response], str | None]
    spec_keys: tuple[str, ...]
    max_answer_bytes: int = MAX_ANSWER_BYTES


_KINDS: dict[str, AccuracyKind] = {
    "math": AccuracyKind("evaluator.graders.math_answer:grade", final_answer, ("answer",)),
    "reasoning_gym": AccuracyKind("evaluator.graders.reasoning_gym_answer:grade", answer_block, ("reasoning_gym",)),
}
NO_ACCURACY = "none"
CODE = "code"  # a program: graded in the sandbox (evaluator/sandbox/), not by a function in a worker


def register_accuracy(kind: str, how: AccuracyKind) -> None:
    """Add an accuracy kind; ValueError if it exists."""
    if kind in _KINDS or kind in (NO_ACCURACY, CODE):
        raise ValueError(f"accuracy kind {kind!r} is registered already")
    _KINDS[kind] = how


def unregister_accuracy(kind: str) -> None:
    """Take a registered kind out again."""
    del _KINDS[kind]


def accuracy_kinds() -> list[str]:
    """Names that `spec["kind"]` may have."""
    return [*sorted(_KINDS), NO_ACCURACY]


def accuracy_kind(kind: str) -> AccuracyKind | None:
    """The kind of that name; None if it is unknown."""
    return _KINDS.get(kind)

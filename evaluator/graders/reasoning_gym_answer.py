"""Accuracy of reasoning-gym problems: the dataset's own `score_answer`, which may give part marks.

Imported by workers only: the package takes seconds to load. Several datasets read the answer with sympy's
`parse_expr`, which is Python's `eval`: answers that call builtins or reach for underscored names are refused before.
That stops the plain paths; the worker's limits stop the rest until answers run in the sandbox.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import reasoning_gym

_CODE = re.compile(
    r"__\w|\b(?:__import__|breakpoint|compile|delattr|eval|exec|exit|getattr|globals|input|locals|open|quit|setattr|vars)"
    r"\s*\("
)
Scorer = Callable[..., float]


@functools.lru_cache(maxsize=128)
def _scorer(dataset: str, params: str) -> Scorer:
    scorer: Scorer = reasoning_gym.create_dataset(dataset, **json.loads(params)).score_answer
    return scorer


def _scorer_of(spec: dict[str, Any]) -> tuple[Scorer, dict[str, Any]]:
    """Scorer and entry of a task; ValueError, KeyError or TypeError when the task is malformed."""
    task = spec["reasoning_gym"]
    return _scorer(task["dataset"], json.dumps(task.get("params", {}), sort_keys=True)), task["entry"]


def self_test() -> None:
    """RuntimeError unless a right answer scores and a wrong one does not; the first group does not wait for imports."""
    entry = {"question": "1 + 1 =", "answer": "2", "metadata": {}}
    spec = {"reasoning_gym": {"dataset": "chain_sum", "entry": entry}}
    scores = [grade(answer, spec)["score"] for answer in ("2", "3")]
    if scores[0] != 1.0 or scores[1] >= 1.0:
        raise RuntimeError(f"reasoning-gym scores a right answer {scores[0]}, a wrong one {scores[1]}")


def prepare(answer: str, spec: dict[str, Any]) -> None:
    """Build the dataset outside the limit: some load word lists."""
    _scorer_of(spec)


def grade(answer: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Score of `answer` for the entry in `spec`, 0 to 1."""
    scorer, entry = _scorer_of(spec)
    if _CODE.search(answer):
        return {"score": 0.0, "detail": "answer refused: it looks like a program"}
    score = float(scorer(answer=answer, entry=entry))
    if not math.isfinite(score):
        raise ValueError(f"reasoning-gym {spec['reasoning_gym']['dataset']} scored {answer[:80]!r} as {score}")
    return {"score": score, "detail": f"{answer[:80]!r} scored {score:g}"}

"""Owns what a generative judge is asked and answers; who judges is in judge.py, who uses it in selection.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Opinion = Literal["correct", "wrong", "unclear"]


@dataclass(frozen=True)
class JudgeQuestion:
    """Is `prediction` the same answer to `problem` as `gold`? `id` names the row in messages."""

    id: str
    problem: str
    gold: str
    prediction: str


class Judge(Protocol):
    """Whoever has an opinion on each question; `unclear` where the answer could not be read."""

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Opinion]:
        """One opinion a question, in order."""
        ...

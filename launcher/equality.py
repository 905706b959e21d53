"""Owns the equality of answers by which votes are counted: the mathematics verifier's, under its limit.

Comparing two answers can take sympy for ever, so it happens in a worker process that can be killed, as when grading.
The worker starts with the first pair that differs in writing.
"""

from __future__ import annotations

import contextlib
import functools
from types import TracebackType

from evaluator.graders import accuracy_kind
from evaluator.pool import Call, CallFailed, LimitExceeded, WorkerPool
from recipes.suites.metrics import same_text


class AnswerEquality:
    """`equal(one, other)`: whether two answers are the same value. A context manager, for its worker's sake."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._stack = contextlib.ExitStack()
        self._pool: WorkerPool | None = None
        self.cached = functools.lru_cache(maxsize=65_536)(self._compare)

    def __enter__(self) -> AnswerEquality:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, one: str, other: str) -> bool:
        """Equal as written up to white space, or by the verifier; what it cannot compare is not equal."""
        return same_text(one, other) or self.cached(one, other)

    def _compare(self, one: str, other: str) -> bool:
        if self._pool is None:
            self._pool = self._stack.enter_context(WorkerPool(1))
        kind = accuracy_kind("math")
        assert kind is not None
        call = Call(kind.target, {"answer": other, "spec": {"answer": one}}, self._limit_s)
        try:
            return float(self._pool.submit(call).result().value["score"]) >= 1.0
        except (CallFailed, LimitExceeded):  # as a gold answer `one` makes no sense, or the comparison has no end
            return False

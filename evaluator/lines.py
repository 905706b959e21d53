"""`zeroq grade`'s lines: what one asks, what it is answered. The same graders as for leases, one item at a time.

{"id", "kind": "code", "language", "source", "tests", "limits", "reward"}   -> CodeResult's fields
{"id", "kind": "math", "gold", "response"}                                  -> {"correct", "reward", "detail", "wall_s"}
{"id", "kind": "format", "response", "mode"}                                -> {"reward", "detail", "wall_s"}
{"id", "kind": "language", "response", "language"}                          -> {"reward", "detail", "wall_s"}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from evaluator.compose import LANGUAGE_LIMIT_S, Sandbox
from evaluator.graders.languages import SCRIPTS_OF_LANGUAGE
from evaluator.pool import Call, CallFailed, LimitExceeded, Result, Runner
from evaluator.sandbox.job import CodeJob, CodeResult, Strict, first_error

Answer = dict[str, Any]


class CodeLine(CodeJob):
    """A program."""

    id: str
    kind: Literal["code"]

    def job(self) -> CodeJob:
        """What the sandbox is given."""
        return CodeJob.model_construct(**{name: getattr(self, name) for name in CodeJob.model_fields})


class MathLine(Strict):
    """A response, and the answer that it should come to."""

    id: str
    kind: Literal["math"]
    gold: str = Field(min_length=1)
    response: str


class FormatLine(Strict):
    """A response whose form counts."""

    id: str
    kind: Literal["format"]
    response: str
    mode: Literal["strict", "lenient"] = "strict"


class LanguageLine(Strict):
    """A response whose reasoning should be in `language`."""

    id: str
    kind: Literal["language"]
    response: str
    language: str = "en"


Line = Annotated[CodeLine | MathLine | FormatLine | LanguageLine, Field(discriminator="kind")]
_LINE: TypeAdapter[CodeLine | MathLine | FormatLine | LanguageLine] = TypeAdapter(Line)


class BadLine(ValueError):
    """A line that asks nothing that can be answered; `identity` is its id if it has one."""

    def __init__(self, why: str, identity: str | None) -> None:
        super().__init__(why)
        self.identity = identity


def parse(text: str | bytes) -> CodeLine | MathLine | FormatLine | LanguageLine:
    """The line's request, or BadLine."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"not JSON: {error}", None) from None
    if not isinstance(raw, dict):
        raise BadLine(f"an object is expected, found {type(raw).__name__}", None)
    identity = raw["id"] if isinstance(raw.get("id"), str) else None
    try:
        line = _LINE.validate_python(raw)
    except ValidationError as error:
        raise BadLine(first_error(error), identity) from None
    if isinstance(line, LanguageLine) and line.language not in SCRIPTS_OF_LANGUAGE:
        raise BadLine(f"language: {line.language!r} is not known: {', '.join(sorted(SCRIPTS_OF_LANGUAGE))}", identity)
    return line


class LineGrader:
    """Answers lines. `sandbox` is called when the first program comes."""

    def __init__(self, pool: Runner, sandbox: Callable[[], Sandbox], math_limit_s: float) -> None:
        self._pool, self._sandbox, self._math_limit_s = pool, sandbox, math_limit_s

    def submit(self, line: CodeLine | MathLine | FormatLine | LanguageLine) -> Callable[[], Answer]:
        """Start; the function returned waits for the answer. It raises CallFailed when the evaluator is at fault."""
        if isinstance(line, CodeLine):
            program = self._sandbox().submit(line.job(), _no_progress)
            return lambda: {"id": line.id, **_code_answer(program)}
        if isinstance(line, MathLine):
            call = _call("math_answer", {"gold": line.gold, "response": line.response}, self._math_limit_s)
        elif isinstance(line, FormatLine):
            call = _call("format_tags", {"response_text": line.response, "mode": line.mode}, LANGUAGE_LIMIT_S)
        else:
            arguments = {"response_text": line.response, "language": line.language}
            call = _call("language", arguments, LANGUAGE_LIMIT_S)
        result = self._pool.submit(call, line.id)
        return lambda: {"id": line.id, **_text_answer(line.kind, result)}


def _no_progress() -> None:
    pass


def _call(module: str, arguments: dict[str, Any], limit_s: float) -> Call:
    return Call(f"evaluator.graders.{module}:grade_response", arguments, limit_s)


def _code_answer(future: Future[CodeResult]) -> Answer:
    return future.result().as_json()


def _text_answer(kind: str, future: Future[Result]) -> Answer:
    try:
        result = future.result()
    except LimitExceeded as error:
        if kind != "math":
            raise CallFailed(f"{kind}: {error}") from None
        return {"correct": False, "reward": 0.0, "detail": f"the comparison took {error}", "wall_s": None}
    return {**result.value, "wall_s": round(result.wall_s, 6)}

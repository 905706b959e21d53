"""What is asked of the sandbox and what it answers: a program, its tests, its limits; a verdict.

These models are the `code` lines of `zeroq grade` and the `spec["code"]` of a task on the queue.

    stdio    run the program once per case, compare its standard output outside the sandbox
    call     call a function once per case, compare the values outside the sandbox (Python)
    assert   `code` defines check(candidate), run by a judge in a sandbox of its own (Python; HumanEval)
    asserts  one assert statement per test, run by that judge (Python; MBPP)
    suffix   test code in the program's own language, appended to it (HumanEval-X, MultiPL-E)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

LanguageName = Literal["python", "cpp", "java", "javascript", "typescript", "csharp", "php", "bash"]
Compare = Literal["default", "float", "tokens"]
CodeVerdict = Literal["pass", "fail", "timeout", "error", "infra_error"]

MAX_SOURCE_BYTES = 256 * 1024
PYTHON_ONLY = ("call", "assert", "asserts")


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StdioCase(Strict):
    """One run of the program."""

    stdin: str
    expected: str


class StdioTests(Strict):
    """See the module's docstring; `compare` in evaluator/sandbox/compare.py."""

    kind: Literal["stdio"]
    cases: list[StdioCase]
    compare: Compare = "default"


class CallCase(Strict):
    """One call: positional `args` and the value that must come back."""

    args: list[JsonValue]
    expected: JsonValue


class CallTests(Strict):
    """`cls` names a class whose fresh instance has the method `entry_point`."""

    kind: Literal["call"]
    entry_point: str = Field(min_length=1)
    cases: list[CallCase]
    cls: str | None = None


class CheckTests(Strict):
    """HumanEval: `code` defines check(candidate)."""

    kind: Literal["assert"]
    entry_point: str = Field(min_length=1)
    code: str = Field(min_length=1)


class AssertsTests(Strict):
    """MBPP: assert statements; `setup` runs before them, after the program."""

    kind: Literal["asserts"]
    code: list[str]
    setup: str = ""


class SuffixTests(Strict):
    """HumanEval-X, MultiPL-E: `code` belongs after the program."""

    kind: Literal["suffix"]
    code: str = Field(min_length=1)
    entry_point: str | None = None


Tests = Annotated[StdioTests | CallTests | CheckTests | AssertsTests | SuffixTests, Field(discriminator="kind")]


class Limits(Strict):
    """What one program may use. The whole process tree counts, compilers have `compile_s` and memory of their own."""

    time_s: float = Field(6.0, gt=0, le=3600, description="Per test: seconds of CPU, and of wall clock.")
    compile_s: float = Field(30.0, gt=0, le=3600)
    memory_mb: int = Field(1024, ge=16, le=1024 * 1024)
    pids: int = Field(64, ge=1, le=4096)
    disk_mb: int = Field(64, ge=1, le=65_536)
    output_kb: int = Field(1024, ge=1, le=1024 * 1024, description="Kept of each of stdout and stderr.")


class CodeJob(Strict):
    """A program to grade. `reward` all: 1 if every test passed; fraction: the share that did."""

    language: LanguageName
    source: str
    tests: Tests
    limits: Limits = Limits()
    reward: Literal["all", "fraction"] = "all"

    @field_validator("source")
    @classmethod
    def _bounded(cls, source: str) -> str:
        if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
            raise ValueError(f"more than {MAX_SOURCE_BYTES} bytes")
        return source

    @model_validator(mode="after")
    def _python_only(self) -> CodeJob:
        if self.tests.kind in PYTHON_ONLY and self.language != "python":
            raise ValueError(f"tests of kind {self.tests.kind!r} are for python, not {self.language}")
        return self


class CodeResult(Strict):
    """What came of it. `wall_s` and `cpu_s` are of the program and its judge, compilation included."""

    verdict: CodeVerdict
    passed: int
    total: int
    per_test: list[bool]
    reward: float
    detail: str
    wall_s: float
    cpu_s: float

    def as_json(self) -> dict[str, Any]:
        """The fields of an answer line."""
        return self.model_dump()


def first_error(error: ValidationError) -> str:
    """The first thing wrong with a job: where, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    what = "kind is missing" if first["type"] == "union_tag_not_found" else str(first["msg"])
    return f"{where}: {what}" if where else what

"""Jobs: what is refused, and in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from evaluator.lines import BadLine, parse
from evaluator.sandbox.job import MAX_SOURCE_BYTES, CodeJob, CodeResult, Limits, first_error

CASES = [{"stdin": "4", "expected": "8"}]
STDIO: dict[str, Any] = {"kind": "stdio", "cases": CASES}
JOB: dict[str, Any] = {"language": "python", "source": "print(8)", "tests": STDIO}
KINDS: dict[str, dict[str, Any]] = {
    "stdio": STDIO,
    "call": {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]},
    "assert": {"kind": "assert", "entry_point": "f", "code": "def check(candidate): pass"},
    "asserts": {"kind": "asserts", "code": ["assert f(1) == 2"]},
    "suffix": {"kind": "suffix", "code": "assert(f(1) === 2)"},
}
LANGUAGES = ["python", "cpp", "java", "javascript", "typescript", "csharp", "php", "bash"]


def refusal(fields: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        CodeJob.model_validate(fields)
    return first_error(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken_and_has_limits(kind: str) -> None:
    job = CodeJob.model_validate(JOB | {"tests": KINDS[kind]})
    assert job.tests.kind == kind
    assert job.limits == Limits()
    assert job.reward == "all"
    assert CodeJob.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_functions_and_asserts_are_for_python_alone(kind: str, language: str) -> None:
    fields = JOB | {"language": language, "tests": KINDS[kind]}
    if language == "python" or kind in ("stdio", "suffix"):
        assert CodeJob.model_validate(fields).language == language
    else:
        assert f"tests of kind '{kind}' are for python, not {language}" in refusal(fields)


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"language": "cobol"}, "language", "'python', 'cpp'"),
        ({"language": None}, "language", ""),
        ({"source": 5}, "source", "valid string"),
        ({"source": "x" * (MAX_SOURCE_BYTES + 1)}, "source", str(MAX_SOURCE_BYTES)),
        ({"tests": {}}, "tests", "kind"),
        ({"tests": {"kind": "magic"}}, "tests", "'stdio'"),
        ({"tests": {"kind": "stdio"}}, "tests.stdio.cases", "required"),
        ({"tests": STDIO | {"compare": "fuzzy"}}, "tests.stdio.compare", "'default'"),
        ({"tests": STDIO | {"cases": [*CASES, {"stdin": "4"}]}}, "tests.stdio.cases.1.expected", "required"),
        ({"tests": STDIO | {"cases": [{"input": "4", "output": "8"}]}}, "tests.stdio.cases.0.stdin", "required"),
        ({"tests": STDIO | {"case": []}}, "tests.stdio.case", "not permitted"),
        ({"tests": KINDS["call"] | {"entry_point": ""}}, "tests.call.entry_point", "at least 1"),
        ({"tests": KINDS["call"] | {"cases": [{"args": 1, "expected": 2}]}}, "tests.call.cases.0.args", "list"),
        ({"tests": KINDS["assert"] | {"code": ""}}, "tests.assert.code", "at least 1"),
        ({"tests": KINDS["asserts"] | {"code": "assert True"}}, "tests.asserts.code", "list"),
        ({"tests": KINDS["suffix"] | {"code": ""}}, "tests.suffix.code", "at least 1"),
        ({"limits": {"time_s": 0}}, "limits.time_s", "greater than 0"),
        ({"limits": {"time_s": math.nan}}, "limits.time_s", ""),
        ({"limits": {"time_s": math.inf}}, "limits.time_s", "3600"),
        ({"limits": {"time_s": "soon"}}, "limits.time_s", "number"),
        ({"limits": {"compile_s": -1}}, "limits.compile_s", "greater than 0"),
        ({"limits": {"memory_mb": 1}}, "limits.memory_mb", "16"),
        ({"limits": {"memory_mb": 64.5}}, "limits.memory_mb", "integer"),
        ({"limits": {"pids": 0}}, "limits.pids", "1"),
        ({"limits": {"disk_mb": 0}}, "limits.disk_mb", "1"),
        ({"limits": {"output_kb": 10**9}}, "limits.output_kb", ""),
        ({"limits": {"memory": 64}}, "limits.memory", "not permitted"),
        ({"reward": "half"}, "reward", "'fraction'"),
        ({"expected": "8"}, "expected", "not permitted"),
    ],
)
def test_a_bad_job_is_refused_by_name(change: dict[str, Any], where: str, what: str) -> None:
    said = refusal(JOB | change)
    assert said.startswith(f"{where}: ")
    assert what in said
    assert "\n" not in said
    assert len(said) < 250  # it does not quote what it was given


def test_the_source_is_bounded_in_bytes() -> None:
    CodeJob.model_validate(JOB | {"source": "x" * MAX_SOURCE_BYTES})
    with pytest.raises(ValidationError):
        CodeJob.model_validate(JOB | {"source": "\U0001f600" * (MAX_SOURCE_BYTES // 2)})


def test_a_job_cannot_be_changed() -> None:
    job = CodeJob.model_validate(JOB)
    with pytest.raises(ValidationError):
        job.language = "bash"  # type: ignore[misc]


def test_a_result_is_the_fields_of_an_answer() -> None:
    fields: dict[str, Any] = {
        "verdict": "pass", "passed": 3, "total": 4, "per_test": [True], "reward": 0.0, "detail": "", "wall_s": 0.02,
        "cpu_s": 0.01,
    }  # fmt: skip
    assert CodeResult(**fields).as_json() == fields


def test_a_line_without_a_kind_is_told_so() -> None:
    with pytest.raises(BadLine, match=r"^kind is missing$"):
        parse(b'{"id": "1", "response": "4"}')

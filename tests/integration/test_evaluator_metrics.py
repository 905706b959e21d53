"""What an evaluator counts of programs that its sandbox had to end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.metrics import REGISTRY
from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.job import CallCase, CallTests, CodeJob, Limits, StdioCase, StdioTests

LOOP = "while True: pass\n"
HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))\n"


def killed(cause: str) -> float:
    return REGISTRY.get_sample_value("zeroq_evaluator_programs_killed_total", {"cause": cause}) or 0.0


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(1) as made:
        yield made


@pytest.mark.parametrize(("source", "cause"), [(LOOP, "time"), (HOG, "memory")])
@pytest.mark.parametrize("how", ["stdio", "call"])
def test_a_program_ended_by_a_limit_is_counted(grader: CodeGrader, source: str, cause: str, how: str) -> None:
    stdio = StdioTests(kind="stdio", cases=[StdioCase(stdin="", expected="1")])
    call = CallTests(kind="call", entry_point="f", cases=[CallCase(args=[], expected=1)])
    if how == "call":
        source = "def f():\n" + "".join(f"    {line}\n" for line in source.splitlines())
    job = CodeJob(
        language="python",
        source=source,
        tests=stdio if how == "stdio" else call,
        limits=Limits(time_s=0.5 if cause == "time" else 10.0, memory_mb=64),
    )
    before = {name: killed(name) for name in ("time", "memory")}
    result = grader.grade(job)
    assert result.verdict in ("timeout", "error"), result
    grown = {name: killed(name) - before[name] for name in before}
    assert grown == {"time": 0.0, "memory": 0.0, cause: 1.0}
    assert REGISTRY.get_sample_value("zeroq_evaluator_program_seconds_count", {"language": "python"})


def test_the_tier_is_told_while_the_sandbox_runs() -> None:
    def tier() -> float | None:
        return REGISTRY.get_sample_value("zeroq_evaluator_sandbox_tier")

    with CodeGrader(1):
        assert tier() == 2
    assert tier() == 0

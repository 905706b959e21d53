"""From the outcomes of single tests to a program's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evaluator.sandbox.job import CodeResult

TestVerdict = Literal["pass", "fail", "timeout", "error"]
MAX_DETAIL = 300


@dataclass(frozen=True)
class TestScore:
    """One test: what came of it, and why."""

    verdict: TestVerdict
    detail: str = ""


def summarise(
    scores: Sequence[TestScore], reward: Literal["all", "fraction"], wall_s: float, cpu_s: float
) -> CodeResult:
    """The first test that is not a pass decides; no tests at all are not a pass."""
    passed = [score.verdict == "pass" for score in scores]
    first = next((i for i, score in enumerate(scores) if score.verdict != "pass"), None)
    if not scores:
        verdict, detail = "error", "no tests: that is not a pass"
    elif first is None:
        verdict, detail = "pass", f"{len(scores)} of {len(scores)} tests passed"
    else:
        verdict = scores[first].verdict
        detail = f"test {first + 1} of {len(scores)}: {scores[first].detail or verdict}"
    share = sum(passed) / len(passed) if passed else 0.0
    return CodeResult(
        verdict=verdict,
        passed=sum(passed),
        total=len(scores),
        per_test=passed,
        reward=share if reward == "fraction" else float(bool(scores) and all(passed)),
        detail=" ".join(detail.encode("utf-8", "replace").decode().split())[:MAX_DETAIL],
        wall_s=round(wall_s, 6),
        cpu_s=round(cpu_s, 6),
    )

"""Programs that try the sandbox, as data: what each does, how it is graded, which verdicts are acceptable.

    resources.py   eat what there is: processes, memory, disk, output, time
    escapes.py     reach out: files, processes, the network, the kernel
    hacks.py       get a reward without solving the task
    honest.py      solve the task in a way that a careless sandbox would refuse
    languages.py   some of each in other languages

Texts such as `@SECRET_FILE@` in a program are filled in by `filled`; plants.py says what they stand for. A program that
tries to escape prints `contained` if it could not, so that a pass means that it tried and failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Category = Literal["resources", "escapes", "hacks", "honest"]
Job = dict[str, Any]
CONTAINED = "contained"


@dataclass(frozen=True)
class Program:
    """One program. `escapes_bare`: it gets out where there is no sandbox. `wall_s`: the longest it may take."""

    name: str
    category: Category
    job: Job
    expect: frozenset[str]
    escapes_bare: bool = False
    wall_s: float = 30.0

    @property
    def language(self) -> str:
        """The job's language."""
        return str(self.job["language"])

    def __str__(self) -> str:
        return self.name


def filled(job: Job, values: Mapping[str, str]) -> Job:
    """`job` with every `@NAME@` of `values` in place."""
    text = json.dumps(job)
    for name, value in values.items():
        text = text.replace(f"@{name}@", json.dumps(value)[1:-1])
    result: Job = json.loads(text)
    return result


def stdio(
    source: str,
    *cases: tuple[str, str],
    compare: str = "default",
    language: str = "python",
    limits: Mapping[str, Any] | None = None,
) -> Job:
    """A program on standard input and output; by default one case without input that must print `contained`."""
    tests = {
        "kind": "stdio",
        "cases": [{"stdin": given, "expected": wanted} for given, wanted in cases or [("", CONTAINED)]],
        "compare": compare,
    }
    return {"language": language, "source": source, "tests": tests, "limits": dict(limits or {})}


def call(
    source: str,
    entry_point: str,
    *cases: tuple[Sequence[Any], Any],
    cls: str | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Job:
    """A Python function with arguments and expected values."""
    tests: Job = {
        "kind": "call",
        "entry_point": entry_point,
        "cases": [{"args": list(arguments), "expected": expected} for arguments, expected in cases],
    }
    if cls:
        tests["cls"] = cls
    return {"language": "python", "source": source, "tests": tests, "limits": dict(limits or {})}


def check(source: str, entry_point: str, code: str, limits: Mapping[str, Any] | None = None) -> Job:
    """A Python function judged by check(candidate), as in HumanEval."""
    tests = {"kind": "assert", "entry_point": entry_point, "code": code}
    return {"language": "python", "source": source, "tests": tests, "limits": dict(limits or {})}


def asserts(source: str, *code: str, setup: str = "", limits: Mapping[str, Any] | None = None) -> Job:
    """A Python program judged by assert statements, as in MBPP."""
    tests = {"kind": "asserts", "code": list(code), "setup": setup}
    return {"language": "python", "source": source, "tests": tests, "limits": dict(limits or {})}


def suffix(language: str, source: str, code: str, entry_point: str, limits: Mapping[str, Any] | None = None) -> Job:
    """A program with tests in its own language after it."""
    tests = {"kind": "suffix", "code": code, "entry_point": entry_point}
    return {"language": language, "source": source, "tests": tests, "limits": dict(limits or {})}


def programs() -> list[Program]:
    """The whole suite; names are unique."""
    from tests.faults.sandbox_suite import escapes, hacks, honest, languages, resources

    return [*resources.PROGRAMS, *escapes.PROGRAMS, *hacks.PROGRAMS, *honest.PROGRAMS, *languages.PROGRAMS]

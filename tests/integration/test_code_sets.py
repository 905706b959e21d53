"""The real problem sets: every reference solution passes, every mutated one does not, in whichever language it is.

Data: $ZEROQ_DATA, else ../shared/data. Languages whose toolchain is missing are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluator.extract import read
from evaluator.program import job as job_of
from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.job import CodeJob, CodeResult
from recipes.code import code_spec, job_lines

DATA = Path(os.environ.get("ZEROQ_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
TOOLS = {
    "cpp": "g++",
    "java": "javac",
    "javascript": "node",
    "typescript": "tsc",
    "csharp": "mcs",
    "php": "php",
    "bash": "bash",
}
Row = dict[str, Any]

# Put behind a solution; `F` is its function. The first that its tests notice is the task's mutant.
MUTATIONS = (
    "\n_mutated = {F}\ndef {F}(*args, **more):\n    return (_mutated(*args, **more), 'mutated')\n",
    "\n_mutated = {F}\ndef {F}(*args, **more):\n    return not _mutated(*args, **more)\n",
    "\ndef {F}(*args, **more):\n    return None\n",
)


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    if sys.platform != "linux":
        pytest.skip("the sandbox is Linux's")
    with CodeGrader(workers=2) as grader:
        yield grader


def rows(name: str) -> list[Row]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; set ZEROQ_DATA")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def needs(language: str) -> None:
    if not shutil.which(TOOLS[language]):
        pytest.skip(f"{language}: {TOOLS[language]} is not installed")


def graded(grader: CodeGrader, lines: Iterable[Mapping[str, Any]]) -> dict[str, CodeResult]:
    """Results by the lines' ids."""
    waiting = {
        str(line["id"]): grader.submit(
            CodeJob.model_validate({k: v for k, v in line.items() if k not in ("id", "kind")})
        )
        for line in lines
    }
    return {name: future.result() for name, future in waiting.items()}


def refused(results: Mapping[str, CodeResult]) -> dict[str, str]:
    return {name: f"{r.verdict}: {r.detail}" for name, r in results.items() if r.verdict != "pass"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "count"), [("humaneval_python.jsonl", 164), ("mbpp.jsonl", 719)])
def test_python_references_pass_and_mutants_do_not(grader: CodeGrader, name: str, count: int) -> None:
    data = rows(name)
    lines = {line["id"]: line for line in job_lines(data)}
    results = graded(grader, lines.values())
    assert len(results) == count
    assert refused(results) == {}
    remaining = {row["id"]: row["entry_point"] for row in data}
    for mutation in MUTATIONS:
        mutants = {
            key: line | {"source": line["source"] + mutation.format(F=remaining[key])}
            for key, line in lines.items()
            if key in remaining
        }
        results = graded(grader, mutants.values())
        assert not [name for name, result in results.items() if result.verdict == "infra_error"]
        lucky = {key for key, result in results.items() if result.verdict == "pass"}
        # The tests themselves let these by, and not the sandbox: they pass without it too.
        assert [key for key in lucky if not passes_bare(mutants[key])] == []
        remaining = {key: remaining[key] for key in lucky}
    assert remaining == {}


def passes_bare(line: Mapping[str, Any]) -> bool:
    """Whether the program (a reference solution, so nothing to be afraid of) passes its tests in a plain process."""
    tests = line["tests"]
    if tests["kind"] == "assert":
        code = f"{tests['code']}\ncheck({tests['entry_point']})\n"
    else:
        code = "\n".join([tests["setup"], *tests["code"]])
    done = subprocess.run([sys.executable, "-I", "-c", f"{line['source']}\n{code}"], capture_output=True, timeout=60)
    return done.returncode == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("language", "name", "passing", "wrong_body"),
    [
        ("javascript", "humaneval_x_js.jsonl", 161, "  return undefined;\n}\n"),
        ("java", "humaneval_x_java.jsonl", 164, "        throw new RuntimeException();\n    }\n}\n"),
        ("cpp", "humaneval_x_cpp.jsonl", 162, "    throw 1;\n}\n"),
    ],
    ids=["javascript", "java", "cpp"],
)
def test_humaneval_x(grader: CodeGrader, language: str, name: str, passing: int, wrong_body: str) -> None:
    needs(language)
    data = [row for row in rows(name) if row["reference_passes"]]
    lines = list(job_lines(data))
    results = graded(grader, lines)
    assert len(results) == passing
    assert refused(results) == {}
    wrong = [line | {"source": row["starter"] + wrong_body} for row, line in zip(data[:12], lines[:12], strict=True)]
    assert {key for key, result in graded(grader, wrong).items() if result.verdict not in ("fail", "error")} == set()


# Task of MultiPL-E -> a body that is right and one that is wrong, as they follow the starter.
BODIES = {
    "typescript": {
        "13_greatest_common_divisor": ("  return b === 0 ? a : {F}(b, a % b);\n", "  return 1;\n"),
        "28_concatenate": ("  return strings.join('');\n", "  return strings.join(' ');\n"),
        "53_add": ("  return x + y;\n", "  return x - y;\n"),
    },
    "csharp": {
        "13_greatest_common_divisor": ("        return b == 0 ? a : {F}(b, a % b);\n", "        return 1L;\n"),
        "28_concatenate": ('        return string.Join("", strings);\n', '        return string.Join(" ", strings);\n'),
        "53_add": ("        return x + y;\n", "        return x - y;\n"),
    },
    "php": {
        "13_greatest_common_divisor": ("    return $b === 0 ? $a : {F}($b, $a % $b);\n", "    return 1;\n"),
        "28_concatenate": ("    return implode('', $strings);\n", "    return implode(' ', $strings);\n"),
        "53_add": ("    return $x + $y;\n", "    return $x - $y;\n"),
    },
    "bash": {
        "13_greatest_common_divisor": (
            "    local a=$1 b=$2 t\n    while ((b)); do t=$((a % b)); a=$b; b=$t; done\n    echo $a\n",
            "    echo 1\n",
        ),
        "28_concatenate": ('    echo "${1// /}"\n', '    echo "$1"\n'),
        "53_add": ("    echo $(($1 + $2))\n", "    echo $(($1 - $2))\n"),
    },
}
FILES = {"typescript": "ts", "csharp": "cs", "php": "php", "bash": "sh"}
# How the same body may stand in a response: alone, and as a whole function in a block.
CLOSING = {"typescript": "}\n", "csharp": "    }\n}\n", "php": "}\n", "bash": "}\n"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", sorted(BODIES))
def test_multipl_e_by_hand(grader: CodeGrader, language: str) -> None:
    needs(language)
    data = {
        row["meta"]["name"].removeprefix("HumanEval_"): row
        for row in rows(f"multipl_e_humaneval_{FILES[language]}.evalonly.jsonl")
    }
    right: dict[str, Row] = {}
    wrong: dict[str, Row] = {}
    for task, (good, bad) in BODIES[language].items():
        row = data[task]
        spec = code_spec(row)
        for bodies, body in ((right, good), (wrong, bad)):
            body = body.replace("{F}", spec["entry_point"])
            whole = f"Here it is.\n```{language}\n{row['starter']}{body}{CLOSING[language]}```\n"
            for form, text in (("body", f"<think>so</think><answer>\n{body}</answer>"), ("whole", whole)):
                made = job_of(spec, read("", text))
                assert made is not None
                bodies[f"{task} {form}"] = made | {"id": f"{task} {form}"}
    assert refused(graded(grader, right.values())) == {}
    passed = {key for key, result in graded(grader, wrong.values()).items() if result.verdict != "fail"}
    assert passed == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "form", ["a body in an answer", "a whole function without its imports", "a program in a block"]
)
def test_responses_in_every_form_become_programs(grader: CodeGrader, form: str) -> None:
    lines = []
    for row in rows("humaneval_python.jsonl"):
        name, starter, solution = row["entry_point"], row["starter"], row["solution"]
        head = starter.rfind(f"def {name}(")
        text = {
            "a body in an answer": f"<think>so</think> <answer>\n{solution}</answer>",
            "a whole function without its imports": f"Sure:\n```python\n{starter[head:]}{solution}```\nThat is it.",
            "a program in a block": f"<think>so</think><answer>```py\n{starter}{solution}\n```</answer>",
        }[form]
        made = job_of(code_spec(row), read("", text))
        assert made is not None
        lines.append(made | {"id": row["id"]})
    assert refused(graded(grader, lines)) == {}

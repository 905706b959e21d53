"""Tier 1, for pods that refuse namespaces: Python alone, one process, nothing writable; refused to root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from evaluator.sandbox import InfraError
from evaluator.sandbox.grader import CodeGrader

ROOT = Path(__file__).resolve().parents[2]
STDIO = {"kind": "stdio", "cases": [{"stdin": "4", "expected": "8"}]}
PROGRAMS: dict[str, tuple[str, str]] = {
    "right": ("print(int(input()) * 2)", "pass"),
    "wrong": ("print(9)", "fail"),
    "threads": ("import threading\nt = threading.Thread(target=print, args=(8,))\nt.start()", "pass"),
    "forks": ("import os\nos.fork()\nprint(8)", "error"),
    "executes": ("import subprocess\nsubprocess.run(['/bin/true'])\nprint(8)", "error"),
    "reads": ("open('/etc/passwd').read()\nprint(8)", "error"),
    "writes": ("open('x', 'w').write('x')\nprint(8)", "error"),
    "writes elsewhere": ("open('/tmp/x', 'w').write('x')\nprint(8)", "error"),
    "connects": ("import socket\nsocket.socket()\nprint(8)", "error"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)\nprint(8)", "error"),
    "eats memory": ("x = 'a' * 10**9\nprint(8)", "error"),
    "loops": ("while True: pass", "timeout"),
}
CHILD = """
import json, sys
from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.job import CodeJob
with CodeGrader(2, tier=1) as grader:
    jobs = [(name, CodeJob.model_validate(job)) for name, job in json.load(sys.stdin)]
    results = [(name, grader.submit(job)) for name, job in jobs]
    print(json.dumps({name: [r.result().verdict, r.result().detail] for name, r in results}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Verdicts, as an unprivileged user gets them."""
    limits = {"time_s": 1, "memory_mb": 256}
    jobs: list[tuple[str, Any]] = [
        (name, {"language": "python", "source": source, "tests": STDIO, "limits": limits})
        for name, (source, _) in PROGRAMS.items()
    ]
    function = "def f(x): return 2 * x\n"
    asserts = {"kind": "asserts", "code": ["assert f(2) == 4", "assert f('a') == 'aa'"]}
    calls = {"kind": "call", "entry_point": "f", "cases": [{"args": [2], "expected": 5}]}
    jobs += [
        ("asserts", {"language": "python", "source": function, "tests": asserts}),
        ("call", {"language": "python", "source": function, "tests": calls}),
        ("bash", {"language": "bash", "source": "echo 8", "tests": STDIO}),
    ]
    command = [sys.executable, "-c", CHILD]
    if os.geteuid() == 0:
        command = [sys.executable, "-m", "tests.faults.sandbox_suite.unprivileged", *command]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            input=json.dumps(jobs),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(results: dict[str, Any], name: str) -> None:
    verdict, detail = results[name]
    assert verdict == PROGRAMS[name][1], detail


def test_functions_have_a_judge_here_too(results: dict[str, Any]) -> None:
    assert results["asserts"][0] == "pass", results["asserts"]
    assert results["call"][0] == "fail", results["call"]


def test_other_languages_are_no_verdict(results: dict[str, Any]) -> None:
    verdict, detail = results["bash"]
    assert verdict == "infra_error"
    assert "tier 1" in detail


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_root_is_refused() -> None:
    with pytest.raises(InfraError, match="is root"):
        CodeGrader(1, tier=1)

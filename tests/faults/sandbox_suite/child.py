"""Grades the suite in a process of its own, and watches what it leaves: `python -m tests.faults.sandbox_suite.child`.

stdin   {"names": [...], "bare": bool}
stdout  {"results": {name: {"verdict", "detail", "wall_s", ...}}, "last", "leaks": [...], "carried": [...],
         "bare": {name: text}}

A process of its own, since it adopts orphans, holds planted secrets in its environment, and runs as whoever is to be
tested. Every program goes through one CodeGrader, two at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import Future
from typing import Any

from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.job import CodeJob, CodeResult
from tests.faults.sandbox_suite import CONTAINED, Program, filled, programs, stdio
from tests.faults.sandbox_suite.escapes import FINDS_TRACES, LEAVES_TRACES
from tests.faults.sandbox_suite.plants import Plants, Traces, adopt_orphans

WORKERS = 2
SETTLE_S = 5.0


def main() -> None:
    """See the module's docstring."""
    request = json.loads(sys.stdin.read())
    adopt_orphans()
    chosen = [program for program in programs() if program.name in set(request["names"])]
    with Plants() as plants:
        bare = {p.name: run_bare(p, plants) for p in chosen if p.escapes_bare} if request["bare"] else {}
        plants.forget()
        before = Traces(plants.mark)
        report = grade(chosen, plants)
        deadline = time.monotonic() + SETTLE_S
        while (left := before.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        leaks = plants.touched() + [f"left behind: {item}" for item in left]
        if plants.secret in json.dumps(report):
            leaks.append("the planted secret is in the results")
    print(json.dumps(report | {"leaks": leaks, "bare": bare}), flush=True)


def grade(chosen: list[Program], plants: Plants) -> dict[str, Any]:
    """Every program's result; then what one program finds of the one before; then whether honest ones are served."""
    results = {}
    with CodeGrader(workers=WORKERS) as grader:
        waiting = [(p.name, grader.submit(_job(p.job, plants))) for p in chosen]
        for name, future in waiting:
            results[name] = _outcome(future)
        carried = []
        for _ in range(3):
            for job in (LEAVES_TRACES, FINDS_TRACES):
                result = grader.grade(_job(job, plants))
                if result.verdict != "pass":
                    carried.append(f"{result.verdict}: {result.detail}")
        last = grader.grade(_job(stdio(f"print({CONTAINED!r})\n"), plants))
    return {"results": results, "carried": carried, "last": last.as_json()}


def _outcome(future: Future[CodeResult]) -> dict[str, Any]:
    """A grader that raises is a failure of that one program's test."""
    error = future.exception()
    if error is None:
        return future.result().as_json()
    said = "".join(traceback.format_exception(error))
    return {"verdict": "raised", "detail": said[-3000:], "reward": 0.0, "wall_s": 0.0, "cpu_s": 0.0, "per_test": []}


def run_bare(program: Program, plants: Plants) -> str:
    """What the program prints where nothing holds it."""
    source = filled(program.job, plants.values)["source"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-I", "-c", source],
            cwd=folder,
            env=dict(os.environ),
            pass_fds=[plants.descriptor],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return done.stdout + done.stderr[-500:]


def _job(job: dict[str, Any], plants: Plants) -> CodeJob:
    return CodeJob.model_validate(filled(job, plants.values))


if __name__ == "__main__":
    main()

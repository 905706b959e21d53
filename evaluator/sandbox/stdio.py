"""Tests by standard input and output: one run of the program per case, all in one cell, compared out here."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evaluator.sandbox.compare import outputs_match
from evaluator.sandbox.jail import Cell, CellLimits, Jail
from evaluator.sandbox.job import CodeJob, Compare, Limits, StdioCase, StdioTests
from evaluator.sandbox.scores import TestScore
from evaluator.sandbox.watch import Captured, Limit, Outcome, run

_SPARE_BYTES = 1024


@dataclass(frozen=True)
class Launch:
    """How a program is started: `header` and `blob` for the cell, `files` to write first, whether it needs /proc."""

    header: dict[str, Any]
    blob: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    proc: bool = False


def python_launch(source: str) -> Launch:
    """A Python program needs no file and no interpreter of its own."""
    return Launch({"python": "program"}, source.encode("utf-8", "surrogatepass"))


def run_stdio(jail: Jail, job: CodeJob, launch: Launch, progress: Callable[[], None]) -> tuple[list[TestScore], float]:
    """Score of every case, and CPU seconds of the cells; `progress` after each."""
    assert isinstance(job.tests, StdioTests)
    how = job.tests.compare
    scores: list[TestScore] = []
    with ReusedCell(jail, job.limits, launch) as cells:
        for case in job.tests.cases:
            # An output that is longer than the expected one is wrong, however much of it is kept.
            longest = len(case.expected.encode("utf-8", "surrogatepass")) + _SPARE_BYTES
            output_kb = max(job.limits.output_kb, longest // 1024 + 1)
            outcome = cells.run(case.stdin.encode("utf-8", "surrogatepass"), output_kb)
            scores.append(_score(case, outcome, job.limits, how))
            progress()
    return scores, cells.cpu_s


class ReusedCell:
    """One cell for run after run, replaced when a program took it down or left something in it."""

    def __init__(self, jail: Jail, limits: Limits, launch: Launch) -> None:
        self._jail, self._limits, self._launch = jail, limits, launch
        self._cell: Cell | None = None
        self.cpu_s = 0.0

    def __enter__(self) -> ReusedCell:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def run(self, stdin: bytes, output_kb: int, *, once: bool = False) -> Outcome:
        """Run the program once more. `once`: it can read its input once, not seek back in it."""
        if self._cell is None:
            limits = self._limits
            self._cell = self._jail.spawn(CellLimits(limits.memory_mb, limits.pids, limits.disk_mb, self._launch.proc))
            if (why := self._cell.put(self._launch.files)) is not None:
                limit: Limit | None = "memory" if self._cell.out_of_memory() else None
                self._drop()
                said = Captured(1024)
                said.add(f"its files cannot be written: {why}".encode())
                return Outcome(None, limit, Captured(0), said, 0.0, 0.0, True)
        outcome = run(
            self._cell,
            self._launch.header,
            blob=self._launch.blob,
            stdin=stdin,
            time_s=self._limits.time_s,
            output_kb=output_kb,
            once=once,
        )
        if outcome.dirty:
            self._drop()
        return outcome

    def _drop(self) -> None:
        if self._cell is not None:
            self.cpu_s += self._cell.close().cpu_s
            self._cell = None


def limit_score(outcome: Outcome, limits: Limits) -> TestScore | None:
    """The score of a run that went over a limit; None if it did not."""
    if outcome.limit == "time":
        return TestScore("timeout", f"over the time limit of {limits.time_s:g} s")
    if outcome.limit == "memory":
        return TestScore("error", f"over the memory limit of {limits.memory_mb} MiB")
    return None


def how_it_ended(outcome: Outcome) -> str:
    """Exit code or signal, and the last line of its error output."""
    last = outcome.stderr.text().strip().rpartition("\n")[2][-160:]
    if outcome.exit_code is None:
        how = "it took its sandbox down with it"
    elif outcome.exit_code < 0:
        how = f"killed by {_signal_name(-outcome.exit_code)}"
    else:
        how = f"exit code {outcome.exit_code}"
    return f"{how}: {last}" if last else how


def _score(case: StdioCase, outcome: Outcome, limits: Limits, how: Compare) -> TestScore:
    over = limit_score(outcome, limits)
    if over is not None:
        return over
    if outcome.exit_code != 0:
        return TestScore("error", how_it_ended(outcome))
    if not outcome.stdout.complete:
        return TestScore("error", f"over the output limit: {outcome.stdout.total} bytes")
    matched, detail = outputs_match(case.expected, outcome.stdout.text(), how)
    return TestScore("pass") if matched else TestScore("fail", detail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

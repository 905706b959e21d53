"""Function tests of Python programs: call, assert, asserts.

    call      host <--rpc--> program's cell                       the host compares the values
    assert*   host <--> judge's cell <--rpc--> program's cell     the judge's cell runs the test code

Either way the program sees arguments and gives values; what was expected is never in its process, nor in the zygote's.
A test that uses up its time costs the program its cell; the tests after it get a fresh one, with the program
loaded anew.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from evaluator import metrics
from evaluator.sandbox import InfraError
from evaluator.sandbox.compare import values_match
from evaluator.sandbox.inside import frames, values
from evaluator.sandbox.jail import Cell, CellLimits, Jail
from evaluator.sandbox.job import AssertsTests, CallCase, CallTests, CheckTests, CodeJob
from evaluator.sandbox.scores import TestScore
from evaluator.sandbox.watch import Watch

MAX_VALUE_BYTES = 64 * 1024 * 1024
MAX_SMALL_BYTES = 64 * 1024
_JUDGE = CellLimits(memory_mb=1024, pids=8, disk_mb=16)
_FOREVER_S = 3600.0
_LEAST_READ_S = 0.1  # for a reply that came at the last moment
_JUDGES_PER_CELL = 500


class _Stopped(Exception):
    """The program went over a limit or ended: `score` is that of the test under way."""

    def __init__(self, verdict: Literal["fail", "timeout", "error"], detail: str) -> None:
        super().__init__(detail)
        self.score = TestScore(verdict, detail)


class Judges:
    """Cells for judges, used again: each judge is a process of its own in one, and no program ever runs there. Not
    setting one up for each job is a third of a job's cost. Thread-safe."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail
        self._lock = threading.Lock()
        self._idle: list[tuple[Cell, int]] = []

    def take(self) -> tuple[Cell, int]:
        """A cell, and how many judges it has had."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                cell, num_used = self._idle.pop()
            if not cell.orphaned:
                return cell, num_used
            cell.close()
        return self._jail.spawn(_JUDGE), 0

    def give_back(self, cell: Cell, num_used: int) -> float:
        """After the judge was told to end: keep the cell if it is as it was. CPU seconds of the judge."""
        ended = cell.stop()
        if ended is None:
            return cell.close().cpu_s
        if ended["dirty"] or num_used >= _JUDGES_PER_CELL:
            cell.close()
        else:
            with self._lock:
                self._idle.append((cell, num_used))
        return float(ended["cpu_s"])

    def close(self) -> None:
        """End the idle ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for cell, _ in idle:
            cell.close()


def run_functions(
    jail: Jail, judges: Judges, job: CodeJob, progress: Callable[[], None]
) -> tuple[list[TestScore], float]:
    """Score of every test, and CPU seconds of all cells; `progress` after each. InfraError: the sandbox is at fault."""
    tests = job.tests
    make: Callable[[], _Session]
    if isinstance(tests, CallTests):
        num = len(tests.cases)
        make = lambda: _CallSession(jail, job, tests)  # noqa: E731
    else:
        assert isinstance(tests, CheckTests | AssertsTests)
        num = len(tests.code) if isinstance(tests, AssertsTests) else 1
        make = lambda: _JudgedSession(jail, judges, job, tests)  # noqa: E731
    scores: list[TestScore] = []
    cpu_s = 0.0
    while len(scores) < num:
        session = make()
        try:
            session.load()
            while len(scores) < num:
                scores.append(session.test(len(scores)))
                progress()
        except _Stopped as stop:
            scores.append(stop.score)
            progress()
            if not session.loaded:  # it would end like this before every test
                scores += [stop.score] * (num - len(scores))
        finally:
            cpu_s += session.close()
    return scores, cpu_s


class _Session:
    """A program loaded in a cell of its own, its output drained while it is waited for."""

    def __init__(self, jail: Jail, job: CodeJob) -> None:
        self.limits, self.loaded = job.limits, False
        self._stack = contextlib.ExitStack()
        self.cell = jail.spawn(CellLimits(job.limits.memory_mb, job.limits.pids, job.limits.disk_mb))
        try:
            self.watch = self._stack.enter_context(Watch(self.cell, job.limits.output_kb))
            ours, theirs = self.pair()
            with theirs:
                header = {"python": "serve", "time_s": _FOREVER_S}
                self.watch.start(header, job.source.encode("utf-8", "surrogatepass"), b"", (theirs.fileno(),))
            self.program = ours
        except BaseException:
            self.close()
            raise

    def load(self) -> None:
        """Until the program's own code has run; _Stopped if it does not get there."""
        raise NotImplementedError

    def test(self, index: int) -> TestScore:
        """Run one test; _Stopped when the program cannot go on."""
        raise NotImplementedError

    def close(self) -> float:
        """End what was started; CPU seconds of all of it."""
        self._stack.close()
        self.cell.stop()
        return self.cell.close().cpu_s

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connection; our end is closed by `close`."""
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        return ours, theirs

    def answer(self, stream: socket.socket, max_bytes: int = MAX_SMALL_BYTES) -> dict[str, Any]:
        """The next frame on `stream` within the time of a test; _Stopped for a limit or the end of the stream."""
        why, deadline = self.watch.await_within(stream.fileno(), time.monotonic(), self.limits.time_s)
        if why != "other":
            metrics.PROGRAMS_KILLED.labels(why).inc()
        if why == "memory":
            raise _Stopped("error", f"over the memory limit of {self.limits.memory_mb} MiB")
        if why == "time":
            raise _Stopped("timeout", f"over the time limit of {self.limits.time_s:g} s")
        try:
            header, _ = frames.receive(stream, max_bytes, max(deadline, time.monotonic() + _LEAST_READ_S))
        except TimeoutError:
            metrics.PROGRAMS_KILLED.labels("time").inc()
            raise _Stopped("timeout", f"over the time limit of {self.limits.time_s:g} s") from None
        except frames.TooLarge as error:
            raise _Stopped("fail", f"its answer is too long: {error}") from None
        except (frames.Closed, OSError) as error:
            raise self.ended(str(error)) from None
        return header

    def ended(self, why: str) -> _Stopped:
        """What to say of a program that is gone; InfraError if it went with its zygote."""
        out_of_memory = self.cell.out_of_memory()
        self.cell.kill()  # asks the zygote, who may be dying
        if self.cell.orphaned:
            raise InfraError("the zygote died")
        if out_of_memory or self.cell.out_of_memory():
            metrics.PROGRAMS_KILLED.labels("memory").inc()
            return _Stopped("error", f"over the memory limit of {self.limits.memory_mb} MiB")
        last = self.watch.stderr.text().strip().rpartition("\n")[2]
        return _Stopped("error", f"the program ended before the test did ({last or why})")


class _CallSession(_Session):
    """The host itself calls."""

    def __init__(self, jail: Jail, job: CodeJob, tests: CallTests) -> None:
        super().__init__(jail, job)
        self.tests = tests
        self.function: Any = None

    def load(self) -> None:
        first = self.answer(self.program)
        if first.get("loaded") is not True:
            raise _Stopped("error", _raised(first))
        name = self.tests.cls or self.tests.entry_point
        self._send({"op": "globals", "names": [name]})
        found = self.answer(self.program).get("globals")
        entry = found.get(name) if isinstance(found, dict) else None
        if not isinstance(entry, list) or len(entry) != 1:
            raise _Stopped("error", f"the program does not define {name!r}")
        self.function = entry[0]
        self.loaded = True

    def test(self, index: int) -> TestScore:
        case: CallCase = self.tests.cases[index]
        try:
            function = self.function
            if self.tests.cls is not None:
                instance = self._ask("call", function)
                function = self._ask("getattr", instance, self.tests.entry_point)
            # What is much longer than the expected value is not it, and is not looked at.
            most = MAX_SMALL_BYTES + 8 * len(json.dumps(case.expected))
            arguments = (values.encode(value) for value in case.args)
            reply = self._ask("call", function, *arguments, max_bytes=min(most, MAX_VALUE_BYTES))
        except _Raised as error:
            return TestScore("error", str(error))
        try:
            value = values.decode_json(reply)
        except values.NotPlain as error:
            return TestScore("fail", f"returned no plain data: {error}")
        if values_match(case.expected, value):
            return TestScore("pass")
        return TestScore("fail", f"returned {_short(value)}, expected {_short(case.expected)}")

    def _ask(self, operation: str, *encoded: Any, max_bytes: int = MAX_SMALL_BYTES) -> Any:
        self._send({"op": operation, "args": list(map(_yours, encoded)), "kwargs": {}})
        reply = self.answer(self.program, max_bytes)
        if "raised" in reply:
            raise _Raised(_raised(reply))
        if "value" not in reply:
            raise _Stopped("error", "the program broke the protocol of its own calls")
        return reply["value"]

    def _send(self, message: dict[str, Any]) -> None:
        try:
            frames.send(self.program, message)
        except OSError as error:
            raise self.ended(str(error)) from None


class _Raised(Exception):
    """The program raised in a call."""


class _JudgedSession(_Session):
    """A judge in a second cell calls, and runs the test code."""

    _judge_cell: tuple[Cell, int] | None = None

    def __init__(self, jail: Jail, judges: Judges, job: CodeJob, tests: CheckTests | AssertsTests) -> None:
        super().__init__(jail, job)
        self._judges = judges
        judge: Cell | None = None
        try:
            judge, num_used = judges.take()
            judge_watch = self._stack.enter_context(Watch(judge, 1))
            self.judge, theirs = self.pair()
            with theirs:
                blob = json.dumps(tests.model_dump(), ensure_ascii=True).encode("ascii")
                descriptors = (self.program.fileno(), theirs.fileno())
                judge_watch.start({"python": "judge", "time_s": _FOREVER_S}, blob, b"", descriptors, discard=True)
            self._judge_cell = (judge, num_used + 1)
            self.program.close()  # the judge has it now
        except BaseException:
            self.close()
            if judge is not None and self._judge_cell is None:
                judge.close()
            raise

    def close(self) -> float:
        cpu_s = super().close()
        if self._judge_cell is not None:
            cpu_s += self._judges.give_back(*self._judge_cell)
            self._judge_cell = None
        return cpu_s

    def load(self) -> None:
        reply = self._ask({"op": "load"})
        if "broken" in reply:
            raise InfraError(str(reply["broken"]))
        if reply.get("ok") is not True:
            raise _Stopped("error", str(reply.get("error"))[:300])
        self.loaded = True

    def test(self, index: int) -> TestScore:
        reply = self._ask({"op": "test", "index": index})
        if reply.get("gone"):
            raise self.ended(str(reply["detail"]))
        return TestScore(reply["result"], str(reply["detail"]))

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            frames.send(self.judge, message)
        except OSError as error:
            raise InfraError(f"the judge is gone: {error}") from None
        return self.answer(self.judge)


def _yours(encoded: Any) -> Any:
    """A handle that the program gave, given back to it."""
    return ["yours", encoded[1]] if isinstance(encoded, list) and len(encoded) == 2 and encoded[0] == "h" else encoded


def _raised(message: dict[str, Any]) -> str:
    names = message.get("raised")
    name = names[0] if isinstance(names, list) and names else "an exception"
    return f"the program raised {name}: {str(message.get('text'))[:200]}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."

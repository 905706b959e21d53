"""Owns `zeroq grade`: JSON lines in, one JSON line out for each, in order, with as many at work as asked for."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from common.config import RewardSection
from common.errors import EXIT_FAILURE, EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError
from evaluator.lines import BadLine, LineGrader, parse
from evaluator.pool import CallFailed, WorkerPool
from evaluator.sandbox import InfraError
from evaluator.sandbox.grader import CodeGrader

_AHEAD = 4  # lines read ahead, per worker
_PROGRESS_S = 1.0


@dataclass(frozen=True)
class GradeRequest:
    """What the command line asks for."""

    file: Path | None
    workers: int
    unordered: bool
    tier: int


def grade(request: GradeRequest) -> int:
    """Grade every line; exit code 2 if one was malformed, 1 if one could not be graded."""
    if request.workers < 1:
        raise UserError(f"--workers {request.workers}: at least 1")
    with contextlib.ExitStack() as stack:
        source = _open(request.file, stack)
        tools = stack.enter_context(Tools(request.workers, request.tier))
        run = Run(tools.grader, sys.stdout)
        for answered in _results(run, source, request):
            run.write(answered)
        run.close()
        return run.exit_code


def print_capabilities(tier: int) -> int:
    """What the sandbox holds here, and which languages can be graded; exit code 1 if the tier is not reached."""
    from evaluator.sandbox.tools import languages_here

    try:
        with CodeGrader(1, tier=tier) as grader:
            report: dict[str, Any] = {"tier": tier, "holds": True, "layers": grader.capabilities.layers}
    except InfraError as error:
        report = {"tier": tier, "holds": False, "missing": str(error)}
    report["languages"] = languages_here(tier)
    print(json.dumps(report, indent=2))
    return EXIT_OK if report["holds"] else EXIT_FAILURE


class Tools:
    """Graders that are started when the first line needs them."""

    def __init__(self, workers: int, tier: int) -> None:
        self._workers, self._tier = workers, tier
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._pool: WorkerPool | None = None
        self._sandbox: CodeGrader | None = None
        self.grader = LineGrader(self, self.sandbox, RewardSection.model_fields["math_timeout_s"].default)

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def submit(self, call: Any, group: str = "") -> Any:
        """Runner: of the pool of workers."""
        with self._lock:
            if self._pool is None:
                try:
                    self._pool = self._stack.enter_context(
                        WorkerPool(self._workers, warm=["evaluator.graders.math_answer:self_test"])
                    )
                except CallFailed as error:
                    raise RunFailure(f"the graders do not work here: {error}") from None
        return self._pool.submit(call, group)

    def sandbox(self) -> CodeGrader:
        """The sandbox; RunFailure with the missing layers below the floor."""
        with self._lock:
            if self._sandbox is None:
                try:
                    self._sandbox = self._stack.enter_context(CodeGrader(self._workers, tier=self._tier))
                except InfraError as error:
                    raise RunFailure(str(error)) from None
        return self._sandbox


class Run:
    """Answers written so far, and what they make of the exit code."""

    def __init__(self, grader: LineGrader, out: TextIO) -> None:
        self._grader, self._out = grader, out
        self._malformed = self._failed = self._written = 0
        self._shown = time.monotonic()

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT_USER_ERROR if self._malformed else EXIT_FAILURE if self._failed else EXIT_OK

    def start(self, number: int, text: bytes) -> Callable[[], dict[str, Any]]:
        """Begin with line `number`; the function returned waits for its answer."""
        try:
            line = parse(text)
            answer = self._grader.submit(line)
        except BadLine as error:
            refused = {"id": error.identity, "line": number, "error": f"line {number}: {error}"}
            return lambda: refused

        def wait() -> dict[str, Any]:
            try:
                return answer()
            except CallFailed as error:
                return {"id": line.id, "verdict": "infra_error", "reward": 0.0, "detail": str(error)[:300]}

        return wait

    def write(self, answer: dict[str, Any]) -> None:
        """One answer line."""
        self._malformed += "error" in answer
        self._failed += answer.get("verdict") == "infra_error"
        self._written += 1
        self._out.write(_line(answer))
        self._out.flush()
        if sys.stderr.isatty() and time.monotonic() > self._shown + _PROGRESS_S:
            self._shown = time.monotonic()
            print(f"\r{self._written} graded", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Say on standard error what a reader of the answers might overlook."""
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        if self._malformed:
            print(
                f"error: {self._malformed} of {self._written} lines malformed; their answers say why", file=sys.stderr
            )
        if self._failed:
            print(f"failed: {self._failed} of {self._written} lines not graded (infra_error)", file=sys.stderr)


def _line(answer: dict[str, Any]) -> str:
    """As one line of JSON; what is no Unicode text (half a surrogate pair in an id) stays escaped."""
    text = json.dumps(answer, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(answer)
    return text + "\n"


def _results(run: Run, source: BinaryIO, request: GradeRequest) -> Iterator[dict[str, Any]]:
    """Answers, in the lines' order or as they come, with a bounded number of lines read ahead."""
    lines = ((number, text) for number, text in enumerate(source, start=1) if text.strip())
    most = _AHEAD * request.workers
    if not request.unordered:
        waiting: deque[Callable[[], dict[str, Any]]] = deque()
        for number, text in lines:
            waiting.append(run.start(number, text))
            if len(waiting) >= most:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
        return
    done: deque[dict[str, Any]] = deque()
    finished = threading.Semaphore(0)
    under_way = 0

    def collect(wait: Callable[[], dict[str, Any]]) -> None:
        try:
            done.append(wait())
        except BaseException as error:
            done.append(
                {"id": None, "verdict": "infra_error", "reward": 0.0, "detail": f"{type(error).__name__}: {error}"}
            )
        finally:
            finished.release()

    with ThreadPoolExecutor(most) as threads:
        for number, text in lines:
            threads.submit(collect, run.start(number, text))
            under_way += 1
            if under_way >= most:
                finished.acquire()
                under_way -= 1
                yield done.popleft()
        for _ in range(under_way):
            finished.acquire()
            yield done.popleft()


def _open(file: Path | None, stack: contextlib.ExitStack) -> BinaryIO:
    if file is None or str(file) == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(file.open("rb"))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read: {error.strerror}; name a file of JSON lines, or - for standard input"
        ) from None

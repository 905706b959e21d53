"""Runs calls in worker processes that can be killed: the only way to bound sympy, and it works from any thread.

Workers are forked from a zygote that has imported the graders once, so that replacing a killed one takes milliseconds.
One thread of this process looks after each worker: it sends a call, enforces the limit from outside, and respawns.

    limit used up      LimitExceeded: the call's own doing. The clock is the worker's CPU time, so that a starved
                       machine turns no right answer into a time-out; functions, which may wait, get the wall clock
    worker dies        once: tried again on a fresh worker; twice on one call: CallFailed
    call raises        CallFailed
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

import psutil

from common.errors import ZeroqError
from evaluator import metrics, worker
from evaluator.fair_queue import FairQueue
from evaluator.zygote import Zygote

START_TIMEOUT_S = 120.0
STARVED_FACTOR = 10  # a call that has not used its CPU limit after this many times its wall time is stuck, not slow
CALLS_PER_WORKER = 20_000  # then a fresh one: caches of sympy grow
GRADER_MEMORY_BYTES = 2 * 1024**3


class CallFailed(ZeroqError):
    """The evaluator is at fault (a grader raised, a worker died twice): no verdict may come of this call."""


class LimitExceeded(ZeroqError):
    """The call used up its time or memory: what it was given is at fault."""


@dataclass(frozen=True)
class Call:
    """`target` is "module:function"; arguments and result must be JSON. `limit_s`: seconds of `clock`."""

    target: str
    arguments: dict[str, Any]
    limit_s: float
    clock: Literal["cpu", "wall"] = "cpu"


@dataclass(frozen=True)
class Result:
    """What a call returned and the wall time it took, seconds."""

    value: Any
    wall_s: float


class Runner(Protocol):
    """Runs calls: a WorkerPool, or Inline."""

    def submit(self, call: Call, group: str = "") -> Future[Result]:
        """The Future yields a Result, or raises CallFailed or LimitExceeded."""


class Inline:
    """Runs calls in the calling thread (benchmarks, reward functions of other trainers): no limits, no isolation."""

    def submit(self, call: Call, group: str = "") -> Future[Result]:
        """Run `call` now."""
        future: Future[Result] = Future()
        begin = time.perf_counter()
        try:
            function, prepare = worker.resolve(call.target)
            if prepare is not None:
                prepare(**call.arguments)
            future.set_result(Result(function(**call.arguments), time.perf_counter() - begin))
        except Exception as error:
            future.set_exception(CallFailed(f"{call.target}: {worker.describe(error)}"))
        return future


class WorkerPool:
    """`size` workers. `warm` functions run in each at its start; start fails with CallFailed if one raises."""

    def __init__(self, size: int, *, warm: Sequence[str] = (), memory_bytes: int | None = GRADER_MEMORY_BYTES) -> None:
        self._queue: FairQueue[tuple[Call, Future[Result]]] = FairQueue()
        self._zygote = Zygote(sorted({target.partition(":")[0] for target in warm}))
        self._workers = [_Worker(self._zygote, tuple(warm), memory_bytes) for _ in range(size)]
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        try:
            for member in self._workers:
                member.spawn()
            for member in self._workers:
                member.await_start()
        except BaseException:
            self.close()
            raise
        for index, member in enumerate(self._workers):
            thread = threading.Thread(target=self._serve, args=(member,), name=f"pool-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [member.pid for member in self._workers if member.pid is not None]

    def submit(self, call: Call, group: str = "") -> Future[Result]:
        """Queue `call`; groups are served in turn."""
        future: Future[Result] = Future()
        self._queue.put(group, (call, future))
        return future

    def close(self) -> None:
        """Kill the workers; calls not done are cancelled or fail with CallFailed."""
        self._closed.set()
        for _, future in self._queue.close():
            future.cancel()
        for member in self._workers:
            member.interrupt()
        for thread in self._threads:
            thread.join(timeout=10)
        for member in self._workers:
            member.kill()
        self._zygote.close()

    def _serve(self, member: _Worker) -> None:
        """Consumes the queue; waits for a call, then for the worker; is unblocked by `submit`, a reply, or a limit."""
        while (item := self._queue.get()) is not None:
            call, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(member, call))
            except Exception as error:
                future.set_exception(error)
        member.kill()

    def _run(self, member: _Worker, call: Call) -> Result:
        """The call's result; one retry on a fresh worker."""
        for last_attempt in (False, True):
            try:
                if not member.idle:
                    member.spawn()
                    member.await_start()
                return member.exchange(call)
            except _WorkerDied as death:
                member.kill()
                metrics.WORKERS_REPLACED.labels(death.reason).inc()
                if self._closed.is_set():
                    raise CallFailed(f"{call.target}: the pool was closed") from None
                if last_attempt and death.reason == "memory":
                    raise LimitExceeded(f"needed more than {GRADER_MEMORY_BYTES >> 20} MiB") from None
                if last_attempt:
                    raise CallFailed(f"{call.target}: its worker died twice on the same item: {death}") from None
            except LimitExceeded:
                member.kill()
                metrics.WORKERS_REPLACED.labels("limit").inc()
                raise
        raise AssertionError("unreachable")


class _WorkerDied(Exception):
    def __init__(self, reason: Literal["crash", "memory", "stuck"], text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Worker:
    """One process and the pipe to it. Only one thread uses it, but for `interrupt`."""

    def __init__(self, zygote: Zygote, warm: tuple[str, ...], memory_bytes: int | None) -> None:
        self._zygote, self._warm, self._memory_bytes = zygote, warm, memory_bytes
        self._process: tuple[int, Connection[Any, Any]] | None = None
        self._calls = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process[0]

    @property
    def idle(self) -> bool:
        """Ready for a call. A worker with something to say before it was asked has ended."""
        process = self._process
        if process is not None and (self._calls >= CALLS_PER_WORKER or process[1].poll()):
            self.kill()
        return self._process is not None

    def spawn(self) -> None:
        try:
            pid, pipe = self._zygote.fork(self._warm, self._memory_bytes)
        except OSError as error:
            raise CallFailed(f"cannot start a worker: {error}") from None
        _set_send_timeout(pipe, START_TIMEOUT_S)
        self._process, self._calls = (pid, pipe), 0

    def await_start(self) -> None:
        try:
            reply = self._receive(START_TIMEOUT_S)
        except _WorkerDied as death:
            self.kill()
            raise CallFailed(f"a worker died while starting: {death}") from None
        if "error" in reply:
            self.kill()
            raise CallFailed(f"a worker could not start: {reply['error']}")

    def exchange(self, call: Call) -> Result:
        """Send the call and wait for its result within the limit."""
        pid, pipe = self._running()
        self._calls += 1
        request = json.dumps({"target": call.target, "arguments": call.arguments}).encode()
        try:
            pipe.send_bytes(request)
        except OSError as error:
            raise _WorkerDied("crash", f"{error}{self._exit()}") from None
        reply = self._receive(START_TIMEOUT_S)
        begin = time.perf_counter()
        if "started" in reply:
            self._await_reply(call, begin, pid, pipe)
            reply = self._receive(START_TIMEOUT_S)
        if "memory" in reply:
            raise _WorkerDied("memory", "out of memory")
        if "error" in reply:
            raise CallFailed(f"{call.target}: {reply['error']}")
        return Result(reply["value"], time.perf_counter() - begin)

    def interrupt(self) -> None:
        """Kill the process under the thread that waits for it; that thread reads the end of the pipe and closes it."""
        process = self._process
        if process is not None:
            self._zygote.reap(process[0])

    def kill(self) -> int | None:
        """End the process at once; its exit code, if it can be known."""
        process, self._process = self._process, None
        if process is None:
            return None
        process[1].close()
        return self._zygote.reap(process[0])

    def _running(self) -> tuple[int, Connection[Any, Any]]:
        process = self._process
        if process is None:
            raise _WorkerDied("crash", "killed")
        return process

    def _await_reply(self, call: Call, begin: float, pid: int, pipe: Connection[Any, Any]) -> None:
        """Return once something can be read; LimitExceeded or _WorkerDied otherwise."""
        used = _cpu_clock(pid) if call.clock == "cpu" else lambda: time.perf_counter() - begin
        wait_s = call.limit_s
        while not pipe.poll(wait_s):
            used_s = used()
            if used_s >= call.limit_s:
                raise LimitExceeded(f"more than {call.limit_s:g} s")
            wall_s = time.perf_counter() - begin
            if wall_s >= STARVED_FACTOR * call.limit_s:
                raise _WorkerDied("stuck", f"no result after {wall_s:.1f} s, of which {used_s:.1f} s on a CPU")
            wait_s = max(call.limit_s - used_s, 0.01)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        _, pipe = self._running()
        try:
            if not pipe.poll(timeout_s):
                raise _WorkerDied("stuck", f"silent for {timeout_s:g} s while preparing")
            reply: dict[str, Any] = json.loads(pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise _WorkerDied("crash", f"{type(error).__name__}{self._exit()}") from None
        return reply

    def _exit(self) -> str:
        return f" (exit code {self.kill()})"


def _cpu_clock(pid: int) -> Callable[[], float]:
    """CPU seconds that process `pid` uses from now on."""
    try:
        process = psutil.Process(pid)
        begin = sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        raise _WorkerDied("crash", "gone before the call began") from None

    def used_s() -> float:
        with contextlib.suppress(psutil.NoSuchProcess):
            return float(sum(process.cpu_times()[:2]) - begin)
        return 0.0  # the pipe will say how it ended

    return used_s


def _set_send_timeout(pipe: Connection[Any, Any], timeout_s: float) -> None:
    """A stopped worker must not block the sender for ever."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s), 0))

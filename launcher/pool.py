"""Owns the processes of a run on this machine: starts them, restarts those that may be, stops them in order.

    broker, evaluators, actors, learner ── poll() ── actor or evaluator died: restart it, within its budget
                                                  ── broker died, learner failed, budget spent: RunFailure with its log
                                                  ── Prometheus, budget spent: the run goes on without it
                                                  ── learner exited 0: done

No process outlives the launcher, however the launcher ends: children get the parent-death signal before they become
what they are (launcher/child.py), everything a child starts carries this pool's mark in its environment, and orphans
are handed to this process by the kernel (sub-reaper) and killed at the end. Children run in sessions of their own, so
that Ctrl-C in a terminal reaches the launcher only, which then stops them in order. Their temporary files lie in one
folder, which goes with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.errors import EXIT_OK, EXIT_USER_ERROR, RunFailure, UserError
from common.lifecycle import RunPaths
from launcher.processes import ProcessRole, ProcessSpec
from launcher.scratch import Scratch

STOP_ORDER: tuple[ProcessRole, ...] = ("learner", "actor", "evaluator", "broker", "prometheus")
STOP_DEADLINE_S: dict[ProcessRole, float] = {
    "learner": 30.0,
    "actor": 15.0,
    "evaluator": 10.0,
    "broker": 10.0,
    "prometheus": 10.0,
}
MARK = "ZEROQ_POOL"
_CHILD = Path(__file__).with_name("child.py")
_PR_SET_CHILD_SUBREAPER = 36
_MAX_BACKOFF_S = 30.0
_LAST_LINES = 20
_KILL_DEADLINE_S = 10.0


@dataclass
class Child:
    """One process and its history.

    `restart_at`: when to start it again, None while it runs; `leave_by`: when to kill it if it was asked to leave (both
    monotonic).
    """

    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    restarts: int = 0
    restart_at: float | None = None
    leave_by: float | None = None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.restart_at is None and self.process.poll() is None


class Pool:
    """Local process pool of one run. A context manager: leaving it stops and reaps everything.

    `on_event(name, **fields)` hears of restarts. Start from the main thread: a child dies with the thread that made it.
    """

    def __init__(
        self,
        paths: RunPaths,
        on_event: Callable[..., None],
        *,
        backoff_s: float = 1.0,
        stop_deadline_s: dict[ProcessRole, float] | None = None,
    ) -> None:
        self._paths = paths
        self._on_event = on_event
        self._backoff_s = backoff_s
        self._deadlines = STOP_DEADLINE_S | (stop_deadline_s or {})
        self._mark = uuid.uuid4().hex
        self._scratch = Scratch()  # vLLM and torchrun leave sockets and folders behind
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def children(self) -> dict[str, Child]:
        """Children by name, dead ones that wait for their restart included."""
        return dict(self._children)

    def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Start all, in the order given."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "processes must be started from the main thread: they die with the thread that made them"
            )
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for spec in specs:
            self.add(spec)

    def add(self, spec: ProcessSpec) -> None:
        """Start one more process; ValueError when its name is taken."""
        if spec.name in self._children:
            raise ValueError(f"there is a process called {spec.name} already")
        self._children[spec.name] = Child(spec, self._spawn(spec))

    def remove(self, name: str) -> None:
        """Ask a process to leave; it is neither restarted nor missed. It is killed if it takes longer than it may."""
        child = self._children[name]
        child.leave_by = time.monotonic() + self._deadlines[child.spec.role]
        child.restart_at = None
        child.process.terminate()

    def poll(self) -> bool:
        """Look after the children once; True when the learner has finished its work.

        Raises RunFailure with the last log lines when the run cannot go on, and UserError with a process's own words
        when it refused its input (exit code 2).
        """
        for child in list(self._children.values()):
            if child.restart_at is not None:
                if time.monotonic() >= child.restart_at:
                    child.process, child.restart_at = self._spawn(child.spec), None
                continue
            code = child.process.poll()
            if code is None:
                if child.leave_by is not None and time.monotonic() > child.leave_by:
                    child.process.kill()
            elif child.leave_by is not None:
                del self._children[child.spec.name]
                (self._paths.processes / f"{child.spec.name}.json").unlink(missing_ok=True)  # nothing to scrape there
            elif child.spec.role == "learner" and code == EXIT_OK:
                return True
            else:
                self._bury(child, code)
        return False

    def stop(self) -> None:
        """Stop everything: learner, actors, evaluators, broker; each kind gets its time, then SIGKILL. Idempotent."""
        for role in STOP_ORDER:
            children = [c for c in self._children.values() if c.spec.role == role and c.running]
            for child in children:
                child.process.terminate()
            deadline = time.monotonic() + self._deadlines[role]
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, deadline - time.monotonic()))
        self._kill_all()
        self._children.clear()
        self._scratch.remove()

    def last_lines(self, name: str) -> str:
        """The end of a process's log."""
        return last_lines(self._paths.logs / f"{name}.log", _LAST_LINES)

    def _spawn(self, spec: ProcessSpec) -> subprocess.Popen[bytes]:
        self._paths.logs.mkdir(parents=True, exist_ok=True)
        cores = ",".join(map(str, sorted(spec.cores))) if spec.cores else "-"
        environment = {**os.environ, "TMPDIR": str(self._scratch.path), **spec.environment, MARK: self._mark}
        with (self._paths.logs / f"{spec.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-S", "-E", str(_CHILD), str(os.getpid()), cores, *spec.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _bury(self, child: Child, code: int) -> None:
        """Restart a dead child within its budget, or end the run (Prometheus is only let go: it is no part of it)."""
        spec = child.spec
        how = f"{spec.name} ended with {describe_exit(code)}"
        if spec.role == "prometheus":
            if child.restarts >= spec.max_restarts:
                del self._children[spec.name]
                log = self.last_lines(spec.name)
                self._on_event("monitoring_ended", name=spec.name, exit=describe_exit(code), log=log)
                return
        elif code == EXIT_USER_ERROR:
            raise UserError(user_error_line(self.last_lines(spec.name)) or how)
        if spec.role in ("broker", "learner"):
            raise RunFailure(self._obituary(spec.name, how))
        if child.restarts >= spec.max_restarts:
            key = f"{spec.role}.max_restarts"
            raise RunFailure(self._obituary(spec.name, f"{how}, and {key}={spec.max_restarts} is used up"))
        self._kill(self._orphans())
        child.restarts += 1
        delay_s = min(_MAX_BACKOFF_S, self._backoff_s * 2 ** (child.restarts - 1))
        child.restart_at = time.monotonic() + delay_s
        self._on_event(
            f"{spec.role}_restarted",
            name=spec.name,
            restart=child.restarts,
            exit=describe_exit(code),
            last_line=last_lines(self._paths.logs / f"{spec.name}.log", 1),
            delay_s=delay_s,
        )

    def _obituary(self, name: str, how: str) -> str:
        return f"{how}; the end of {self._paths.logs / name}.log:\n{self.last_lines(name)}"

    def _marked(self) -> list[psutil.Process]:
        """Living descendants of this process that this pool, or a process of it, started."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark:
                    found.append(process)
        return found

    def _orphans(self) -> list[psutil.Process]:
        """Marked processes that the kernel gave us because their parent died."""
        known = {child.process.pid for child in self._children.values()}
        orphans = []
        for process in self._marked():
            with contextlib.suppress(psutil.Error):
                if process.ppid() == os.getpid() and process.pid not in known:
                    orphans.append(process)
        return orphans

    def _kill(self, processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=0.5)

    def _kill_all(self) -> None:
        """SIGKILL whatever is left of our family, until nothing is."""
        deadline = time.monotonic() + _KILL_DEADLINE_S
        while (left := self._marked()) and time.monotonic() < deadline:
            self._kill(left)
        for child in self._children.values():
            child.process.wait()


def describe_exit(code: int) -> str:
    """`exit code 3`, or `signal SIGKILL`."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def last_lines(path: Path, num_lines: int) -> str:
    """The last lines of a text file that may be large; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-num_lines:])
    except FileNotFoundError:
        return ""


def user_error_line(log: str) -> str | None:
    """The line that `common.cli` printed for a user's error, without its prefix."""
    lines = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    return lines[-1] if lines else None

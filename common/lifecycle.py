"""Process life-cycle: signals, dying with the parent, logging, the files by which processes of a run find each other.

Layout of a run directory (`RunPaths`):

    config.yaml versions.json        what was asked for, and of what code
    endpoints.json                   the broker's sockets, written once they are bound
    processes/NAME.json              pid, role, metrics port of each process
    logs/NAME.log                    standard output and error of each process
    checkpoints/step-N/              loadable Hugging Face directories
    models/NAME/                     what an actor without a model got from the learner: no weights
    metrics.jsonl summary.json report.html
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import RunFailure
from common.messages import Role

if TYPE_CHECKING:
    from common.config import BrokerSection

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RunPaths:
    """Names of the files in a run directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def versions(self) -> Path:
        return self.root / "versions.json"

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def processes(self) -> Path:
        return self.root / "processes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Phases and other moments of the run, one JSON object a line, for the live display."""
        return self.root / "events.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def model(self) -> Path:
        """Where `model: tiny` puts the model it makes."""
        return self.root / "model"

    @property
    def served_models(self) -> Path:
        """Where actors put the model's files that they got from the learner (`actor.model_from: learner`)."""
        return self.root / "models"


class StopFlag:
    """Set by SIGTERM, SIGINT or a terminal that is closed; loops look at it. A second signal ends the process at once.

    SIGUSR1 asks for less: begin nothing new, finish what is in hand, and wait to be stopped (common/drain.py).
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._drain = threading.Event()
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask for a stop."""
        self._event.set()

    @property
    def draining(self) -> bool:
        """Whether no new work is to be begun."""
        return self._drain.is_set() or self._event.is_set()

    def drain(self) -> None:
        """Ask that no new work be begun."""
        self._drain.set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; True once a stop was asked for."""
        return self._event.wait(timeout_s)

    def install(self) -> StopFlag:
        """Take over SIGTERM, SIGINT, SIGUSR1, and SIGHUP unless `nohup` has had it ignored (main thread only)."""
        signal.signal(signal.SIGUSR1, lambda *_: self.drain())
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: self.set())  # shell and kernel both send it: never a second one
        return self

    def _on_signal(self, signum: int, _frame: object) -> None:
        if self._event.is_set():
            os._exit(128 + signum)
        self.signum = signum
        self._event.set()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies (Linux). No orphan ever."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the two calls
            os._exit(1)


def configure_logging(name: str) -> None:
    """One line per record on standard error, which the launcher sends to logs/NAME.log. SIGUSR2 writes there where each
    thread stands, also of a process that hangs; a debugger may not be attached in a restricted pod."""
    if sys.__stderr__ is not None:
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__)
    logging.basicConfig(
        level=os.environ.get("ZEROQ_LOG_LEVEL", "INFO"),
        format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # the disk is full
        temporary.unlink(missing_ok=True)
        raise


def register_process(paths: RunPaths, name: str, role: str, metrics_port: int | None) -> None:
    """Tell the launcher and Prometheus's file discovery who this process is."""
    record = {
        "name": name,
        "role": role,
        "pid": os.getpid(),
        "metrics_port": metrics_port,
        "started": time.time(),
    }
    write_atomic(paths.processes / f"{name}.json", json.dumps(record))


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a JSON object to a file of lines. What a full disk has left of an earlier one stays a line of its own."""
    with path.open("a+b") as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")


def record_event(paths: RunPaths, event: str, **fields: Any) -> None:
    """Append a moment of the run (`phase`, `actor_restarted`, ...) to events.jsonl."""
    append_record(paths.events, {"time": time.time(), "event": event, **fields})


def wait_for_endpoint(
    paths: RunPaths, role: Role, *, broker: BrokerSection | None = None, timeout_s: float = 60.0
) -> str:
    """Address of the broker's socket for `role`: by `broker.address` and its port, if the configuration names them,
    else what the broker has written to endpoints.json; RunFailure at the deadline."""
    if broker is not None and broker.address is not None:
        host = f"[{broker.address}]" if ":" in broker.address else broker.address
        return f"tcp://{host}:{broker.ports[role]}"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if paths.endpoints.exists():
            return str(json.loads(paths.endpoints.read_text())[role])
        time.sleep(0.05)
    raise RunFailure(f"{paths.endpoints}: the broker did not bind its sockets within {timeout_s:.0f} s; see its log")

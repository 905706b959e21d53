"""A process that has imported the graders once and forks workers on request, in milliseconds.

    pool --{"fork": {...}} + one end of a socket pair--> zygote --fork--> worker (evaluator/worker.py) on that socket
    pool --{"reap": pid}--> zygote: kills the worker if need be, and collects it

Why not multiprocessing's fork server: its children inherit the pipe by which it notices that its owner died, so one
busy child keeps all of them alive after the owner was killed; and it imports the owner's main module in each child.
Here the kernel kills the zygote with its owner and the workers with the zygote. Only the zygote collects workers,
so no process id is ever signalled after it went to somebody else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from common.lifecycle import die_with_parent
from evaluator import worker

_MESSAGE_BYTES = 65_536
_REPLY_TIMEOUT_S = 120.0  # the first reply waits for the imports
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from evaluator.zygote import main; main()"


class Zygote:
    """The owner's handle. Thread-safe. A zygote that died is replaced by the next `fork`."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = list(preload)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self, warm: Sequence[str], memory_bytes: int | None) -> tuple[int, Connection[Any, Any]]:
        """Process id of a new worker and the connection to it; OSError if the zygote cannot do it."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                request = {"fork": {"warm": list(warm), "memory_bytes": memory_bytes}}
                try:
                    reply = self._ask(request, theirs)
                except OSError:
                    self._stop()
                    reply = self._ask(request, theirs)
        except BaseException:
            ours.close()
            raise
        return int(reply["pid"]), Connection(ours.detach())

    def reap(self, pid: int) -> int | None:
        """Kill worker `pid` if it still runs and collect it; its exit code, or None if it went with its zygote."""
        with self._lock:
            if self._control is None:
                return None
            try:
                exit_code: int | None = self._ask({"reap": pid})["exit"]
            except OSError:
                self._stop()
                return None
            return exit_code

    def close(self) -> None:
        """End the zygote, and with it every worker."""
        with self._lock:
            self._stop()

    def _ask(self, request: dict[str, Any], pass_on: socket.socket | None = None) -> dict[str, Any]:
        if self._control is None:
            self._start()
        assert self._control is not None
        socket.send_fds(self._control, [json.dumps(request).encode()], [] if pass_on is None else [pass_on.fileno()])
        message = self._control.recv(_MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError("the zygote is gone")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_REPLY_TIMEOUT_S)
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}  # a fork copies no threads
        arguments = [json.dumps(sys.path), str(theirs.fileno()), *self._preload]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


def main() -> None:
    """The zygote: `sys.argv` is [-c, sys.path, control descriptor, modules to import...]."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[2])) as control:
        for name in sys.argv[3:]:
            with contextlib.suppress(Exception):  # the workers import it again, and report why they cannot
                importlib.import_module(name)
        gc.freeze()  # keeps the collector from touching, and so copying, the pages that workers share
        children: set[int] = set()
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1)
            if not message:
                return
            reply = _obey(json.loads(message), descriptors, control, children)
            control.send(json.dumps(reply).encode())


def _obey(
    request: dict[str, Any], descriptors: list[int], control: socket.socket, children: set[int]
) -> dict[str, Any]:
    if "reap" in request:
        pid = int(request["reap"])
        if pid not in children:  # collected before, or the child of an earlier zygote: the id may be anybody's by now
            return {"exit": None}
        children.remove(pid)
        os.kill(pid, signal.SIGKILL)
        return {"exit": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
    pid = os.fork()
    if pid == 0:
        _become_worker(Connection(descriptors[0]), control, **request["fork"])
    os.close(descriptors[0])
    children.add(pid)
    return {"pid": pid}


def _become_worker(
    connection: Connection[Any, Any], control: socket.socket, warm: list[str], memory_bytes: int | None
) -> None:
    """Never returns."""
    code = 1
    try:
        control.close()
        random.seed()
        worker.main(connection, tuple(warm), memory_bytes)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
            sys.stdout.flush()
        os._exit(code)

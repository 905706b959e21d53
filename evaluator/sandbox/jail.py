"""The host's side of the zygote and of its cells: start, spawn, talk, kill, collect.

A Jail owns one zygote process; threads share it. A Cell is one program's (or compiler's, or judge's) namespace; one
thread uses it. Both are context managers and leave nothing behind.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluator.sandbox import InfraError, cgroups, seccomp
from evaluator.sandbox.inside import frames

INSIDE = Path(__file__).resolve().parent / "inside"
JAIL_CODE = "/zeroq"  # where INSIDE is seen in the jail
START_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
_FIRST_UID = 61_184  # the range that systemd keeps for users made up on the spot; 4,096 of them
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mono", "php")
_NO_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class CellLimits:
    """What a cell as a whole may use. `proc`: it has a /proc, of its own processes (the JVM and mono need one)."""

    memory_mb: int
    pids: int
    disk_mb: int
    proc: bool = False


@dataclass(frozen=True)
class Ended:
    """How a cell ended. `cpu_s` is of every process that was in it."""

    exit_code: int
    cpu_s: float


@dataclass
class JailOptions:
    """`tier` 2 or 1; `use_cgroups` False polls memory instead; `binds`: more read-only places, inside -> outside."""

    tier: int = 2
    use_cgroups: bool = True
    binds: Mapping[str, str] = field(default_factory=dict)


class Jail:
    """One zygote: started at construction (InfraError names the layer that fails), replaced by `spawn` if it died."""

    def __init__(self, options: JailOptions | None = None) -> None:
        self.options = options or JailOptions()
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._slots: list[cgroups.Slot] = []
        self._closed = False
        self._generation = 0  # of the zygote
        self.hierarchy = cgroups.find() if self.options.use_cgroups and self.options.tier >= 2 else None
        self.landlock = 0
        # Called after a restart, before anything runs in the new zygote.
        self.verify: Callable[[], object] | None = None
        with self._lock:
            self._start()

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The zygote's process id."""
        return None if self._process is None else self._process.pid

    def spawn(self, limits: CellLimits) -> Cell:
        """A new cell, shut in and waiting; InfraError if the zygote cannot make one."""
        ours, theirs = socket.socketpair()
        request = {"op": "cell", "limits": self._limits(limits)}
        try:
            with theirs:
                for last_try in (False, True):
                    with self._lock:  # until there is a new one: two threads must not stop each other's
                        if self._closed:
                            raise InfraError("the sandbox was closed")
                        try:
                            reply = self._ask(request, (theirs.fileno(),))
                            generation = self._generation
                            break
                        except (OSError, EOFError) as error:
                            self._stop()
                            if last_try:
                                raise InfraError(f"the zygote died: {error}") from None
                            self._start()
                            self._verify()  # before any other thread's program runs in the new one
            if "error" in reply:
                raise InfraError(f"the zygote cannot make a cell: {reply['error']}")
            return Cell(self, int(reply["pid"]), ours, limits, generation)
        except BaseException:
            ours.close()
            raise

    def _verify(self) -> None:
        verify, self.verify = self.verify, None  # it spawns cells itself
        try:
            if verify is not None:
                verify()
        except BaseException:
            self._stop()
            raise
        finally:
            self.verify = verify

    @property
    def generation(self) -> int | None:
        """Which zygote lives now; None if the last one is dead."""
        process = self._process
        return self._generation if process is not None and process.poll() is None else None

    def reap(self, pid: int, generation: int) -> Ended:
        """Collect a cell that has ended."""
        with self._lock:
            if generation != self._generation:  # its process id may be another's by now
                return Ended(-signal.SIGKILL, 0.0)
            try:
                reply = self._ask({"op": "reap", "pid": pid})
            except (OSError, EOFError):
                self._stop()
                return Ended(-signal.SIGKILL, 0.0)
        return Ended(int(reply["exit"]), float(reply["cpu_s"]))

    def take_slot(self) -> cgroups.Slot | None:
        """A cgroup for a cell, if there are any here."""
        if self.hierarchy is None:
            return None
        with self._lock:
            if self._slots:
                return self._slots.pop()
        try:
            return cgroups.make_slot(self.hierarchy)
        except OSError as error:
            raise InfraError(f"cgroup: {error}") from None

    def give_slot(self, slot: cgroups.Slot) -> None:
        """Back for the next cell, unless something of the last one is still charged to it."""
        clean = slot.clean()
        with self._lock:
            if self._control is not None and clean:
                self._slots.append(slot)
                return
        slot.close()

    def close(self) -> None:
        """End the zygote and with it every cell; remove the cgroups."""
        with self._lock:
            self._closed = True
            self._stop()
            slots, self._slots = self._slots, []
        for slot in slots:
            slot.close()

    def _limits(self, limits: CellLimits) -> dict[str, Any]:
        given: dict[str, Any] = {"disk_mb": limits.disk_mb, "pids": limits.pids, "proc": limits.proc}
        if self.options.tier < 2:
            given["readable"] = dict.fromkeys(_readable_paths(), 13)
            given["data_mb"] = limits.memory_mb
        elif self.hierarchy is None:
            given["data_mb"] = limits.memory_mb + 512  # a stop-gap between two looks at the tree's memory
        return given

    def _ask(self, request: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        if self._control is None:
            raise EOFError("closed")
        frames.send(self._control, request, b"", descriptors)
        reply, _ = frames.receive(self._control)
        return reply

    def _start(self) -> None:
        filter_program = seccomp.program(self.options.tier)
        ours, theirs = socket.socketpair()
        ours.settimeout(START_TIMEOUT_S)
        interpreter = base_interpreter()
        with theirs:
            self._process = subprocess.Popen(
                [interpreter, "-I", "-S", "-B", str(INSIDE / "zygote.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if os.environ.get("ZEROQ_JAIL_DEBUG") is None else None,
                env=_NO_ENVIRONMENT,
                cwd="/",
            )
        configuration = {
            "tier": self.options.tier,
            "seccomp": base64.b64encode(filter_program).decode("ascii"),
            "uid": _FIRST_UID + os.getpid() % 4096,
            **_layout(interpreter, self.options.binds),
        }
        self._control = ours
        self._generation += 1
        try:
            reply = self._ask(configuration)
        except (OSError, EOFError) as error:
            self._stop()
            raise InfraError(f"the zygote did not start: {error}") from None
        if "error" in reply:
            self._stop()
            raise InfraError(f"the jail cannot be set up: {reply['error']}")
        self.landlock = int(reply["landlock"])
        ours.settimeout(REPLY_TIMEOUT_S)

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT_S)  # it collects its cells
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


class Cell:
    """One cell. `ask` talks to its first process; what it runs is watched by watch.py."""

    def __init__(self, jail: Jail, pid: int, control: socket.socket, limits: CellLimits, generation: int) -> None:
        self._jail, self.pid, self.control, self._generation = jail, pid, control, generation
        self.limits = limits
        self.slot: cgroups.Slot | None = None
        self._ended: Ended | None = None
        try:
            self._handle = os.pidfd_open(pid)  # a process id alone may be anybody's once the zygote has died
        except OSError as error:
            control.close()
            raise InfraError(f"a cell died at its start: {error}") from None
        try:
            self.slot = jail.take_slot()
            if self.slot is not None:
                self.slot.admit(pid, limits.memory_mb, limits.pids)
            control.settimeout(REPLY_TIMEOUT_S)
            reply = self.receive()
            if "error" in reply:
                raise InfraError(f"a cell cannot be shut in: {reply['error']}")
        except (OSError, EOFError) as error:
            self.close()
            raise InfraError(f"a cell died at its start: {error}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def limited_by_cgroup(self) -> bool:
        """Whether the kernel watches the tree's memory; else somebody must look."""
        return self.slot is not None

    @property
    def orphaned(self) -> bool:
        """Whether its zygote is gone, and it with it: then its end says nothing about the program in it."""
        return self._jail.generation != self._generation

    def send(self, header: dict[str, Any], blob: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """One frame to the cell; OSError when it is gone."""
        frames.send(self.control, header, blob, descriptors)

    def receive(self) -> dict[str, Any]:
        """The next frame's header; EOFError or OSError when the cell is gone."""
        header, _ = frames.receive(self.control)
        return header

    def put(self, files: Mapping[str, bytes]) -> str | None:
        """Write files into the working directory; says why if the cell's limits do not let it. InfraError when the
        zygote died."""
        if not files:
            return None
        names = [[name, len(data)] for name, data in files.items()]
        try:
            self.send({"op": "files", "files": names}, b"".join(files.values()))
            reply = self.receive()
        except (OSError, EOFError):
            if self.orphaned:
                raise InfraError("the zygote died") from None
            return "its files do not fit"
        return str(reply["error"]) if "error" in reply else None

    def fetch(self, patterns: list[str]) -> dict[str, bytes] | None:
        """Contents of the working directory's files of these patterns; None if they are too large."""
        self.send({"op": "fetch", "files": patterns})
        header, blob = frames.receive(self.control)
        if "files" not in header:
            return None
        found, position = {}, 0
        for name, size in header["files"]:
            found[name] = blob[position : position + size]
            position += size
        return found

    def stop(self) -> dict[str, Any] | None:
        """End what runs in it, and have the cell say how that went; None if the cell is gone or says nothing in time.

        Killing the cell at once would do too, but the kernel counts nobody's CPU time then.
        """
        try:
            self.control.settimeout(STOP_TIMEOUT_S)
            self.send({"op": "kill"})
            ended = self.receive()
            self.control.settimeout(REPLY_TIMEOUT_S)
        except (OSError, EOFError):
            return None
        return ended

    def kill(self) -> Ended:
        """End every process in it; how it ended and what it used. Idempotent."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            self.control.close()
            # Here, and not in the zygote: there the dying of one cell would hold up all the others.
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            poll.poll(REPLY_TIMEOUT_S * 1000)
            os.close(self._handle)
            self._ended = self._jail.reap(self.pid, self._generation)
        return self._ended

    def close(self) -> Ended:
        """Kill it and give its cgroup back."""
        ended = self.kill()
        if self.slot is not None:
            self._jail.give_slot(self.slot)
            self.slot = None
        return ended

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for its memory since this was last asked."""
        return self.slot is not None and self.slot.out_of_memory()


def base_interpreter() -> str:
    """The interpreter below a virtual environment: programs see the standard library and nothing of ours."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.base_prefix) / "bin" / name, Path(os.path.realpath(sys.executable))):
        if candidate.exists():
            return str(candidate)
    raise InfraError(f"no Python interpreter below {sys.base_prefix}")


def _layout(interpreter: str, more: Mapping[str, str]) -> dict[str, Any]:
    """What the jail's root holds: inside -> outside, and symbolic links."""
    binds, links = {"/usr": "/usr", JAIL_CODE: str(INSIDE)}, {}
    for name in _USR_LINKS:
        path = Path("/") / name
        if path.is_symlink():
            links[str(path)] = os.readlink(path)
        elif path.is_dir():
            binds[str(path)] = str(path)
    for name in (*_ETC, *(path.name for path in Path("/etc").glob("java-*"))):
        if os.path.exists(f"/etc/{name}"):
            binds[f"/etc/{name}"] = os.path.realpath(f"/etc/{name}")
    for prefix in {sys.base_prefix, sys.base_exec_prefix}:
        if not prefix.startswith("/usr"):
            binds[prefix] = prefix
    return {"binds": {**binds, **more}, "links": links}


def _readable_paths() -> list[str]:
    """Tier 1: what programs may read."""
    return [
        sys.base_prefix,
        sys.base_exec_prefix,
        "/usr/lib",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        str(INSIDE),
    ]

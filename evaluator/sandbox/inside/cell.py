"""A cell: where one program is compiled or run, alone. This is its first process (process 1 of its namespace).

It shuts itself in, then obeys the host, which may be asked to stop only by the kernel's killing the namespace:

    {"op": "files", "files": [[name, size], ...]} + blob    write files into the working directory
    {"op": "run", ...} + [stdin, stdout, stderr, ...]       start a program; at its end {"exit", "cpu_s", "dirty"} is
                                                            the answer; dirty: it left or changed files
    {"op": "kill"}                                          end what runs
    {"op": "fetch", "files": [pattern, ...]}                contents of files that a compiler left

The program runs as a child, so that it cannot be mistaken for us: signals from inside do not reach process 1, and our
socket is closed in it. When it ends, everything that it left behind is killed before the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from typing import Any, NoReturn

from . import frames, kernel

WORK = "/tmp/work"
CANNOT_START = 125  # exit code of a child that did not become the program
_MIB = 1024 * 1024
_MAX_FETCH_BYTES = 64 * _MIB
_STACK_MB = 512
# Files may be opened for writing anywhere: what is not mounted read-only are /dev/null and its like, and /tmp.
_ACCESS = {"/": kernel.FS_READ | kernel.FS_WRITE_FILE, "/tmp": kernel.FS_ALL[5] & ~kernel.FS_IOCTL_DEV}


def live(control: socket.socket, zygote: Any, limits: dict[str, Any]) -> NoReturn:
    """Shut this process in and serve the host; never returns."""
    code = 1
    try:
        zygote.control.close()
        try:
            shut_in(zygote, limits)
        except OSError as error:
            frames.send(control, {"error": f"{error.strerror or error}"})
        else:
            frames.send(control, {"ready": True})
            Cell(control, limits, zygote.filter if zygote.tier < 2 else b"").serve()
        code = 0
    except (frames.Closed, OSError):
        pass
    finally:
        os._exit(code)


def shut_in(zygote: Any, limits: dict[str, Any]) -> None:
    """Every layer, in the order in which none takes away what the next one needs. OSError names one that fails."""
    if zygote.tier >= 2:
        zygote.map_ids()
        kernel.set_host_name("sandbox")
        os.close(zygote.proc)
        size = f"size={limits['disk_mb']}m,nr_inodes={64 * limits['disk_mb']},mode=0700"
        kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
        os.mkdir(WORK)
        os.chdir(WORK)
        if limits.get("proc"):  # of this cell's processes alone
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_RDONLY
            kernel.mount("proc", "/proc", "proc", flags, "subset=pid")
        else:
            kernel.mount("/sys", "/proc", "", kernel.MS_BIND)  # an empty folder
        if zygote.tier < 3 or kernel.landlock_version():  # gVisor has none; namespaces and root hold what it holds
            kernel.landlock(_ACCESS)
        kernel.drop_capabilities()
    else:
        kernel.landlock(limits["readable"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits["disk_mb"] * _MIB if zygote.tier >= 2 else 0)
    _limit(resource.RLIMIT_NOFILE, 512)
    _limit(resource.RLIMIT_MEMLOCK, 65536)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if zygote.tier >= 2:
        _limit(resource.RLIMIT_NPROC, limits["pids"] + 1)
    if limits.get("data_mb"):
        _limit(resource.RLIMIT_DATA, limits["data_mb"] * _MIB)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()  # a scheduling group of its own, whose niceness /proc/self/autogroup may change
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.die_with_parent()
    if zygote.tier >= 2:  # in tier 1 the filter forbids to fork: there the program installs it (become)
        kernel.seccomp(zygote.filter)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


class Cell:
    """Serves one host."""

    def __init__(self, control: socket.socket, limits: dict[str, Any], late_filter: bytes) -> None:
        self.control, self.limits, self.late_filter = control, limits, late_filter
        self.running: int | None = None
        self.watch = -1
        self.used = 0.0
        self.given = traces() if os.getpid() == 1 else {}

    def serve(self) -> None:
        """Until the host closes its end."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.watch:
                    poll.unregister(self.watch)
                    self._ended()
                elif descriptor == self.control.fileno():
                    self._obey(*frames.receive_with_descriptors(self.control))
                    if self.running is not None and self.watch >= 0:
                        with contextlib.suppress(KeyError):
                            poll.unregister(self.watch)
                        poll.register(self.watch, select.POLLIN)

    def _obey(self, header: dict[str, Any], blob: bytes, descriptors: list[int]) -> None:
        operation = header["op"]
        if operation == "files":
            try:
                write_files(header["files"], blob)
            except (OSError, ValueError, RecursionError, MemoryError) as error:
                frames.send(self.control, {"error": f"{type(error).__name__}: {error}"[:200]})
                return
            self.given = traces()
            frames.send(self.control, {"written": True})
        elif operation == "run":
            self._start(header, blob, descriptors)
        elif operation == "kill":
            if self.running is not None:
                _kill_all(self.running)
        elif operation == "fetch":
            self._fetch(header["files"])

    def _start(self, header: dict[str, Any], blob: bytes, descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            become(self.control, self.late_filter, header, blob, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.running, self.watch, self.begin = pid, os.pidfd_open(pid), time.monotonic()

    def _ended(self) -> None:
        assert self.running is not None
        os.close(self.watch)
        _, status, _ = os.wait4(self.running, 0)
        wall_s = time.monotonic() - self.begin
        self.running, self.watch = None, -1
        _kill_all(None)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        used, self.used = usage.ru_utime + usage.ru_stime - self.used, usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        reply = {
            "dirty": traces() != self.given,
            "exit": code,
            "cpu_s": used,
            "wall_s": wall_s,
        }
        frames.send(self.control, reply)

    def _fetch(self, patterns: list[str]) -> None:
        import glob

        sizes: list[Any] = []
        pieces, total = [], 0
        try:
            names = sorted(name for pattern in patterns for name in glob.glob(pattern, recursive=True))
        except RecursionError:  # folders in folders in folders
            frames.send(self.control, {"error": "compiled files lie too deep"})
            return
        for name in names:
            try:
                # Not through a link: what a compiler was made to leave may point anywhere.
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            with open(descriptor, "rb") as file:
                piece = file.read(_MAX_FETCH_BYTES - total + 1)
            total += len(piece)
            if total > _MAX_FETCH_BYTES:
                frames.send(self.control, {"error": f"more than {_MAX_FETCH_BYTES} bytes of compiled files"})
                return
            sizes.append([name, len(piece)])
            pieces.append(piece)
        frames.send(self.control, {"files": sizes}, b"".join(pieces))


def traces() -> dict[str, Any]:
    """What lies in the writable folder. A program that changed it must not run again beside what it left."""
    found: dict[str, Any] = {}
    folders = ["/tmp"]
    try:
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    # Files that came and went changed their folder's times; that they did is no trace.
                    times = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
                    is_folder = stat.S_ISDIR(status.st_mode)
                    found[entry.path] = (status.st_ino, status.st_mode, () if is_folder else times)
                    if is_folder:
                        folders.append(entry.path)
    except OSError as error:  # made unreadable, or too deep: like nothing else
        found["/tmp"] = error
    return found


def write_files(names: list[Any], blob: bytes) -> None:
    """Files of the working directory, executable: [[name, size], ...] and their contents end to end."""
    position = 0
    for name, size in names:
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with open(descriptor, "wb") as file:
            file.write(blob[position : position + size])
        position += size


def _kill_all(pid: int | None) -> None:
    """All processes of the cell but this one; in tier 1, which may not fork, `pid` alone."""
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    elif pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def become(
    control: socket.socket, late_filter: bytes, header: dict[str, Any], blob: bytes, descriptors: list[int]
) -> NoReturn:
    """In the child: be the program. Never returns."""
    code: Any = CANNOT_START
    try:
        control.close()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place, inheritable=True)
        os.closerange(len(descriptors), 4096)
        time_s = max(1, int(header["time_s"] + 0.999))
        resource.setrlimit(resource.RLIMIT_CPU, (time_s, time_s + 1))
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        stack = header.get("stack_mb", _STACK_MB) * _MIB
        stack = stack if hard == resource.RLIM_INFINITY else min(stack, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
        if "argv" in header:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would pass that on
                signal.signal(number, signal.SIG_DFL)
            os.execve(header["argv"][0], header["argv"], header["environment"])
        if late_filter:
            kernel.seccomp(late_filter)
        code = sys.modules[f"inside.{header['python']}"].run(header, blob)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code if isinstance(code, int) else CANNOT_START)

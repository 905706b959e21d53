"""Runs one program in a cell and watches it from outside: output drained and capped, clock, memory of its tree.

    start --> drain stdout and stderr (both at once) until the cell says that it ended, or a limit --> Outcome

The wall clock leaves out the time in which the program stood in the machine's run queue: a starved evaluator turns no
right answer into a time-out. The kernel bounds CPU time per process (RLIMIT_CPU).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaluator import metrics
from evaluator.sandbox import InfraError
from evaluator.sandbox.jail import Cell

Limit = Literal["time", "memory", "output"]

LOOK_S = 0.02  # between two looks at the memory of a tree without a cgroup
KILL_GRACE_S = 5.0
MAX_STARVED_FACTOR = 10  # a program that waited for a core this many times its limit is given up all the same
_TAIL_BYTES = 4096
_FEW = 4  # processes: of more, some may be there to keep the others waiting
_READ_BYTES = 1 << 16


@dataclass
class Captured:
    """What came out of one stream: the first `keep` bytes, the last few of what came after, and how many there were."""

    keep: int
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    total: int = 0

    def add(self, data: bytes) -> None:
        """Take what was read."""
        self.total += len(data)
        room = self.keep - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail += data[-_TAIL_BYTES:]
            del self.tail[:-_TAIL_BYTES]

    @property
    def complete(self) -> bool:
        """Nothing was thrown away."""
        return self.total <= self.keep

    def text(self) -> str:
        """The kept part; bytes that are no UTF-8 replaced."""
        return self.head.decode("utf-8", "replace")


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `exit_code`: negative for a signal, None if the cell died too; `dirty`: it left files."""

    exit_code: int | None
    limit: Limit | None
    stdout: Captured
    stderr: Captured
    wall_s: float
    cpu_s: float
    dirty: bool


class Watch:
    """Descriptors of a program under way; `drain` until something else is to be looked at."""

    def __init__(self, cell: Cell, output_kb: int) -> None:
        self.cell = cell
        self.stdout, self.stderr = Captured(output_kb * 1024), Captured(output_kb * 1024)
        self._streams: dict[int, Captured] = {}
        self._poll = select.poll()
        self._pids = _Tree(cell)

    def start(
        self,
        header: dict[str, Any],
        blob: bytes,
        stdin: bytes,
        channels: tuple[int, ...] = (),
        *,
        discard: bool = False,
        once: bool = False,
    ) -> None:
        """Start a program with `stdin`; `channels` are its descriptors from 3 on. `discard` throws its output away.
        `once`: stdin can be read once. InfraError if the cell is gone."""
        given = [_input(stdin, once=once)]
        try:
            for captured in (self.stdout, self.stderr):
                if discard:
                    given.append(os.open("/dev/null", os.O_WRONLY))
                    continue
                read_end, write_end = os.pipe()
                given.append(write_end)
                self._streams[read_end] = captured
                self._poll.register(read_end, select.POLLIN)
            self.cell.send({"op": "run", **header}, blob, (*given, *channels))
        except OSError as error:
            raise InfraError(f"a cell is gone: {error}") from None
        finally:
            for descriptor in given:
                os.close(descriptor)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams.clear()

    def drain(self, other: int, deadline: float, memory_mb: int) -> Literal["other", "deadline", "memory"]:
        """Read output until `other` is readable or closed, `deadline` (monotonic) passes, or the tree is too large."""
        self._poll.register(other, select.POLLIN)
        look = not self.cell.limited_by_cgroup
        next_look = time.monotonic() + LOOK_S
        try:
            while True:
                now = time.monotonic()
                if now >= deadline:
                    return "deadline"
                wait_s = min(deadline, next_look) - now if look else deadline - now
                for descriptor, _ in self._poll.poll(max(0.0, wait_s * 1000)):
                    if descriptor == other:
                        return "other"
                    self._read(descriptor)
                if look and time.monotonic() >= next_look:
                    if self._pids.memory_bytes() > memory_mb << 20:
                        return "memory"
                    next_look = time.monotonic() + LOOK_S
        finally:
            self._poll.unregister(other)

    def await_within(self, other: int, begin: float, time_s: float) -> tuple[Literal["other", "time", "memory"], float]:
        """`drain` for `time_s` from `begin` (monotonic), longer where the program was kept from its core; what ended
        it, and the deadline."""
        allowed_s = time_s
        while True:
            why = self.drain(other, begin + allowed_s, self.cell.limits.memory_mb)
            if why != "deadline":
                return why, begin + allowed_s
            allowed_s = self.extended(time_s)
            if begin + allowed_s <= time.monotonic() + 0.01:
                return "time", begin + allowed_s

    def finish(self) -> None:
        """Read what is left, once nobody can write any more. Not until the end of the streams: their other ends may be
        kept open by sockets that hold each other, for as long as the kernel likes."""
        while ready := self._poll.poll(0) if self._streams else []:
            for descriptor, _ in ready:
                self._read(descriptor)

    def extended(self, time_s: float) -> float:
        """A limit of `time_s` on the wall clock, longer by what the program has stood in the run queue: but not if it
        had its CPU time, for then its own processes may be what kept each other waiting."""
        if self._pids.cpu_s() >= time_s or len(self._pids.pids()) > _FEW:
            return time_s  # of children that nobody waits for, the CPU time is not to be seen
        return time_s + min(self._pids.starved_s(), MAX_STARVED_FACTOR * time_s)

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, _READ_BYTES)
        if data:
            self._streams[descriptor].add(data)
        else:
            self._poll.unregister(descriptor)
            os.close(descriptor)
            del self._streams[descriptor]


def run(
    cell: Cell,
    header: dict[str, Any],
    *,
    blob: bytes = b"",
    stdin: bytes = b"",
    time_s: float,
    output_kb: int,
    once: bool = False,
) -> Outcome:
    """Run a program in `cell` to its end or a limit. Afterwards nothing of it runs any more; the cell can be used again
    unless `exit_code` is None."""
    with Watch(cell, output_kb) as watch:
        begin = time.monotonic()
        watch.start({**header, "time_s": time_s}, blob, stdin, once=once)
        why, _ = watch.await_within(cell.control.fileno(), begin, time_s)
        limit: Limit | None = None if why == "other" else why
        reply = _end(cell, watch, kill=limit is not None)
        watch.finish()
        wall_s = time.monotonic() - begin
    if limit is None and cell.out_of_memory():
        limit = "memory"
    if reply is None and cell.orphaned:
        raise InfraError("the zygote died")
    exit_code = None if reply is None else int(reply["exit"])
    if limit is None and exit_code == -signal.SIGXCPU:
        limit = "time"
    if limit is not None:
        metrics.PROGRAMS_KILLED.labels(limit).inc()
    return Outcome(
        exit_code,
        limit,
        watch.stdout,
        watch.stderr,
        wall_s,
        float(reply["cpu_s"]) if reply else 0.0,
        reply is None or bool(reply["dirty"]),
    )


def tree_cpu_s(cell: Cell) -> float:
    """CPU seconds, so far, of the processes that are in a cell now and of those that they have waited for."""
    return _Tree(cell).cpu_s()


def _end(cell: Cell, watch: Watch, *, kill: bool) -> dict[str, Any] | None:
    """The cell's word on how its program ended; None when it died too."""
    try:
        if kill:
            cell.send({"op": "kill"})
            if watch.drain(cell.control.fileno(), time.monotonic() + KILL_GRACE_S, 1 << 40) != "other":
                raise EOFError
        return cell.receive()
    except (OSError, EOFError):
        cell.kill()
        return None


def _input(data: bytes, *, once: bool = False) -> int:
    """A descriptor that reads `data`: a sealed file in memory, so that nobody has to feed a pipe. `once`: a pipe, since
    a file can be read again from its beginning; at most a page of it."""
    if not data:
        return os.open("/dev/null", os.O_RDONLY)
    if once:
        assert len(data) <= 4096
        read_end, write_end = os.pipe()
        os.write(write_end, data)
        os.close(write_end)
        return read_end
    import fcntl

    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class _Tree:
    """The processes of a cell, seen from outside through /proc."""

    def __init__(self, cell: Cell) -> None:
        self._root = cell.pid

    def pids(self) -> list[int]:
        """The cell's first process and all below it."""
        found = [self._root]
        for pid in found:
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        return found

    def memory_bytes(self) -> int:
        """Anonymous and shared memory of all of them (what several share by fork counts for each)."""
        total = 0
        for pid in self.pids()[1:]:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(("RssAnon:", "RssShmem:")):
                        total += int(line.split()[1]) * 1024
        return total

    def cpu_s(self) -> float:
        """User and system time of all of them."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def starved_s(self) -> float:
        """The longest that any of their main threads waited for a core, in seconds."""
        longest = 0
        for pid in self.pids()[1:]:
            with contextlib.suppress(OSError, IndexError, ValueError):
                longest = max(longest, int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]))
        return longest / 1e9

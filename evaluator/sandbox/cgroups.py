"""Memory and process limits of a whole cell by cgroups, version 1 or 2, where this user may make them.

A slot is a cgroup that is used for one cell after the other: making and removing one per program would cost more than
the program. Names hold the owner's process id, so that the next start can remove what a killed one left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "zeroq-cell"
_MIB = 1024 * 1024
_LEFTOVER_BYTES = 4 * _MIB
_serial = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where cgroups can be made: one folder per controller (version 1), or one for all (version 2)."""

    version: int
    memory: Path
    pids: Path

    @property
    def folders(self) -> list[Path]:
        """The folders that hold slots."""
        return list(dict.fromkeys([self.memory, self.pids]))


@dataclass
class Slot:
    """The cgroup of one cell at a time."""

    memory: Path
    pids: Path
    version: int
    limits: tuple[int, int] = (0, 0)
    _kills: int = field(default=0)

    def admit(self, pid: int, memory_mb: int, pids: int) -> None:
        """Set the limits and put process `pid` in."""
        if self.limits != (memory_mb, pids):
            if self.version == 1:
                _set_v1_memory(self.memory, memory_mb * _MIB)
            else:
                _write(self.memory / "memory.max", str(memory_mb * _MIB))
                with contextlib.suppress(OSError):
                    _write(self.memory / "memory.swap.max", "0")
            _write(self.pids / "pids.max", str(pids + 2))  # the cell's first process, and the runner of the program
            self.limits = (memory_mb, pids)
        for folder in dict.fromkeys([self.memory, self.pids]):
            _write(folder / "cgroup.procs", str(pid))
        self._kills = self._count_kills()

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for its memory since `admit` or the last question."""
        before, self._kills = self._kills, self._count_kills()
        return self._kills > before

    def clean(self) -> bool:
        """Whether next to nothing is charged to it, now that its processes have ended."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        try:
            return int((self.memory / name).read_text()) <= _LEFTOVER_BYTES
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Remove it. The kernel lets go of ended processes a little later than it says so: try for a second."""
        for folder in dict.fromkeys([self.memory, self.pids]):
            deadline = time.monotonic() + 1.0
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.01)

    def _count_kills(self) -> int:
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)", (self.memory / name).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0


def find(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Hierarchy | None:
    """Where this process may make cgroups with memory and pids limits; None: nowhere."""
    paths = {}
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    if "memory" in paths and "pids" in paths:
        found = Hierarchy(1, _existing(root / "memory", paths["memory"]), _existing(root / "pids", paths["pids"]))
    elif "" in paths and (root / "cgroup.controllers").exists():
        folder = _existing(root, paths[""])
        found = Hierarchy(2, folder, folder)
    else:
        return None
    try:
        remove_stale(found)
        make_slot(found).close()
    except OSError:
        return None
    return found


def make_slot(where: Hierarchy) -> Slot:
    """A new slot; OSError if it cannot be made or lacks a controller."""
    name = f"{PREFIX}-{os.getpid()}-{next(_serial)}"
    if where.version == 2:
        enabled = (where.memory / "cgroup.subtree_control").read_text().split()
        if not {"memory", "pids"} <= set(enabled):
            _write(where.memory / "cgroup.subtree_control", "+memory +pids")
    slot = Slot(where.memory / name, where.pids / name, where.version)
    for folder in dict.fromkeys([slot.memory, slot.pids]):
        folder.mkdir()
    try:
        for needed in (slot.memory / ("memory.limit_in_bytes" if where.version == 1 else "memory.max"),):
            needed.read_text()
        (slot.pids / "pids.max").read_text()
    except OSError:
        slot.close()
        raise
    return slot


def remove_stale(where: Hierarchy) -> int:
    """Remove the slots of processes that are gone; how many."""
    removed = 0
    for folder in where.folders:
        for stale in folder.glob(f"{PREFIX}-*-*"):
            owner = stale.name.split("-")[2]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(OSError):
                    stale.rmdir()
                    removed += 1
    return removed


def _set_v1_memory(folder: Path, limit_bytes: int) -> None:
    """The limit without swap may not be above the one with swap: raise the one first, or lower the other first."""
    plain, with_swap = folder / "memory.limit_in_bytes", folder / "memory.memsw.limit_in_bytes"
    names = [with_swap, plain] if with_swap.exists() else [plain]
    try:
        for name in names:
            _write(name, str(limit_bytes))
    except OSError:
        for name in reversed(names):
            _write(name, str(limit_bytes))


def _existing(root: Path, path: str) -> Path:
    """Our own cgroup's folder; in a container the path can be the host's, which is not there: then the root."""
    own = root / path
    return own if own.is_dir() else root


def _write(path: Path, text: str) -> None:
    path.write_text(text)

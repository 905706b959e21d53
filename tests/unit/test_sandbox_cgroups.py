"""Cgroups of both versions, on trees of plain files that stand in for the kernel's."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluator.sandbox import cgroups

FILES = {
    1: {"memory.limit_in_bytes": "max", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"},
    2: {"memory.max": "max", "memory.swap.max": "max", "memory.events": "low 0\noom 0\noom_kill 0\noom_group_kill 0\n"},
}
MIB = 1024 * 1024


class Kernel:
    """A folder that behaves as cgroupfs does: a new group has its files, and goes although it has them."""

    def __init__(self, root: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.version = root, version
        self.order: list[str] = []
        self.memory = root / "memory" if version == 1 else root
        self.pids = root / "pids" if version == 1 else root
        self.own = root.parent / "own"
        self.busy = 0
        real_mkdir, real_rmdir, real_write = Path.mkdir, Path.rmdir, Path.write_text

        def mkdir(path: Path, *args: object, **more: object) -> None:
            real_mkdir(path, *args, **more)  # type: ignore[arg-type]
            if root in path.parents:
                self.fill(path)

        def rmdir(path: Path) -> None:
            if root in path.parents:
                if self.busy:
                    self.busy -= 1
                    raise OSError(16, "Device or resource busy")
                for file in path.iterdir():
                    file.unlink()
            real_rmdir(path)

        def write_text(path: Path, text: str, *args: object) -> int:
            if root in path.parents:
                self.order.append(f"{path.name}={text}")
                self.allow(path, int(text) if text.isdigit() else None)
            return real_write(path, text, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)
        monkeypatch.setattr(Path, "write_text", write_text)
        self.swap = False

    def fill(self, group: Path) -> None:
        """The files of a new group."""
        names = {"cgroup.procs": "", "pids.max": "max", **FILES[self.version]}
        if self.version == 1:
            controller = group.relative_to(self.root).parts[0]
            names = {n: t for n, t in names.items() if n.split(".")[0] in (controller, "cgroup")}
            if self.swap and controller == "memory":
                names["memory.memsw.limit_in_bytes"] = "max"
        for name, text in names.items():
            with open(group / name, "w") as file:
                file.write(text)

    def allow(self, path: Path, value: int | None) -> None:
        """Version 1: the limit without swap may never be above the one with swap."""
        other = path.parent / {
            "memory.limit_in_bytes": "memory.memsw.limit_in_bytes",
            "memory.memsw.limit_in_bytes": "memory.limit_in_bytes",
        }.get(path.name, "-")
        if value is None or not other.exists() or (text := other.read_text()) == "max":
            return
        if (value > int(text)) == (path.name == "memory.limit_in_bytes") and value != int(text):
            raise OSError(22, "Invalid argument")

    def find(self) -> cgroups.Hierarchy | None:
        """Where groups can be made, as the code under test sees it."""
        return cgroups.find(self.root, self.own)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Kernel]:
    def make(version: int) -> Kernel:
        root = tmp_path / "cgroup"
        if version == 1:
            for controller in ("memory", "pids"):
                (root / controller).mkdir(parents=True)
            (tmp_path / "own").write_text("5:pids:/\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n")
        else:
            root.mkdir()
            (root / "cgroup.controllers").write_text("cpu memory pids\n")
            (root / "cgroup.subtree_control").write_text("cpu\n")
            (tmp_path / "own").write_text("0::/\n")
        return Kernel(root, version, monkeypatch)

    return make


def slots(tree: Kernel) -> list[str]:
    return sorted(str(path.relative_to(tree.root)) for path in tree.root.rglob("zeroq-cell-*"))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("version", [1, 2])
def test_a_slot_has_its_limits_before_the_process_is_in(kernel: Callable[[int], Kernel], version: int) -> None:
    tree = kernel(version)
    where = tree.find()
    assert where is not None
    assert (where.version, where.memory, where.pids) == (version, tree.memory, tree.pids)
    assert slots(tree) == []  # the one that was made to see whether one can be made is gone
    slot = cgroups.make_slot(where)
    assert slot.memory.name.startswith(f"zeroq-cell-{os.getpid()}-")
    tree.order.clear()
    slot.admit(4321, memory_mb=100, pids=7)
    memory = "memory.limit_in_bytes" if version == 1 else "memory.max"
    assert (slot.memory / memory).read_text() == str(100 * MIB)
    assert (slot.pids / "pids.max").read_text() == "9"  # and the cell's own two
    assert (slot.memory / "cgroup.procs").read_text() == (slot.pids / "cgroup.procs").read_text() == "4321"
    first_in = tree.order.index("cgroup.procs=4321")
    assert all(step.startswith("cgroup.procs") for step in tree.order[first_in:])
    if version == 2:
        assert (slot.memory / "memory.swap.max").read_text() == "0"
    slot.close()
    assert slots(tree) == []


@pytest.mark.parametrize("version", [1, 2])
def test_the_next_cell_gets_its_own_limits(kernel: Callable[[int], Kernel], version: int) -> None:
    tree = kernel(version)
    tree.swap = True
    where = tree.find()
    assert where is not None
    slot = cgroups.make_slot(where)
    memory = "memory.limit_in_bytes" if version == 1 else "memory.max"
    for number, (memory_mb, pids) in enumerate([(64, 4), (512, 4), (16, 9), (16, 9), (100, 1)]):
        slot.admit(100 + number, memory_mb, pids)
        assert (slot.memory / memory).read_text() == str(memory_mb * MIB)
        assert (slot.pids / "pids.max").read_text() == str(pids + 2)
        if version == 1:
            assert (slot.memory / "memory.memsw.limit_in_bytes").read_text() == str(memory_mb * MIB)
        assert (slot.memory / "cgroup.procs").read_text() == str(100 + number)
    slot.close()


@pytest.mark.parametrize("version", [1, 2])
def test_kills_for_memory_are_counted_once_and_for_their_cell_alone(
    kernel: Callable[[int], Kernel], version: int
) -> None:
    tree = kernel(version)
    where = tree.find()
    assert where is not None
    slot = cgroups.make_slot(where)
    events = slot.memory / ("memory.oom_control" if version == 1 else "memory.events")
    count = itertools.count(1)

    def kill() -> None:
        now = events.read_text().splitlines()
        number = next(count)
        events.write_text("\n".join(f"oom_kill {number}" if line.startswith("oom_kill ") else line for line in now))

    slot.admit(1, 64, 4)
    assert not slot.out_of_memory()
    kill()
    assert slot.out_of_memory()
    assert not slot.out_of_memory()
    kill()
    kill()
    slot.admit(2, 64, 4)  # what happened before is not the next one's fault
    assert not slot.out_of_memory()
    kill()
    assert slot.out_of_memory()
    slot.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_start_removes_the_slots_of_the_dead_and_no_others(kernel: Callable[[int], Kernel], version: int) -> None:
    tree = kernel(version)
    dead = dead_pid()
    ours, others = f"zeroq-cell-{os.getpid()}-0", f"zeroq-cell-{os.getppid()}-3"
    stale = [f"zeroq-cell-{dead}-0", f"zeroq-cell-{dead}-17"]
    foreign = ["zeroq-cell-x-1", "user.slice", f"other-{dead}-0"]
    for folder in {tree.memory, tree.pids}:
        for name in [ours, others, *stale, *foreign]:
            (folder / name).mkdir()
    where = tree.find()
    assert where is not None
    for folder in {tree.memory, tree.pids}:
        left = {path.name for path in folder.iterdir() if path.is_dir() and path not in (tree.memory, tree.pids)}
        assert left == {ours, others, *foreign}
    assert cgroups.remove_stale(where) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_stale_slot_that_is_still_busy_does_not_stop_a_start(kernel: Callable[[int], Kernel], version: int) -> None:
    tree = kernel(version)
    (tree.memory / f"zeroq-cell-{dead_pid()}-0").mkdir()
    tree.busy = 1
    assert tree.find() is not None


def test_a_slot_that_is_busy_for_a_moment_is_removed_all_the_same(kernel: Callable[[int], Kernel]) -> None:
    tree = kernel(2)
    where = tree.find()
    assert where is not None
    slot = cgroups.make_slot(where)
    tree.busy = 3
    slot.close()
    assert slots(tree) == []
    slot.close()  # and again: nothing


def test_version_2_enables_its_controllers_once(kernel: Callable[[int], Kernel]) -> None:
    tree = kernel(2)
    assert tree.find() is not None
    assert tree.order.count("cgroup.subtree_control=+memory +pids") == 1
    with open(tree.root / "cgroup.subtree_control", "w") as file:
        file.write("cpu memory pids\n")
    tree.order.clear()
    assert tree.find() is not None
    assert "cgroup.subtree_control=+memory +pids" not in tree.order


@pytest.mark.parametrize("own", ["0::/\n", "", None, "3:memory:/\n"])
def test_nowhere_is_none(tmp_path: Path, own: str | None) -> None:
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert cgroups.find(tmp_path / "cgroup", tmp_path / "own") is None


def test_a_controller_that_is_missing_is_nowhere(
    kernel: Callable[[int], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = kernel(2)
    monkeypatch.setitem(FILES, 2, {"memory.events": ""})  # no memory.max: the controller is not delegated
    assert tree.find() is None
    assert slots(tree) == []


def test_our_own_group_is_used_where_it_can_be_seen(kernel: Callable[[int], Kernel]) -> None:
    tree = kernel(1)
    (tree.memory / "docker" / "abc").mkdir(parents=True)
    where = tree.find()
    assert where is not None
    assert (where.memory, where.pids) == (tree.memory / "docker" / "abc", tree.pids)

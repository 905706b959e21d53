"""For every layer of the sandbox a test that fails when that layer is removed, with all the others in place.

inside/ is copied and one line of it changed; a jail is started on the copy. Then the capability probe must notice, or,
where another layer still holds, what can be seen of a running cell from outside must differ from what it should be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluator.sandbox import InfraError, capabilities, cgroups, jail, watch
from evaluator.sandbox.jail import CellLimits, Jail, JailOptions
from evaluator.sandbox.watch import Watch

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
    pytest.mark.usefixtures("no_leaked_processes"),
]
LIMITS = CellLimits(memory_mb=96, pids=12, disk_mb=4)
NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
DEADLINE_S = 10.0
# What a program finds out about itself, on standard output.
LOOK = """
import fcntl, json, os, resource
def landlocked():
    with open("/dev/urandom", "rb") as file:
        try:
            fcntl.ioctl(file, 0x80045200, bytes(4))
        except PermissionError:
            return True
    return False
print(json.dumps({
    "host name": os.uname().nodename,
    "landlock": landlocked(),
    "root": sorted(os.listdir("/")),
    "proc": os.listdir("/proc"),
    "user": os.getuid(),
}), flush=True)
import time
time.sleep(60)
"""
Change = tuple[str, str, str]


@contextmanager
def changed(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: Change, **options: Any) -> Iterator[Jail]:
    """A jail on a copy of inside/ with these changes: file, text, its replacement."""
    copy = folder / "inside"
    shutil.copytree(jail.INSIDE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in changes:
        text = (copy / file).read_text()
        assert text.count(old) == 1, f"{file} has changed: {old!r} is in it {text.count(old)} times"
        (copy / file).write_text(text.replace(old, new))
    monkeypatch.setattr(jail, "INSIDE", copy)
    with Jail(JailOptions(**options)) as it:
        yield it


def facts(it: Jail) -> dict[str, Any]:
    """What holds of a program under way, seen from outside and by itself."""
    with it.spawn(LIMITS) as cell, Watch(cell, 64) as look:
        look.start({"python": "program", "time_s": 60}, LOOK.encode(), b"")
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in look.stdout.head:
            assert time.monotonic() < deadline, look.stderr.text()
            look.drain(cell.control.fileno(), time.monotonic() + 0.05, 1 << 20)
        pid = child_of(cell.pid)
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        mounts = {line.split()[4]: line.split()[5].split(",") for line in (proc / "mountinfo").read_text().splitlines()}
        limits = {line[:26].strip(): line[26:].split()[1] for line in (proc / "limits").read_text().splitlines()[1:]}
        found = {
            **json.loads(look.stdout.text()),
            "seccomp": status["Seccomp"],
            "no new privileges": status["NoNewPrivs"],
            "capabilities": {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")},
            "user outside": int(status["Uid"].split()[0]),
            "groups outside": status["Groups"].split(),
            "namespaces": {name for name in NAMESPACES if link(pid, name) != link(os.getpid(), name)},
            "writable mounts": {place for place, flags in mounts.items() if "ro" not in flags},
            "set-uid mounts": {place for place, flags in mounts.items() if "nosuid" not in flags},
            "limits": limits,
            "descriptors": {int(name) for name in os.listdir(proc / "fd")},
            "dumpable": (proc / "environ").stat().st_uid != 0,
            "environment": (proc / "environ").read_bytes() if os.geteuid() == 0 else b"",
        }
        if it.hierarchy is not None:
            found["cgroup"] = f"zeroq-cell-{os.getpid()}-" in (proc / "cgroup").read_text()
        return found


def link(pid: int, name: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


def child_of(pid: int) -> int:
    """The program: the only child of a cell's first process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wrong(found: dict[str, Any]) -> set[str]:
    """Names of the layers that are not in force."""
    limits = found["limits"]
    holds = {
        "seccomp": found["seccomp"] == "2",
        "no new privileges": found["no new privileges"] == "1",
        "landlock": found["landlock"],
        "capabilities": not any(found["capabilities"].values()),
        "user outside": found["user outside"] != 0 and found["user"] == 1000,
        "host name": found["host name"] == "sandbox",
        "root": {"usr", "tmp", "zeroq", "dev"} <= set(found["root"])
        and not {"home", "var", "work"} & set(found["root"]),
        "proc": found["proc"] == [],
        "writable mounts": {p for p in found["writable mounts"] if not p.startswith("/dev/")} <= {"/tmp", "/proc"},
        "set-uid mounts": found["set-uid mounts"] <= {"/proc"},
        "descriptors": found["descriptors"] == {0, 1, 2},
        "dumpable": not found["dumpable"],
        "NPROC": limits["Max processes"] == str(LIMITS.pids + 1),
        "FSIZE": limits["Max file size"] == str(LIMITS.disk_mb << 20),
        "NOFILE": limits["Max open files"] == "512",
        "CORE": limits["Max core file size"] == "0",
        "MEMLOCK": limits["Max locked memory"] == "65536",
        "MSGQUEUE": limits["Max msgqueue size"] == "0",
        "CPU": limits["Max cpu time"] == "61",
        "cgroup": found.get("cgroup", True),
    }
    return {name for name, held in holds.items() if not held} | {
        f"namespace {name}" for name in set(NAMESPACES) - found["namespaces"]
    }


def test_with_nothing_removed_everything_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy itself changes nothing; the probe finds nothing."""
    with changed(tmp_path, monkeypatch) as it:
        assert wrong(facts(it)) == set()
        assert capabilities.probe(it).missing == []


@pytest.mark.parametrize("proc", [False, True])
def test_a_cell_with_a_proc_sees_its_own_processes_alone(proc: bool) -> None:
    program = (
        b"import os\nprint(sorted(n for n in os.listdir('/proc') if n.isdigit()), os.path.exists('/proc/version'))"
    )
    with Jail() as it, it.spawn(CellLimits(96, 12, 4, proc)) as cell:
        outcome = watch.run(cell, {"python": "program"}, blob=program, time_s=10, output_kb=4)
    assert outcome.stdout.text().strip() == ("['1', '2'] False" if proc else "[] False")


def gone(text: str) -> Change:
    """A line of cell.py taken out."""
    return ("cell.py", text, "pass")


# layer -> (change, what `wrong` then says, in part)
SEEN: dict[str, tuple[Change, str]] = {
    "seccomp": (gone("kernel.seccomp(zygote.filter)"), "seccomp"),
    "landlock": (gone("kernel.landlock(_ACCESS)"), "landlock"),
    "capabilities": (gone("kernel.drop_capabilities()"), "capabilities"),
    "host name": (gone('kernel.set_host_name("sandbox")'), "host name"),
    "uts": (("kernel.py", '    "uts": CLONE_NEWUTS,\n', ""), "namespace uts"),
    "net": (("kernel.py", '    "net": CLONE_NEWNET,\n', ""), "namespace net"),
    "ipc": (("kernel.py", '    "ipc": CLONE_NEWIPC,\n', ""), "namespace ipc"),
    "cgroup": (("kernel.py", '    "cgroup": CLONE_NEWCGROUP,\n', ""), "namespace cgroup"),
    "NPROC": (gone('_limit(resource.RLIMIT_NPROC, limits["pids"] + 1)'), "NPROC"),
    "FSIZE": (gone('_limit(resource.RLIMIT_FSIZE, limits["disk_mb"] * _MIB if zygote.tier >= 2 else 0)'), "FSIZE"),
    "NOFILE": (gone("_limit(resource.RLIMIT_NOFILE, 512)"), "NOFILE"),
    "CORE": (gone("_limit(resource.RLIMIT_CORE, 0)"), "CORE"),
    "MEMLOCK": (gone("_limit(resource.RLIMIT_MEMLOCK, 65536)"), "MEMLOCK"),
    "MSGQUEUE": (gone("_limit(resource.RLIMIT_MSGQUEUE, 0)"), "MSGQUEUE"),
    "CPU": (gone("resource.setrlimit(resource.RLIMIT_CPU, (time_s, time_s + 1))"), "CPU"),
    "dumpable": (gone("kernel.prctl(kernel.PR_SET_DUMPABLE, 0)"), "dumpable"),
    "descriptors": (gone("os.closerange(len(descriptors), 4096)"), "descriptors"),
    "proc": (gone('kernel.mount("/sys", "/proc", "", kernel.MS_BIND)'), "proc"),
    "read-only root": (
        ("zygote.py", "kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY", "kernel.MS_REMOUNT | kernel.MS_BIND"),
        "writable mounts",
    ),
    "read-only binds": (
        ("kernel.py", "_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV", "_MOUNT_ATTR_NODEV"),
        "writable mounts",
    ),
    "root": (("kernel.py", "    os.chdir(new_root)\n", "    return\n"), "root"),
}  # fmt: skip


@pytest.mark.parametrize("layer", SEEN)
def test_a_layer_that_is_removed_is_seen_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    change, says = SEEN[layer]
    if layer == "landlock" and not landlock_here():
        pytest.skip("this kernel has no Landlock that knows of devices")
    try:
        with changed(tmp_path, monkeypatch, change) as it:
            found = facts(it)
    except InfraError:
        return  # nothing runs without it: noticed at once
    assert any(name.startswith(says) for name in wrong(found)), f"{layer} can be removed unseen: {wrong(found)}"


def landlock_here() -> bool:
    from evaluator.sandbox.inside import kernel

    return kernel.landlock_version() >= 5


# Layers whose absence the probe itself notices: (changes, options, what it says)
PROBED: dict[str, tuple[list[Change], dict[str, Any], str]] = {
    "seccomp": ([SEEN["seccomp"][0]], {}, "makes namespaces"),
    "seccomp and net": ([SEEN["seccomp"][0], SEEN["net"][0]], {}, "sends UDP"),
    "size of the disk": (
        [SEEN["FSIZE"][0], ("cell.py", "size={limits['disk_mb']}m", "size=64m")],
        {},
        "writes more than its disk limit",
    ),
    "descriptors": ([SEEN["descriptors"][0]], {}, "has the evaluator's descriptor"),
}  # fmt: skip


@pytest.mark.parametrize("layer", PROBED)
def test_the_probe_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    changes, options, says = PROBED[layer]
    with changed(tmp_path, monkeypatch, *changes, **options) as it:
        missing = capabilities.probe(it).missing
        assert any(says in item for item in missing), f"{layer} can be removed unnoticed: {missing}"
        with pytest.raises(InfraError, match="the sandbox does not hold tier 2 here"):
            capabilities.require(it, 2)


def test_without_a_limit_on_processes_and_without_cgroups_nothing_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        changed(tmp_path, monkeypatch, SEEN["NPROC"][0], use_cgroups=False) as it,
        pytest.raises(InfraError, match=r"processes where 12 are allowed|a probe program did not run"),
    ):
        capabilities.require(it, 2)


# A layer that this machine does not offer -> (where it would say so, what must be named)
ABSENT: dict[str, tuple[Change, str]] = {
    "landlock": (
        ("kernel.py", "    version = landlock_version()\n    if version == 0:", "    if True:"),
        "landlock: not available",
    ),
    "namespaces": (
        ("kernel.py", "    ctypes.pythonapi.PyOS_BeforeFork()\n", "    raise OSError(1, 'clone: not permitted')\n"),
        "clone: not permitted",
    ),
    "seccomp": (
        ("kernel.py", '    """Install a filter', '    raise OSError(1, "seccomp filter: not permitted")\n    """'),
        "seccomp filter: not permitted",
    ),
    "a root of its own": (
        ("kernel.py", "    os.chdir(new_root)\n", "    raise OSError(1, 'pivot_root: not permitted')\n"),
        "pivot_root: not permitted",
    ),
}


@pytest.mark.parametrize("layer", ABSENT)
def test_a_layer_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    change, says = ABSENT[layer]
    with pytest.raises(InfraError, match=says), changed(tmp_path, monkeypatch, change) as it:
        capabilities.require(it, 2)


@pytest.mark.parametrize("guarded", [True, False])
def test_binds_are_read_only_without_mount_setattr_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """gVisor has none: each is mounted once more, and its flags are set the old way."""
    with Jail() as it:
        usual = facts(it)
    changes = [("kernel.py", "_LANDLOCK_RESTRICT = 442,", "_LANDLOCK_RESTRICT = 9999,")]
    if not guarded:
        changes.append(("kernel.py", "else MS_RDONLY | MS_NOSUID | MS_NODEV\n        mount(", "else 0\n        mount("))
    with changed(tmp_path, monkeypatch, *changes) as it:
        found = facts(it)
    assert found["root"] == usual["root"]
    for flag in ("writable mounts", "set-uid mounts"):
        assert (found[flag] == usual[flag]) is guarded, found[flag] ^ usual[flag]


@pytest.mark.parametrize("name", ["user", "mount"])
def test_without_this_namespace_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    flag = {"user": "USER", "mount": "NS"}[name]
    change = ("kernel.py", f'    "{name}": CLONE_NEW{flag},\n', "")
    with changed(tmp_path, monkeypatch, change) as it, pytest.raises(InfraError):
        capabilities.probe(it)


def test_without_a_pid_namespace_the_probe_sees_the_machine_s_process_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = ("kernel.py", '    "pid": CLONE_NEWPID,\n', "")
    with changed(tmp_path, monkeypatch, change) as it:
        try:
            missing, _ = capabilities._escapes(it)
        except InfraError:  # its own parent was within reach
            return
        assert "sees the machine's process ids" in missing


def test_without_a_filter_that_refuses_the_probe_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter is installed, and allows everything."""
    allow_all = (6).to_bytes(2, "little") + b"\0\0" + (0x7FFF0000).to_bytes(4, "little")
    monkeypatch.setattr(jail.seccomp, "program", lambda tier: allow_all)
    with Jail() as it:
        assert facts(it)["seccomp"] == "2"
        assert "makes namespaces" in capabilities.probe(it).missing


def test_without_the_cgroup_s_limit_the_probe_notices_what_is_eaten(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(slot: cgroups.Slot, pid: int, memory_mb: int, pids: int) -> None:
        slot._kills = slot._count_kills()

    with Jail() as it:
        if it.hierarchy is None:
            pytest.skip("no cgroups here")
        assert capabilities._memory(it) == []
        monkeypatch.setattr(cgroups.Slot, "admit", admit)
        assert capabilities._memory(it) == ["uses more than 96 MiB"]


def test_without_the_look_at_the_tree_the_probe_notices_what_is_eaten(monkeypatch: pytest.MonkeyPatch) -> None:
    with Jail(JailOptions(use_cgroups=False)) as it:
        assert capabilities._memory(it) == []
        monkeypatch.setattr(watch._Tree, "memory_bytes", lambda tree: 0)
        assert capabilities._memory(it) == ["uses more than 96 MiB"]


@pytest.mark.parametrize("guarded", [True, False])
def test_cells_die_with_their_zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    changes = [] if guarded else [gone("kernel.die_with_parent()")]
    with changed(tmp_path, monkeypatch, *changes) as it:
        cell = it.spawn(LIMITS)
        watcher = os.pidfd_open(cell.pid)
        try:
            assert it.pid is not None
            os.kill(it.pid, signal.SIGKILL)
            died = ends(watcher, DEADLINE_S if guarded else 0.5)
            assert died is guarded
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watcher, signal.SIGKILL)
            os.close(watcher)
            cell.close()


def ends(pidfd: int, timeout_s: float) -> bool:
    """Whether the process ends in time."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@pytest.mark.parametrize("tried", ["tier 2", "tier 3"])
def test_require_names_every_missing_layer(monkeypatch: pytest.MonkeyPatch, tried: str) -> None:
    found = capabilities.Capabilities(2, {}, ["connects over TCP", "mounts"] if tried == "tier 2" else [])
    monkeypatch.setattr(capabilities, "probe", lambda it: found)
    monkeypatch.setattr(capabilities, "outer_sandbox", lambda: None)
    said = "connects over TCP; mounts" if tried == "tier 2" else "tier 3 wants a gVisor or microVM pod"
    with Jail() as it, pytest.raises(InfraError, match=said):
        capabilities.require(it, int(tried[-1]))

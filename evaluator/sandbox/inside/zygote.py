"""The zygote: a small Python that has set up the jail once and forks isolated cells, a few milliseconds each.

    host --{"op": "cell", ...} + control socket--> zygote --clone into fresh namespaces--> cell (cell.py) on that socket
    host --{"op": "reap", "pid"}-----------------> zygote --wait4--> exit status, CPU seconds of the cell's whole tree

It never sees a program, a test or an answer: those go to the cell's own socket. So nothing of one task is in the
memory that the next one's cell is forked from. It ends when the host's end of its socket closes, however the host died;
the cells die with it.

Started as root it gives up root for an unprivileged user id once its root directory stands; started by another user it
does the same inside a user namespace. Started in tier 1 it has no namespaces to offer: its cells are plain processes
under Landlock, seccomp and rlimits.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import os
import resource
import signal
import site
import socket
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from inside import cell, frames, kernel

ROOT = "/tmp"  # any folder that exists: the jail's root is mounted over it, in a mount namespace of our own
# What most programs import. More would make every cell dearer: a fork copies the page tables of all that is loaded.
PRELOAD = """
    inside.judge inside.program inside.serve
    bisect collections copy enum functools heapq itertools math operator re string typing
""".split()  # noqa: SIM905
_TINY_DEVICES = ("null", "zero", "full", "random", "urandom")
_ETC = {
    "passwd": "sandbox:x:1000:1000::/tmp/work:/bin/sh\n",
    "group": "sandbox:x:1000:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": "",
    "resolv.conf": "",
}


def main() -> None:
    """`sys.argv[1]`: the control socket's descriptor; the first frame on it is the configuration."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    configuration, _ = frames.receive(control)
    try:
        zygote = Zygote(control, configuration)
    except (OSError, ImportError) as error:
        frames.send(control, {"error": f"{type(error).__name__}: {error}"})
        return
    frames.send(control, {"ready": True, "landlock": kernel.landlock_version()})
    try:
        with contextlib.suppress(frames.Closed, ConnectionError):
            while True:
                zygote.obey(*frames.receive_with_descriptors(control))
    finally:
        if os.getpid() == zygote.pid:
            zygote.end()


class Zygote:
    """The state: who the cells run as, and what is given to each."""

    def __init__(self, control: socket.socket, configuration: dict[str, Any]) -> None:
        self.control, self.pid = control, os.getpid()
        self.cells: set[int] = set()
        self.tier = int(configuration["tier"])
        self.filter = base64.b64decode(configuration["seccomp"])
        self.proc: int | None = None
        for name in PRELOAD:
            __import__(name)
        site.setquit()  # exit() and quit(), which -S leaves out
        if self.tier >= 2:
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            self.ids = build_root(configuration, self.proc)
        kernel.no_new_privileges()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # a change of user turned it off, and our id maps lie in /proc/self
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit), limit))
        gc.collect()
        gc.freeze()

    def obey(self, request: dict[str, Any], _: bytes, descriptors: list[int]) -> None:
        """One request, one reply."""
        if request["op"] == "reap":
            self._reap(int(request["pid"]))
            return
        with socket.socket(fileno=descriptors[0]) as theirs:
            try:
                pid = self._clone() if self.tier >= 2 else os.fork()
            except OSError as error:
                what = f"namespaces ({', '.join(kernel.NAMESPACES)})" if self.tier >= 2 else "a process"
                frames.send(self.control, {"error": f"{what}: {error.strerror}"})
                return
            if pid == 0:
                cell.live(theirs, self, request["limits"])
        self.cells.add(pid)
        frames.send(self.control, {"pid": pid})

    def _clone(self) -> int:
        """fork() into fresh namespaces. gVisor, which tier 3 has around it, has no cgroup namespaces."""
        try:
            return int(kernel.clone(sum(kernel.NAMESPACES.values())))
        except OSError as error:
            if self.tier < 3 or error.errno != errno.EINVAL:
                raise
        return int(kernel.clone(sum(kernel.NAMESPACES.values()) & ~kernel.CLONE_NEWCGROUP))

    def end(self) -> None:
        """End and collect all cells, so that nobody has to adopt them."""
        for pid in self.cells:
            os.kill(pid, signal.SIGKILL)
        for pid in self.cells:
            os.waitpid(pid, 0)

    def _reap(self, pid: int) -> None:
        _, status, usage = os.wait4(pid, 0)
        self.cells.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        frames.send(self.control, {"exit": code, "cpu_s": usage.ru_utime + usage.ru_stime})

    def map_ids(self) -> None:
        """In a fresh user namespace: be user 1000 there, whoever we are outside."""
        assert self.proc is not None
        user, group = self.ids
        write_map(self.proc, 1000, user, group)


def write_map(proc: int, inside: int, user: int, group: int) -> None:
    """Map ids of this process's new user namespace; `proc` is a directory descriptor of /proc."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {user} 1"), ("gid_map", f"{inside} {group} 1")):
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from None
        finally:
            os.close(descriptor)


def build_root(configuration: dict[str, Any], proc: int) -> tuple[int, int]:
    """Enter namespaces of our own and a minimal read-only root; returns the user and group that cells are outside."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        write_map(proc, user, user, group)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Held open, since the root is mounted over a folder that any of them may lie in.
    sources = {target: os.open(source, os.O_PATH) for target, source in configuration["binds"].items()}
    kernel.mount("tmpfs", ROOT, "tmpfs", kernel.MS_NOSUID, "size=1m,nr_inodes=4096,mode=0755")
    for folder in ("dev", "tmp", "etc", "proc", "sys", "root"):
        os.mkdir(f"{ROOT}/{folder}")
    for target, link in configuration["links"].items():
        os.symlink(link, ROOT + target)
    for target, descriptor in sources.items():
        place, source = ROOT + target, f"/proc/self/fd/{descriptor}"
        if os.path.isdir(source):
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            open(place, "w").close()
        kernel.bind_read_only(source, place)
        os.close(descriptor)
    for name, text in _ETC.items():
        if not os.path.lexists(f"{ROOT}/etc/{name}"):
            with open(f"{ROOT}/etc/{name}", "w", encoding="ascii") as file:
                file.write(text)
    for name in _TINY_DEVICES:
        open(f"{ROOT}/dev/{name}", "w").close()
        kernel.bind_read_only(f"/dev/{name}", f"{ROOT}/dev/{name}", devices=True)
    os.symlink("/tmp", f"{ROOT}/dev/shm")
    # The machine's /proc, which every cell covers: the kernel lets a cell mount its own only where one can be seen.
    if user == 0:
        kernel.mount("proc", f"{ROOT}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    else:
        kernel.mount("/proc", f"{ROOT}/proc", "", kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("none", ROOT, "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)
    kernel.pivot_root(ROOT)
    if user == 0:
        user = group = int(configuration["uid"])
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    return user, group


if __name__ == "__main__":
    main()

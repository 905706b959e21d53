"""What programs must not reach, planted for them to find, and the marks by which a leak is recognised.

secrets    a file, a file in /dev/shm, an environment variable, an inherited descriptor
listeners  TCP, UDP, an abstract socket, a socket file; each counts who came
a victim   a sleeping process of the same user
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

_PR_SET_CHILD_SUBREAPER = 36
_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/", os.path.expanduser("~"))


class Plants:
    """Context manager. `values`: what the programs' `@NAMES@` stand for; `touched()`: what was reached."""

    def __init__(self) -> None:
        self.secret = f"secret-{secrets.token_hex(16)}"
        self.mark = f"zqmark{secrets.token_hex(6)}"
        self._listeners: dict[str, socket.socket] = {}
        self._contacts: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Plants:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="planted-")))
        folder.chmod(0o755)
        file = folder / "secret.txt"
        file.write_text(self.secret + "\n")
        shared = Path("/dev/shm") / f"{self.mark}-planted"
        shared.write_text(self.secret)
        self._stack.callback(shared.unlink)
        self.descriptor = os.open(file, os.O_RDONLY)
        os.set_inheritable(self.descriptor, True)
        self._stack.callback(os.close, self.descriptor)
        os.environ["ZEROQ_PLANTED"] = self.secret
        self._stack.callback(os.environ.pop, "ZEROQ_PLANTED")
        self._listen(folder)
        # It ends with us, however we do.
        self.victim = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        self._stack.callback(self._end_victim)
        self.values = {
            "SECRET_FILE": str(file),
            "SECRET_DIR": str(folder),
            "MARK": self.mark,
            "PORT": str(self._listeners["tcp"].getsockname()[1]),
            "UDP": str(self._listeners["udp"].getsockname()[1]),
            "ABSTRACT": self.mark,
            "SOCKET_FILE": str(folder / "socket"),
            "VICTIM": str(self.victim.pid),
            "HOSTNAME": socket.gethostname(),
            "REPO": str(Path(__file__).resolve().parents[3]),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def touched(self) -> list[str]:
        """Listeners that were contacted, and the victim if it is gone."""
        return self._contacts + ([] if self.victim.poll() is None else ["the victim was killed"])

    def forget(self) -> None:
        """Start counting again (after programs that were let out on purpose)."""
        self._contacts.clear()

    def _listen(self, folder: Path) -> None:
        selector = selectors.DefaultSelector()
        kinds: dict[str, tuple[int, int, tuple[str, int] | str]] = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.mark}"),
            "socket file": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        }
        for name, (family, kind, address) in kinds.items():
            listener = self._stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ, name)
            self._listeners[name] = listener
        (folder / "socket").chmod(0o777)
        wake, self._stop = socket.socketpair()
        selector.register(wake, selectors.EVENT_READ, "stop")
        thread = threading.Thread(target=self._count, args=(selector,), daemon=True)
        thread.start()

        def stop() -> None:
            self._stop.close()
            thread.join(10)
            wake.close()
            selector.close()

        self._stack.callback(stop)

    def _count(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in selector.select():
                if key.data == "stop":
                    return
                listener = self._listeners[key.data]
                with contextlib.suppress(OSError):
                    if listener.type == socket.SOCK_STREAM:
                        listener.accept()[0].close()
                    else:
                        listener.recv(4096)
                    self._contacts.append(f"the {key.data} listener was contacted")

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.communicate()


def adopt_orphans() -> None:
    """Processes whose parents have died become ours from now on, instead of process 1's: none can slip away."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Traces:
    """What this process has and the machine shows of it, to be compared with later."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._before = self._look()

    def left(self) -> list[str]:
        """What is there that was not there before."""
        now = self._look()
        return [f"{kind}: {item}" for kind, items in now.items() for item in sorted(items - self._before[kind])]

    def _look(self) -> dict[str, set[str]]:
        me = os.getpid()
        return {
            "process": {f"{pid} {_command(pid)}" for pid in _children(me)},
            "mount": {line.split(" - ")[0].split(" ", 2)[2] for line in _lines("/proc/self/mountinfo")},
            "cgroup": {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/zeroq*-{me}-*") if path.is_dir()},
            "temporary file": set(os.listdir(tempfile.gettempdir())),
            "file": {f"{place}/{name}" for place in _PLACES for name in _names(place) if self._mark in name},
            "socket": {line.split()[-1] for line in _lines("/proc/net/unix") if self._mark in line},
            "descriptor": {f"{number} {_target(number)}" for number in os.listdir("/proc/self/fd")} - {""},
            "thread": {thread.name for thread in threading.enumerate()},
        }


def _children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            status = {line.split(":")[0]: line.split()[1:] for line in _lines(f"/proc/{name}/status")}
            if status.get("PPid") == [str(parent)]:
                found.append(int(name))
                found += _children(int(name))
    return found


def _command(pid: int) -> str:
    return " ".join(_lines(f"/proc/{pid}/cmdline")).replace("\0", " ")[:120]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _names(place: str) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    except OSError:
        return "closed"

"""What the sandbox holds here, found by doing: probe programs that try to get out, at start and
after a zygote's restart.

A probe prints what it managed to do. Anything it managed is a missing layer; below the floor nothing is graded.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluator.sandbox import InfraError, folders
from evaluator.sandbox.jail import CellLimits, Jail
from evaluator.sandbox.watch import Outcome, run

TIME_S = 10.0
_PREFIX = "zeroq-probe"
_READ_ALL = 3  # of syslog(2)
_GVISORS_LOG = re.compile(r"<\d>\[ *0\.000000\] Starting gVisor\.\.\.")
_LIMITS = CellLimits(memory_mb=96, pids=12, disk_mb=4)

_ESCAPES = """
import ctypes, json, os, signal, socket, sys
aims = json.loads(sys.stdin.read())
done = []
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action):
    try:
        if action() is not False:
            done.append(name)
    except BaseException:
        pass

def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(1)
        s.connect(address)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def fill():
    with open("fill", "wb") as file:
        for _ in range(2 * aims["disk_mb"]):
            file.write(bytes(1 << 20))

attempt("reads files of the machine", lambda: open(aims["secret"]).read())
attempt("reads another process's memory", lambda: open("/proc/%d/mem" % os.getppid(), "rb").read(1))
attempt("reads the environment of process 1", lambda: open("/proc/1/environ", "rb").read() or False)
for number in range(3, 512):
    attempt("has the evaluator's descriptor %d" % number, lambda: os.fstat(number))
attempt("connects over TCP", lambda: connect(socket.AF_INET, ("127.0.0.1", aims["port"])))
attempt("connects to an abstract socket", lambda: connect(socket.AF_UNIX, "\\0" + aims["abstract"]))
attempt("sends UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", aims["port"])))
for path in ("/usr/x", "/etc/x", "/zeroq/x", "/x", aims["folder"] + "/x"):
    attempt("writes outside its folder: " + path, lambda: write(path))
attempt("writes more than its disk limit", fill)
attempt("makes namespaces", lambda: libc.unshare(0x10000000) == 0)
attempt("mounts", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
attempt("traces processes", lambda: libc.ptrace(16, os.getppid(), 0, 0) == 0)
attempt("is root", lambda: os.geteuid() == 0 or libc.setuid(0) == 0)
attempt("signals processes outside", lambda: os.kill(aims["victim"], 0) or True)
attempt("kills its parent", lambda: os.kill(os.getppid(), signal.SIGKILL) or os.getppid() != 1)
print(json.dumps({"done": done, "pid": os.getpid()}))
"""

_FORKS = """
import os, time
count = 0
try:
    while count < 100:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count)
"""

_MEMORY = """
import os
pid = None
try:
    pid = os.fork()
except OSError:
    pass
data = b"".join(bytes(range(256)) * 256 for _ in range({blocks}))
if pid == 0:
    os.kill(os.getpid(), 19)
if pid:
    import time
    time.sleep(5)
print(len(data))
"""


@dataclass(frozen=True)
class Capabilities:
    """`layers`: what holds and how; `missing`: what a probe managed to do."""

    tier: int
    layers: dict[str, str]
    missing: list[str]

    def summary(self) -> str:
        """One line."""
        return f"tier {self.tier}; " + "; ".join(f"{name}: {how}" for name, how in self.layers.items())


def require(jail: Jail, tier: int) -> Capabilities:
    """Probe; InfraError with the missing layers if there are any."""
    found = probe(jail)
    if tier >= 3 and outer_sandbox() is None:
        found.missing.append("runs on the machine's own kernel: tier 3 wants a gVisor or microVM pod around it")
    if found.missing:
        raise InfraError(
            f"the sandbox does not hold tier {tier} here: a probe program {'; '.join(found.missing)}. "
            "Nothing is graded below the floor (evaluator.sandbox_tier)"
        )
    return found


def outer_sandbox() -> str | None:
    """What stands between this pod and the machine's kernel: gVisor is seen, a microVM is declared by its deployment
    (ZEROQ_OUTER_SANDBOX=microvm), since from inside it looks like any virtual machine."""
    with contextlib.suppress(OSError):
        if "gvisor" in Path("/proc/version").read_text().lower():
            return "gvisor"
    if _GVISORS_LOG.match(_kernel_log()):  # releases before 2026 call themselves Linux 4.4.0
        return "gvisor"
    return "microvm" if os.environ.get("ZEROQ_OUTER_SANDBOX") == "microvm" else None


def _kernel_log() -> str:
    """What the kernel has said so far; nothing where this user may not know."""
    buffer = ctypes.create_string_buffer(1 << 16)
    length = ctypes.CDLL(None).klogctl(_READ_ALL, buffer, len(buffer))
    return buffer.raw[: max(0, length)].decode(errors="replace")


def probe(jail: Jail) -> Capabilities:
    """Run the probes."""
    tier = jail.options.tier
    missing, host_uid = _escapes(jail)
    if tier >= 2:
        missing += _forks(jail)
        if host_uid == 0:
            missing.append("is the machine's root outside")
    missing += _memory(jail)
    return Capabilities(tier, _layers(jail, host_uid), missing)


def _layers(jail: Jail, host_uid: int) -> dict[str, str]:
    tree = "one process, address space limited" if jail.options.tier < 2 else "summed and polled every 20 ms"
    if jail.hierarchy is not None:
        tree = f"cgroup v{jail.hierarchy.version}"
    shared = {
        "seccomp": "allow-list, installed per cell",
        "landlock": f"version {jail.landlock}" if jail.landlock else "none here",
        "rlimits": "cpu, file size, descriptors, core, locked memory",
        "memory of the tree": tree,
        "user outside": str(host_uid),
    }
    if jail.options.tier < 2:
        return {**shared, "processes": "fork and exec refused"}
    cgroup = "cgroup" if jail.options.tier < 3 else "cgroup where there are any"
    return {
        "namespaces": f"user, pid, mount, net, ipc, uts, {cgroup}: fresh for each program",
        "root": "read-only, by pivot_root; /tmp is a tmpfs of the program's own",
        "capabilities": "none",
        "processes": f"cgroup v{jail.hierarchy.version} and RLIMIT_NPROC" if jail.hierarchy else "RLIMIT_NPROC",
        **shared,
    }


def _escapes(jail: Jail) -> tuple[list[str], int]:
    with _targets() as aims, jail.spawn(_LIMITS) as cell:
        host_uid = os.stat(f"/proc/{cell.pid}").st_uid
        aims["disk_mb"] = _LIMITS.disk_mb
        header = {"python": "program"}
        outcome = run(
            cell, header, blob=_ESCAPES.encode(), stdin=json.dumps(aims).encode(), time_s=TIME_S, output_kb=64
        )
    try:
        said = json.loads(outcome.stdout.text())
        missing = [str(item) for item in said["done"]]
    except (ValueError, KeyError, TypeError):
        raise InfraError(f"a probe program did not run: {_why(outcome)}") from None
    if jail.options.tier >= 2 and int(said["pid"]) > 64:
        missing.append("sees the machine's process ids")
    return missing, host_uid


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    folder = folders.make(_PREFIX)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, object]]:
    """Things that a program must not reach: a file, a listener, an abstract socket, a process."""
    name = f"zeroq-probe-{secrets.token_hex(8)}"
    with (
        _folder() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        secret = Path(folder) / "secret"
        secret.write_text(name)
        os.chmod(folder, 0o777)
        os.chmod(secret, 0o666)
        local.bind("\0" + name)
        local.listen()
        yield {
            "secret": str(secret),
            "folder": folder,
            "port": tcp.getsockname()[1],
            "abstract": name,
            "victim": os.getpid(),
        }


def _forks(jail: Jail) -> list[str]:
    with jail.spawn(_LIMITS) as cell:
        outcome = run(cell, {"python": "program"}, blob=_FORKS.encode(), time_s=TIME_S, output_kb=1)
    text = outcome.stdout.text().strip()
    if not text.isdigit():
        raise InfraError(f"a probe program did not run: {_why(outcome)}")
    return [f"starts {text} processes where {_LIMITS.pids} are allowed"] if int(text) > _LIMITS.pids else []


def _memory(jail: Jail) -> list[str]:
    """Two processes of two thirds of the limit each (one of twice the limit in tier 1) must not live."""
    share = 2.0 if jail.options.tier < 2 else 0.67
    program = _MEMORY.format(blocks=int(_LIMITS.memory_mb * share * 16))
    with jail.spawn(_LIMITS) as cell:
        outcome = run(cell, {"python": "program"}, blob=program.encode(), time_s=TIME_S, output_kb=1)
    if outcome.limit == "memory" or outcome.exit_code != 0:
        return []
    return [f"uses more than {_LIMITS.memory_mb} MiB"]


def _why(outcome: Outcome) -> str:
    return outcome.stderr.text().strip()[-200:] or f"exit code {outcome.exit_code}, limit {outcome.limit}"

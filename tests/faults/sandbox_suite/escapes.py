"""Programs that reach out. Each prints `contained` if every attempt failed, else ESCAPED and what succeeded.

An attempt that is refused raises OSError or returns -1 from the system call; any other exception is a fault of the
attempt itself, ends the program and fails the test.
"""

from __future__ import annotations

from typing import Any

from tests.faults.sandbox_suite import Job, Program, asserts, call, check, stdio

LIMITS: dict[str, Any] = {"time_s": 5.0, "memory_mb": 256, "pids": 16, "disk_mb": 8, "output_kb": 64}

CONTAINED_ONLY = frozenset({"pass"})
CONTAINED_OR_KILLED = frozenset({"pass", "error"})
NOT_REWARDED = frozenset({"fail", "error", "timeout"})

HEAD = """
import ctypes, os, signal, socket, struct, sys, time
escaped = []
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"


def attempt(function):
    try:
        got = function()
    except OSError:
        return
    if got:
        escaped.append(f"{function.__name__}: {got!r:.80}")


def system_call(number, *arguments):
    return X86 and libc.syscall(number, *arguments) >= 0


def readable(path, limit=4096):
    with open(path, "rb") as file:
        return file.read(limit)

"""
TAIL = """

print("ESCAPED " + "; ".join(escaped) if escaped else "contained", flush=True)
os._exit(0)
"""


def _escape(
    name: str, body: str, expect: frozenset[str] = CONTAINED_ONLY, *, bare: bool = False, limits: Any = LIMITS
) -> Program:
    job = stdio(HEAD + body + TAIL, limits=limits)
    return Program(name, "escapes", job, expect, escapes_bare=bare, wall_s=15.0)


def _other(name: str, job: Job, expect: frozenset[str]) -> Program:
    return Program(name, "escapes", job, expect, wall_s=15.0)


PROGRAMS = [
    # Files
    _escape("reads_a_planted_file", "attempt(lambda: readable('@SECRET_FILE@'))\n", bare=True),
    _escape("lists_a_planted_folder", "attempt(lambda: os.listdir('@SECRET_DIR@'))\n", bare=True),
    _escape("stats_a_planted_file", "attempt(lambda: os.stat('@SECRET_FILE@'))\n", bare=True),
    _escape("reads_a_planted_file_in_dev_shm", "attempt(lambda: readable('/dev/shm/@MARK@-planted'))\n", bare=True),
    _escape(
        "climbs_to_a_planted_file",
        "attempt(lambda: readable('../' * 40 + '@SECRET_FILE@'[1:]))\n"
        "attempt(lambda: readable('/proc/self/cwd/' + '../' * 40 + '@SECRET_FILE@'[1:]))\n",
        bare=True,
    ),
    _escape(
        "finds_a_planted_file_through_proc",
        """
@attempt
def roots():
    found = []
    for pid in os.listdir("/proc"):
        for way in ("root", "cwd"):
            try:
                found.append(readable(f"/proc/{pid}/{way}/" + "../" * 40 + "@SECRET_FILE@"[1:]))
            except OSError:
                pass
    return found
""",
        bare=True,
    ),
    _escape(
        "links_to_a_planted_file",
        """
@attempt
def symbolic():
    os.symlink("@SECRET_FILE@", "linked")
    return readable("linked")

@attempt
def hard():
    os.link("@SECRET_FILE@", "linked-hard")
    return readable("linked-hard")

@attempt
def folder():
    os.symlink("@SECRET_DIR@", "linked-folder")
    return os.listdir("linked-folder")
""",
        bare=True,
    ),
    _escape("reads_shadow", "attempt(lambda: readable('/etc/shadow'))\n"),
    _escape(
        "reads_the_users_files",
        """
for path in ("/root/.bashrc", "/root/.ssh", "/home", os.path.expanduser("~/.ssh"), "/var/log", "/var/lib/dpkg/status"):
    attempt(lambda: os.listdir(path) if os.path.isdir(path) else readable(path))
""",
    ),
    _escape("reads_the_evaluator", "attempt(lambda: readable('@REPO@/evaluator/compose.py'))\n", bare=True),
    _escape(
        "writes_to_the_root",
        """
for place in ("/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/proc", "/sys", "/opt",
              sys.prefix, os.path.dirname(os.__file__)):
    @attempt
    def creates():
        with open(os.path.join(place, "@MARK@"), "w") as file:
            return file.write("x")
""",
    ),
    _escape(
        "replaces_system_files",
        """
for path in ("/etc/passwd", "/etc/hosts", os.__file__, sys.executable):
    @attempt
    def overwrites():
        with open(path, "r+b") as file:
            return file.fileno()
    @attempt
    def removes():
        os.rename(path, path + ".@MARK@")
        return "renamed"
""",
    ),
    _escape(
        "writes_to_kernel_files",
        """
for path in (
    "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj",
    "/proc/sys/vm/overcommit_memory",
    "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/uid_map",
):
    @attempt
    def writes():
        with open(path, "wb", buffering=0) as file:
            return path != "/proc/self/oom_score_adj" and file.fileno()
""",
    ),
    _escape(
        "opens_devices",
        """
for path in ("/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/nvme0n1",
             "/dev/fuse", "/dev/kvm", "/dev/loop0", "/dev/net/tun"):
    attempt(lambda: readable(path, 1) or path)
""",
    ),
    _escape(
        "makes_device_nodes",
        """
import stat

@attempt
def memory():
    os.mknod("mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
    return readable("mem", 1)

@attempt
def disk():
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    return readable("/tmp/disk", 1)
""",
    ),
    _escape(
        "makes_a_setuid_program",
        """
@attempt
def setuid():
    with open("shell", "wb") as file:
        file.write(b"#!/bin/sh\\nid\\n")
    os.chmod("shell", 0o4755)
    os.chown("shell", 0, 0)
    return os.stat("shell").st_uid == 0
""",
    ),
    # What comes with the process
    _escape(
        "reads_the_environment",
        "attempt(lambda: [k for k in os.environ if 'ZEROQ' in k])\n"
        "attempt(lambda: b'ZEROQ' in readable('/proc/self/environ', 1 << 20))\n",
        bare=True,
    ),
    _escape(
        "reads_the_environment_of_others",
        """
@attempt
def environments():
    found = []
    for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
        try:
            if b"ZEROQ_PLANTED" in readable(f"/proc/{pid}/environ", 1 << 20):
                found.append(pid)
        except OSError:
            pass
    return found
attempt(lambda: b"ZEROQ" in readable("/proc/1/environ", 1 << 20))
""",
        bare=True,
    ),
    _escape(
        "sees_other_processes",
        """
@attempt
def foreign():
    return [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 100]
attempt(lambda: os.path.exists("/proc/@VICTIM@") and readable("/proc/@VICTIM@/cmdline"))
attempt(lambda: os.getppid() > 100)
""",
    ),
    _escape(
        "reads_inherited_descriptors",
        """
for number in range(3, 256):
    @attempt
    def inherited():
        try:
            os.lseek(number, 0, os.SEEK_SET)
        except OSError:
            pass
        os.set_blocking(number, False)
        return os.read(number, 4096)
""",
        bare=True,
    ),
    _escape(
        "reads_descriptors_through_proc",
        """
for number in range(3, 256):
    for way in ("/proc/self/fd", "/dev/fd"):
        @attempt
        def opened():
            descriptor = os.open(f"{way}/{number}", os.O_RDONLY | os.O_NONBLOCK)
            return os.read(descriptor, 4096)
""",
        bare=True,
    ),
    _escape(
        "writes_to_inherited_descriptors",
        """
import json
verdict = json.dumps({"verdict": "pass", "passed": 1, "total": 1, "per_test": [True], "reward": 1.0}).encode()
for number in range(3, 256):
    try:
        os.set_blocking(number, False)
        for text in (verdict + b"\\n", struct.pack("<I", len(verdict)) + verdict,
                     struct.pack(">I", len(verdict)) + verdict):
            os.write(number, text)
    except OSError:
        pass
""",
        frozenset({"pass", "fail", "error"}),
    ),
    _escape(
        "reaches_the_working_folder_through_a_descriptor",
        """
for number in range(3, 256):
    @attempt
    def upwards():
        return os.listdir(os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=number))
""",
    ),
    # Processes
    _escape(
        "reads_the_memory_of_others",
        """
for pid in (1, os.getppid(), @VICTIM@):
    if pid == os.getpid() or pid == 0:
        continue
    @attempt
    def memory():
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(int(next(maps).split("-")[0], 16))
            return memory.read(16)
    @attempt
    def vectored():
        buffer = ctypes.create_string_buffer(16)
        local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
        remote = (ctypes.c_void_p * 2)(0x400000, 16)
        return system_call(310, pid, local, 1, remote, 1, 0)
""",
    ),
    _escape(
        "traces_others",
        """
for pid in (1, os.getppid(), @VICTIM@):
    attempt(lambda: pid > 0 and libc.ptrace(16, pid, None, None) == 0)
    attempt(lambda: pid > 0 and libc.ptrace(0x4206, pid, None, None) == 0)
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "kills_the_victim",
        """
@attempt
def kill():
    os.kill(@VICTIM@, signal.SIGKILL)
    return os.getpid() != @VICTIM@
@attempt
def by_descriptor():
    descriptor = os.pidfd_open(@VICTIM@)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return "killed"
""",
    ),
    _escape(
        "kills_everything",
        """
for number in (signal.SIGTERM, signal.SIGKILL):
    if os.getpid() > 1000:
        escaped.append("no process namespace")  # and kills nobody
        break
    try:
        os.kill(-1, number)
    except OSError:
        pass
""",
        frozenset({"pass", "fail", "error", "timeout"}),
    ),
    _escape(
        "kills_process_one_and_its_parent",
        """
for pid in (1, os.getppid()):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        try:
            if 0 < pid <= os.getpid() < 1000:
                os.kill(pid, number)
        except OSError:
            pass
time.sleep(0.1)
""",
        frozenset({"pass", "fail", "error", "timeout"}),
    ),
    _escape(
        "changes_limits_of_others",
        "attempt(lambda: system_call(302, @VICTIM@, 7, (ctypes.c_ulong * 2)(0, 0), None))\n"
        "attempt(lambda: os.setpriority(os.PRIO_PROCESS, @VICTIM@, 19) is None)\n",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "raises_its_own_limits",
        """
import resource
for name in ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"):
    @attempt
    def raised():
        try:
            resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError:
            return False
        return name
""",
    ),
    # The network
    _escape(
        "connects_to_a_listener",
        """
for family, address in ((socket.AF_INET, ("127.0.0.1", @PORT@)), (socket.AF_INET6, ("::1", @PORT@))):
    @attempt
    def connects():
        with socket.socket(family, socket.SOCK_STREAM) as line:
            line.settimeout(1)
            line.connect(address)
            return "connected"
""",
        bare=True,
    ),
    _escape(
        "listens_and_connects_to_itself_only",
        """
@attempt
def outside():
    with socket.socket() as line:
        line.settimeout(1)
        return line.connect_ex(("192.0.2.1", 80)) == 0
attempt(lambda: socket.create_connection(("1.1.1.1", 53), timeout=1))
""",
    ),
    _escape(
        "sends_a_datagram",
        """
@attempt
def sends():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        return line.sendto(b"@MARK@", ("127.0.0.1", @UDP@)) and "sent"
""",
        CONTAINED_ONLY,
        bare=True,
    ),
    _escape(
        "connects_to_an_abstract_socket",
        """
@attempt
def abstract():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(1)
        line.connect("\\0@ABSTRACT@")
        return "connected"
""",
        bare=True,
    ),
    _escape(
        "connects_to_a_socket_file",
        """
@attempt
def named():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(1)
        line.connect("@SOCKET_FILE@")
        return "connected"
""",
        bare=True,
    ),
    _escape(
        "opens_raw_and_odd_sockets",
        """
for family, kind, protocol in (
    (socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
    (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    (socket.AF_ALG, socket.SOCK_SEQPACKET, 0), (40, socket.SOCK_DGRAM, 0),
):
    attempt(lambda: socket.socket(family, kind, protocol))

@attempt
def netlink():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as line:
        line.bind((0, 0))
        line.send(struct.pack("IHHIIBxHiII", 32, 16, 5, 1, 0, 0, 0, 1, 1, 1))  # lo, up
        return struct.unpack("iI", line.recv(4096)[16:24])[0] == 0
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "resolves_names",
        """
@attempt
def resolves():
    try:
        return [a for a in socket.getaddrinfo("example.org", 80) if a]
    except (socket.gaierror, UnicodeError):
        return None
""",
    ),
    # The kernel
    _escape(
        "mounts",
        """
os.makedirs("over", exist_ok=True)
attempt(lambda: libc.mount(b"none", b"over", b"tmpfs", 0, None) == 0)
attempt(lambda: libc.mount(b"/", b"over", None, 4096, None) == 0)
attempt(lambda: libc.mount(b"proc", b"over", b"proc", 0, None) == 0)
attempt(lambda: libc.mount(None, b"/", None, 32 | 4096, None) == 0)
attempt(lambda: libc.umount2(b"/tmp", 2) == 0)
attempt(lambda: system_call(430, b"tmpfs", 0))
attempt(lambda: system_call(428, -100, b"/", 1))
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "unshares",
        """
for flag in (0x10000000, 0x20000, 0x40000000, 0x8000000, 0x4000000, 0x20000000, 0x2000000, 0x80, 0x10000000 | 0x20000):
    attempt(lambda: libc.unshare(flag) == 0 and hex(flag))
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "clones_into_namespaces",
        """
@attempt
def clone3():
    arguments = (ctypes.c_uint64 * 11)(0x10000000 | 0x20000, 0, 0, 0, signal.SIGCHLD)
    pid = libc.syscall(435, arguments, 88) if X86 else -1
    if pid == 0:
        os._exit(0)
    return pid > 0

@attempt
def clone():
    pid = libc.syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) if X86 else -1
    if pid == 0:
        os._exit(0)
    return pid > 0
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "joins_namespaces",
        """
for pid in ("1", "self", "@VICTIM@", str(os.getppid())):
    for kind in ("mnt", "net", "pid", "user", "ipc", "uts"):
        @attempt
        def joins():
            descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
            return libc.setns(descriptor, 0) == 0 and kind
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "leaves_its_root",
        """
os.makedirs("jail", exist_ok=True)

@attempt
def chroots():
    top = os.open("/", os.O_RDONLY)
    os.chroot("jail")
    os.fchdir(top)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return readable("@SECRET_FILE@")
attempt(lambda: system_call(155, b".", b"."))
attempt(lambda: readable("/proc/1/root@SECRET_FILE@"))
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "becomes_root",
        """
attempt(lambda: os.getuid() == 0 and "is root")
attempt(lambda: os.setuid(0) is None)
attempt(lambda: os.setgid(0) is None)
attempt(lambda: os.setgroups([0]) is None)
attempt(lambda: os.setresuid(0, 0, 0) is None)
attempt(lambda: libc.setfsuid(0) == 0 and libc.setfsuid(0) == 0)
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "has_capabilities",
        """
data = (ctypes.c_uint32 * 6)()
attempt(lambda: libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), data) == 0 and any(data) and list(data))
attempt(lambda: libc.prctl(39, 0, 0, 0, 0) != 1 and "may gain privileges")
attempt(lambda: libc.prctl(21, 0, 0, 0, 0) != 2 and "no filter")
attempt(lambda: os.getuid() == 0 and "root")
""",
        frozenset({"pass", "error"}),
    ),
    _escape(
        "opens_by_handle",
        """
handle = (ctypes.c_char * 136)(*struct.pack("Ii", 8, 1)[:8])
attempt(lambda: system_call(304, os.open("/", os.O_RDONLY), handle, 0))
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "uses_dangerous_system_calls",
        """
buffer = ctypes.create_string_buffer(4096)
for name, number, arguments in (
    ("bpf", 321, (0, buffer, 128)), ("io_uring_setup", 425, (8, buffer)), ("userfaultfd", 323, (0,)),
    ("perf_event_open", 298, (buffer, 0, -1, -1, 0)), ("keyctl", 250, (0, -3, 1)),
    ("add_key", 248, (b"user", b"k", b"v", 1, -3)),
    ("kexec_load", 246, (0, 0, buffer, 0)), ("init_module", 175, (buffer, 0, b"")),
    ("swapon", 167, (b"/tmp/x", 0)), ("reboot", 169, (0xFEE1DEAD, 672274793, 0, 0)), ("syslog", 103, (3, buffer, 4096)),
    ("settimeofday", 164, (0, 0)), ("sethostname", 170, (os.uname().nodename.encode(), len(os.uname().nodename))),
    ("acct", 163, (b"/tmp/x",)), ("iopl", 172, (3,)), ("quotactl", 179, (0, b"", 0, buffer)),
    ("lookup_dcookie", 212, (0, buffer, 1)),
    ("pidfd_getfd", 438, (0, 0, 0)), ("kcmp", 312, (1, 1, 0, 0, 0)), ("fanotify_init", 300, (0, 0)),
    ("name_to_handle_at", 303, (-100, b"/", buffer, buffer, 0)),
    ("process_madvise", 440, (0, buffer, 1, 4, 0)), ("move_pages", 279, (1, 0, 0, 0, buffer, 0)),
    ("migrate_pages", 256, (1, 0, 0, 0)),
    ("personality_no_randomisation", 135, (0x0040000,)), ("modify_ldt", 154, (1, buffer, 16)),
    ("vhangup", 153, ()), ("memfd_secret", 447, (0,)),
):
    if system_call(number, *arguments):
        escaped.append(name)
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "speaks_the_32_bit_abi",
        """
import mmap
# int 0x80 with eax = 20 (getpid): a filter for one architecture must not let the other by
if X86:
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("53b8140000 00cd805bc3".replace(" ", "")))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    attempt(lambda: function() > 0)
""",
        CONTAINED_OR_KILLED,
    ),
    _escape("speaks_the_x32_abi", "attempt(lambda: system_call(0x40000000 + 39))\n", CONTAINED_OR_KILLED),
    _escape(
        "injects_terminal_input",
        """
import fcntl, termios
for number in range(3):
    @attempt
    def injects():
        fcntl.ioctl(number, termios.TIOCSTI, b"x")
        return number
attempt(lambda: os.open("/dev/tty", os.O_RDWR))
attempt(lambda: os.open("/dev/ptmx", os.O_RDWR))
""",
        CONTAINED_OR_KILLED,
    ),
    _escape(
        "preloads_a_library",
        """
@attempt
def preload():
    with open("/tmp/@MARK@.so", "wb") as file:
        file.write(b"\\x7fELF")
    os.environ["LD_PRELOAD"] = "/tmp/@MARK@.so"
    with open("/etc/ld.so.preload", "w") as file:
        return file.write("/tmp/@MARK@.so")
""",
    ),
    _escape(
        "makes_a_core_dump",
        """
if os.fork() == 0:
    os.abort()
_, status = os.wait()
attempt(lambda: os.WCOREDUMP(status))
""",
    ),
    _escape(
        "sees_the_hosts_name_and_mounts",
        """
attempt(lambda: os.uname().nodename == "@HOSTNAME@" and "host name")
attempt(lambda: b"@SECRET_DIR@" in readable("/proc/self/mountinfo", 1 << 20))
""",
    ),
    _escape(
        "reads_the_kernels_log_and_symbols",
        """
attempt(lambda: readable("/proc/kcore", 16))
attempt(lambda: any(int(line.split()[0], 16) for line in readable("/proc/kallsyms", 1 << 16).splitlines()[:20]))
attempt(lambda: readable("/sys/kernel/debug/sched/debug", 16))
""",
    ),
    # Function tests: the same from inside a function that is being judged
    _other(
        "a_function_reads_a_planted_file",
        call("def f():\n    return open('@SECRET_FILE@').read()\n", "f", ([], "@SECRET_HASH@"), limits=LIMITS),
        NOT_REWARDED,
    ),
    _other(
        "a_function_reaches_its_judge",
        call(
            """
import os, signal
def f():
    for pid in [int(p) for p in os.listdir("/proc") if p.isdigit()] if os.path.isdir("/proc") else []:
        if pid not in (os.getpid(), 0):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    return "killed"
""",
            "f",
            ([], "what it should be"),
            limits=LIMITS,
        ),
        NOT_REWARDED,
    ),
    _other(
        "a_check_finds_no_secret_either",
        check(
            "def f():\n    return 1\n",
            "f",
            """
import os
def check(candidate):
    assert candidate() == 1
    assert not os.path.exists("@SECRET_FILE@")
    assert "ZEROQ_PLANTED" not in os.environ
""",
            limits=LIMITS,
        ),
        CONTAINED_ONLY,
    ),
    _other(
        "the_judge_cannot_connect_either",
        asserts(
            "def f():\n    return 1\n",
            "assert f() == 1",
            "assert refused()",
            setup="""
def refused():
    import socket
    try:
        socket.create_connection(("127.0.0.1", @PORT@), timeout=1).close()
    except OSError:
        return True
    return False
""",
            limits=LIMITS,
        ),
        CONTAINED_ONLY,
    ),
]

# Run one after another, several times: the second must find nothing of the first.
LEAVES_TRACES = stdio(
    HEAD
    + """
import mmap, tempfile
for place in (".", "/tmp", "/var/tmp", "/dev/shm", "/run", os.path.expanduser("~"), tempfile.gettempdir(), "/tmp/work"):
    try:
        with open(os.path.join(place, "@MARK@-trace"), "w") as file:
            file.write("@MARK@")
    except OSError:
        pass
libc.shmget.restype = ctypes.c_int
identity = libc.shmget(0x5EC4E7, 4096, 0o1000 | 0o666)
libc.semget(0x5EC4E7, 1, 0o1000 | 0o666)
libc.msgget(0x5EC4E7, 0o1000 | 0o666)
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
"""
    + TAIL,
    limits=LIMITS,
)
FINDS_TRACES = stdio(
    HEAD
    + """
import tempfile
for place in (".", "/tmp", "/var/tmp", "/dev/shm", "/run", os.path.expanduser("~"), tempfile.gettempdir(), "/tmp/work"):
    attempt(lambda: [name for name in os.listdir(place) if "@MARK@" in name])
attempt(lambda: libc.shmget(0x5EC4E7, 4096, 0o666) >= 0)
attempt(lambda: libc.semget(0x5EC4E7, 1, 0o666) >= 0)
attempt(lambda: libc.msgget(0x5EC4E7, 0o666) >= 0)
@attempt
def sleepers():
    return [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid(), os.getppid())]
"""
    + TAIL,
    limits=LIMITS,
)

"""Programs that eat what there is. Each is held to its limits, and the machine serves the next one."""

from __future__ import annotations

from typing import Any

from tests.faults.sandbox_suite import Job, Program, asserts, call, stdio

TIGHT: dict[str, Any] = {"time_s": 1.0, "memory_mb": 128, "pids": 16, "disk_mb": 8, "output_kb": 64}
ROOMY = TIGHT | {"time_s": 5.0}

LIMITED = frozenset({"error", "timeout"})
HELD = frozenset({"pass"})  # it noticed the limit itself, and says so
HELD_OR_KILLED = frozenset({"pass", "error"})
WRONG = frozenset({"fail", "error", "timeout"})
NOT_OURS = frozenset({"pass", "fail", "error", "timeout"})  # whatever it is, it is the program's own doing


def _program(name: str, expect: frozenset[str], source: str, limits: dict[str, Any] = TIGHT) -> Program:
    return Program(name, "resources", stdio(source, limits=limits), expect, wall_s=15.0)


def _judged(name: str, expect: frozenset[str], job: Job) -> Program:
    return Program(name, "resources", job, expect, wall_s=15.0)


PROGRAMS = [
    _program(
        "fork_bomb", LIMITED, "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    ),
    _program(
        "fork_bomb_is_counted",
        HELD_OR_KILLED,
        """
import os, signal, time
children = []
try:
    while len(children) < 200:
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        children.append(pid)
except OSError:
    pass
for pid in children:
    os.kill(pid, signal.SIGKILL)
print("contained" if len(children) <= 16 else f"ESCAPED {len(children)} children")
""",
        ROOMY,
    ),
    _program(
        "fork_chain_of_orphans",
        WRONG,
        """
import os, time
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        time.sleep(0.001)
""",
    ),
    _program(
        "thread_bomb_is_counted",
        HELD_OR_KILLED,
        """
import os, threading, time
count = 0
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    pass
print("contained" if count <= 16 else f"ESCAPED {count} threads", flush=True)
os._exit(0)
""",
        ROOMY,
    ),
    _program(
        "thread_bomb",
        LIMITED,
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()\n",
    ),
    _program("memory_in_a_list", LIMITED, "x = [0] * 10**9\nprint('contained' if not x else 'ESCAPED')\n"),
    _program(
        "memory_in_bytearrays",
        HELD_OR_KILLED,
        """
kept = []
try:
    while len(kept) < 400:
        kept.append(bytearray(b"x") * (1 << 20))
except MemoryError:
    count = len(kept)
    del kept
    print("contained" if count <= 160 else f"ESCAPED {count} MiB")
else:
    print("ESCAPED 400 MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_in_small_objects",
        LIMITED,
        "kept = []\nwhile len(kept) < 20_000_000:\n    kept.append(object())\nprint('ESCAPED')\n",
        ROOMY,
    ),
    _program(
        "memory_in_a_doubled_string",
        LIMITED,
        "text = 'x'\nwhile len(text) < 1 << 32:\n    text += text\nprint('ESCAPED')\n",
        ROOMY,
    ),
    _program(
        "memory_in_private_maps",
        HELD_OR_KILLED,
        """
import mmap
kept, held = [], False
try:
    for _ in range(40):
        area = mmap.mmap(-1, 10 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, len(area), 4096):
            area[offset] = 1
        kept.append(area)
except (OSError, MemoryError):
    held = True
print("contained" if held else "ESCAPED 400 MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_in_shared_maps",
        HELD_OR_KILLED,
        """
import mmap
kept, held = [], False
try:
    for _ in range(40):
        area = mmap.mmap(-1, 10 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        for offset in range(0, len(area), 4096):
            area[offset] = 1
        kept.append(area)
except (OSError, MemoryError):
    held = True
print("contained" if held else "ESCAPED 400 MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_in_a_memfd",
        HELD_OR_KILLED,
        """
import os
block, written = b"x" * (1 << 20), 0
try:
    files = [os.memfd_create(f"m{i}") for i in range(100)]
    for file in files:
        for _ in range(5):
            written += os.write(file, block)
except OSError:
    pass
print("contained" if written <= 160 << 20 else f"ESCAPED {written >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_in_detached_segments",
        HELD_OR_KILLED,
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
size, held = 10 << 20, 0
for _ in range(50):
    segment = libc.shmget(0, size, 0o1600)
    address = libc.shmat(segment, None, 0) if segment >= 0 else None
    if address is None or address == ctypes.c_void_p(-1).value:
        break
    ctypes.memset(address, 1, size)
    libc.shmdt(ctypes.c_void_p(address))
    held += size
print("contained" if held <= 160 << 20 else f"ESCAPED {held >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_in_pipes",
        HELD_OR_KILLED,
        """
import fcntl, os
held, kept = 0, []
try:
    while len(kept) < 2000:
        ends = os.pipe()
        kept.append(ends)
        try:
            fcntl.fcntl(ends[1], 1031, 1 << 20)  # F_SETPIPE_SZ
        except OSError:
            pass
        os.set_blocking(ends[1], False)
        try:
            while True:
                held += os.write(ends[1], b"x" * 65536)
        except BlockingIOError:
            pass
except OSError:
    pass
print("contained" if held <= 160 << 20 else f"ESCAPED {held >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "memory_summed_over_processes",
        HELD_OR_KILLED,
        """
import os, time
report, said = os.pipe()
children = 0
for _ in range(10):
    try:
        if os.fork() == 0:
            try:
                area = bytearray(b"x") * (60 << 20)
                time.sleep(0.5)  # all of it at the same time
                os.write(said, b"+")
                time.sleep(1.0)
            finally:
                os._exit(0)
        children += 1
    except OSError:
        break
os.close(said)
alive = 0
while block := os.read(report, 64):
    alive += len(block)
print("contained" if alive <= 3 else f"ESCAPED {alive} processes of 60 MiB")
""",
        ROOMY,
    ),
    _program(
        "disk_filled_in_tmp",
        HELD_OR_KILLED,
        """
written = 0
try:
    for i in range(100):
        with open(f"/tmp/@MARK@-{i}", "wb", buffering=0) as file:
            written += file.write(b"x" * (1 << 20))
except OSError:
    pass
print("contained" if written <= 9 << 20 else f"ESCAPED {written >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "disk_filled_in_dev_shm",
        HELD_OR_KILLED,
        """
written = 0
try:
    for i in range(100):
        with open(f"/dev/shm/@MARK@-{i}", "wb", buffering=0) as file:
            written += file.write(b"x" * (1 << 20))
except OSError:
    pass
print("contained" if written <= 9 << 20 else f"ESCAPED {written >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "disk_filled_everywhere_at_once",
        HELD_OR_KILLED,
        """
import os, tempfile
written = 0
places = [".", "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/dev/mqueue", "/home", "/root",
          tempfile.gettempdir()]
for place in places:
    for i in range(40):
        try:
            with open(os.path.join(place, f"@MARK@-{i}"), "wb", buffering=0) as file:
                written += file.write(b"x" * (1 << 20))
        except OSError:
            break
print("contained" if written <= 9 << 20 else f"ESCAPED {written >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "one_huge_file",
        HELD_OR_KILLED,
        """
written = 0
try:
    with open("big", "wb", buffering=0) as file:
        for _ in range(64):
            written += file.write(b"x" * (1 << 20))
except OSError:
    pass
print("contained" if written <= 9 << 20 else f"ESCAPED {written >> 20} MiB")
""",
        ROOMY,
    ),
    _program(
        "many_inodes",
        HELD_OR_KILLED,
        """
count = 0
try:
    for count in range(50_000):
        open(f"/tmp/@MARK@-{count}", "w").close()
except OSError:
    pass
print("contained" if count < 20_000 else f"ESCAPED {count} files")
""",
        ROOMY,
    ),
    _program(
        "stdout_flood",
        WRONG,
        "import sys\nblock = 'x' * (1 << 20)\nfor _ in range(100):\n    sys.stdout.write(block)\n",
        ROOMY,
    ),
    _program(
        "stdout_flood_of_lines_after_the_answer",
        WRONG,
        "import sys\nprint('contained')\nfor _ in range(100):\n    sys.stdout.write('y\\n' * (1 << 19))\n",
        ROOMY,
    ),
    _program(
        "stderr_flood",
        HELD_OR_KILLED,
        "import sys\nfor _ in range(100):\n    sys.stderr.write('x' * (1 << 20))\nprint('contained')\n",
        ROOMY,
    ),
    _program(
        "stdout_and_stderr_floods_interleaved",
        WRONG,
        "import os\nfor _ in range(1600):\n    os.write(1, b'o' * 32768)\n    os.write(2, b'e' * 32768)\n",
        ROOMY,
    ),
    _program(
        "endless_output",
        WRONG,
        "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n",
    ),
    _program(
        "flood_from_children",
        WRONG,
        """
import os
for _ in range(4):
    if os.fork() == 0:
        while True:
            os.write(1, b"x" * 65536)
os.wait()
""",
    ),
    _program("cpu_loop", frozenset({"timeout"}), "while True:\n    pass\n"),
    _program("sleep", frozenset({"timeout"}), "import time\ntime.sleep(60)\n"),
    _program("waits_for_input_that_never_ends", frozenset({"timeout"}), "import select\nselect.select([], [], [])\n"),
    _program(
        "busy_threads",
        frozenset({"timeout"}),
        """
import hashlib, threading
def burn():
    while True:
        hashlib.sha256(b"x" * (1 << 20)).digest()
for _ in range(4):
    threading.Thread(target=burn).start()
""",
    ),
    _program(
        "cpu_burned_in_children",
        LIMITED,
        """
import os
for _ in range(4):
    if os.fork() == 0:
        while True:
            pass
for _ in range(4):
    os.wait()
print("contained")
""",
    ),
    _program(
        "ignores_every_signal",
        frozenset({"timeout"}),
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
""",
    ),
    _program("stops_itself", LIMITED, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('contained')\n"),
    _program(
        "stops_its_group_and_session",
        LIMITED,
        "import os, signal, time\nos.kill(0, signal.SIGSTOP)\ntime.sleep(30)\nprint('contained')\n",
    ),
    _program(
        "children_outlive_it",
        NOT_OURS,
        """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
print("contained")
""",
    ),
    _program(
        "daemons_with_closed_streams",
        frozenset({"pass"}),
        """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork() == 0:
        os.closerange(0, 256)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
print("contained")
""",
    ),
    _program(
        "nohup_in_a_shell", NOT_OURS, "import os\nos.system('nohup sleep 60 >/dev/null 2>&1 &')\nprint('contained')\n"
    ),
    _program("endless_recursion", frozenset({"error"}), "def f(n):\n    return f(n + 1)\nf(0)\n", ROOMY),
    _program(
        "recursion_without_a_limit",
        LIMITED,
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n):\n    return f(n + 1) + 1\nf(0)\n",
        ROOMY,
    ),
    _program(
        "recursion_on_the_c_stack",
        LIMITED,
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return max([x], key=f)\nf(0)\nprint('contained')\n",
        ROOMY,
    ),
    _program("catastrophic_regex", frozenset({"timeout"}), "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')\n"),
    _program("huge_power", LIMITED, "print(9 ** 9 ** 9)\n"),
    _program(
        "descriptors_are_limited",
        HELD_OR_KILLED,
        """
import os
kept = []
try:
    while len(kept) < 20_000:
        kept.append(os.dup(0))
except OSError:
    pass
count = len(kept)
os.closerange(3, 25_000)
print("contained" if count < 10_000 else f"ESCAPED {count}")
""",
        ROOMY,
    ),
    _judged("input_is_never_read", HELD, stdio("print('contained')\n", ("x" * 1_000_000, "contained"), limits=ROOMY)),
    _judged(
        "input_is_closed",
        HELD,
        stdio("import os\nos.close(0)\nprint('contained')\n", ("x" * 1_000_000, "contained"), limits=ROOMY),
    ),
    _program("closes_its_output_and_goes_on", LIMITED, "import os\nos.close(1)\nos.close(2)\nwhile True:\n    pass\n"),
    _program("closes_its_output_without_answer", WRONG, "import os\nos.close(1)\nos.close(2)\n"),
    _program(
        "zombie_swarm",
        HELD_OR_KILLED,
        """
import os
try:
    for _ in range(300):
        if os.fork() == 0:
            os._exit(0)
except OSError:
    pass
print("contained")
""",
        ROOMY,
    ),
    _program("huge_error_message", frozenset({"error"}), "raise Exception('x' * 20_000_000)\n", ROOMY),
    _program(
        "error_message_that_never_ends",
        LIMITED,
        "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\nraise E\n",
    ),
    _program("deeply_nested_source", LIMITED, "x = " + "(" * 5_000 + ")" * 5_000, ROOMY),
    _program("long_chain_of_operators", NOT_OURS, "x = " + "-" * 100_000 + "1\nprint('contained')\n", ROOMY),
    _program("source_that_folds_constants", LIMITED, "x = 'a' * 2000 * 2000 * 2000 * 2000\n", ROOMY),
    _program("crash", frozenset({"error"}), "import ctypes\nctypes.string_at(0)\n"),
    _program("aborts", frozenset({"error"}), "import os\nos.abort()\n"),
    _program("no_python_at_all", frozenset({"error"}), "I am sorry, but I cannot solve this.\n"),
    _program("a_null_byte", frozenset({"error"}), "print('contained')\0\n"),
    _program("nothing", frozenset({"fail"}), ""),
    _judged(
        "a_function_that_never_returns",
        LIMITED,
        call("def f():\n    while True:\n        pass\n", "f", ([], 1), limits=TIGHT),
    ),
    _judged(
        "only_the_second_case_hangs",
        LIMITED,
        call("def f(n):\n    while n == 2:\n        pass\n    return n\n", "f", ([1], 1), ([2], 2), limits=TIGHT),
    ),
    _judged(
        "a_huge_value_comes_back",
        WRONG,
        call("def f():\n    return 'x' * 50_000_000\n", "f", ([], "x"), limits=ROOMY),
    ),
    _judged(
        "a_huge_list_comes_back",
        WRONG,
        asserts("def f():\n    return list(range(10_000_000))\n", "assert f() == [1]", limits=ROOMY),
    ),
    _judged(
        "a_value_nested_without_end",
        WRONG,
        call("def f():\n    x = []\n    x.append(x)\n    return x\n", "f", ([], [[]]), limits=ROOMY),
    ),
    _judged(
        "a_function_that_floods_its_output",
        NOT_OURS,
        call(
            "def f():\n    for _ in range(100):\n        print('x' * (1 << 20))\n    return 1\n",
            "f",
            ([], 1),
            limits=ROOMY,
        ),
    ),
    _judged(
        "a_function_that_forks",
        NOT_OURS,
        call("import os\ndef f(n):\n    os.fork()\n    return n\n", "f", ([1], 1), ([2], 2), limits=ROOMY),
    ),
    _judged(
        "a_module_that_never_loads",
        LIMITED,
        asserts("while True:\n    pass\n", "assert f() == 1", "assert f() == 2", limits=TIGHT),
    ),
    _judged(
        "a_function_that_eats_memory",
        LIMITED,
        call("def f():\n    return len([0] * 10**9)\n", "f", ([], 10**9), limits=TIGHT),
    ),
    _judged(
        "a_generator_without_end_comes_back",
        WRONG,
        asserts("def f():\n    while True:\n        yield 1\n", "assert list(f()) == [1]", limits=TIGHT),
    ),
]

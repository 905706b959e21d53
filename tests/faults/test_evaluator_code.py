"""Programs through the real broker and a real evaluator: right verdicts, and kills in the middle of each kind of work.

    learner --AddTask--> broker --lease--> actor (the test) --texts--> broker --lease--> evaluator --verdicts--> learner

An evaluator that is killed leaves its lease to the broker's clock; the next one grades the group, and the start of the
next one removes what the kernel did not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from common.lifecycle import RunPaths
from common.messages import (
    AddTask,
    GetStatus,
    Group,
    Lease,
    LeaseWork,
    RolloutMeta,
    Sampling,
    StatusReport,
    SubmitGroup,
    Take,
)
from evaluator.sandbox.languages import LANGUAGES
from evaluator.sandbox.tools import missing_tools
from tests.wire_keys import connect

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 3.0
TAKE_S = 25.0
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
    pytest.mark.usefixtures("no_leaked_processes"),
]
# An evaluator's process, with something taken away from it first.
CRIPPLED = """
import sys
exec(sys.argv[1])
from common.cli import main
from evaluator.loop import run
sys.argv[1:2] = []
sys.exit(main("evaluator", run, ""))
"""
Leftover = tuple[int, float]


class Rig:
    """A broker, clients for both ends of it, and evaluators that come and go."""

    def __init__(self, folder: Path, **reward: Any) -> None:
        self.folder, self.paths = folder, RunPaths(folder)
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        config = {
            "model": "none",
            "data": {"train": "none.jsonl"},
            "rollout": {"group_size": 2},
            "reward": {"components": [{"name": "accuracy"}], "math_timeout_s": 0.7, **reward},
            "broker": {"grade_lease_s": LEASE_S, "max_attempts": 20},
            "evaluator": {"code": "on"},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        self._num = 0

    def __enter__(self) -> Rig:
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        broker = self._start("broker", [sys.executable, "-m", "broker"])
        self.wait(lambda: self.paths.endpoints.exists() or broker.poll() is not None)
        assert broker.poll() is None, self.log("broker")
        self.learner = self._stack.enter_context(connect(self.paths, "learner", "learner", vocab_size=100, version=0))
        self.actor = self._stack.enter_context(connect(self.paths, "actor", "actor"))
        self.learner.hello()
        self.actor.hello()

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for process in self.processes:
            process.kill()
            process.wait()

    def evaluator(self, change: str | None = None, *, ready: bool = True) -> subprocess.Popen[bytes]:
        """A new evaluator, once it takes work."""
        self._num += 1
        name = f"evaluator-{self._num}"
        command = [sys.executable, "-m", "evaluator"] if change is None else [sys.executable, "-c", CRIPPLED, change]
        process = self._start(name, command)
        if ready:
            self.wait(lambda: "grading up to" in self.log(name) or process.poll() is not None)
            assert process.poll() is None, self.log(name)
        return process

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def logs(self) -> str:
        """What all have said."""
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))

    def wait(self, condition: Callable[[], object], timeout_s: float = 60.0, what: str = "") -> None:
        """Until it holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{self.logs()}"
            time.sleep(0.02)

    def submit(self, task_id: str, spec: dict[str, Any], texts: list[str]) -> None:
        """A group of rollouts, waiting to be graded."""
        payload = {"prompt_ids": np.array([1], np.int32), "prompt": b"P", "spec": json.dumps(spec).encode()}
        num = len(texts)
        task = AddTask(task_id=task_id, purpose="train", group_size=num, sampling=Sampling(max_tokens=4))
        self.learner.request(task, payload)
        lease = self.actor.request(LeaseWork(kind="generate", wait_s=10.0, version=0)).header
        assert isinstance(lease, Lease), lease
        encoded = [text.encode() for text in texts]
        rollouts = [RolloutMeta(num_tokens=1, text_bytes=len(text), finish_reason="stop") for text in encoded]
        self.actor.request(
            SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id=task_id, rollouts=rollouts),
            {
                "token_ids": np.full(num, 3, np.int32),
                "logprobs": np.full(num, -0.5, np.float32),
                "versions": np.zeros(num, np.int32),
                "texts": b"".join(encoded),
            },
        )

    def take(self, task_id: str) -> list[tuple[str, float]]:
        """Outcome and reward of each of the group's rollouts."""
        return [(verdict.outcome, verdict.reward) for verdict in self.take_group(task_id).verdicts]

    def take_group(self, task_id: str) -> Group:
        """The group, graded."""
        deadline = time.monotonic() + TAKE_S
        while time.monotonic() < deadline:
            group = self.learner.request(Take(purpose="train", wait_s=0.5)).header
            if isinstance(group, Group):
                assert group.task_id == task_id
                return group
            assert any(process.poll() is None for process in self.processes[1:]), f"all ended\n{self.logs()}"
        raise AssertionError(self.logs())

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TMPDIR": str(self.scratch)}
        environment.pop("ZEROQ_OUTER_SANDBOX", None)
        arguments = ["--run-dir", str(self.folder), *(["--name", name] if name != "broker" else [])]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder near the root: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="zqe-") as name:
        yield Path(name)


@contextmanager
def rig(folder: Path, **reward: Any) -> Iterator[Rig]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    with Rig(folder, **reward) as it:
        yield it
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line not in mounts] == []


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All processes below this one, those in cells too."""
    return psutil.Process(process.pid).children(recursive=True)


def named(process: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
    """Those of the tree that call themselves `name`."""
    found = []
    for child in tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def in_a_cell(process: psutil.Process) -> bool:
    """Not a process of our own user."""
    try:
        return os.readlink(f"/proc/{process.pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except OSError:  # it has ended
        return False


def command(process: psutil.Process) -> list[str]:
    """Its arguments; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def cgroups_of(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/zeroq-cell-{pid}-*"))


def folders_in(scratch: Path, *pids: int) -> list[str]:
    """Folders of these processes, and probes' folders of anybody."""
    owned = tuple(f"zeroq-toolchain-{pid}-" for pid in pids)
    return [name for name in os.listdir(scratch) if name.startswith((*owned, "zeroq-probe-"))]


def zygote_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    (zygote,) = (
        child
        for child in psutil.Process(process.pid).children()
        if "sandbox/inside/zygote.py" in " ".join(child.cmdline())
    )
    return zygote


MARK = "zq-middle"
NAMED = f"""
import ctypes, time
def pause():
    ctypes.CDLL(None).prctl(15, b"{MARK}")
    time.sleep(1.0)
"""


def answer(program: str, language: str = "python") -> str:
    return f"<think>I write it.</think>\n<answer>\n```{language}\n{program}\n```\n</answer>"


def stdio_spec(given: str, wanted: str, language: str = "python", **limits: Any) -> dict[str, Any]:
    tests = {"kind": "stdio", "cases": [{"stdin": given, "expected": wanted}]}
    return {"kind": "code", "code": {"language": language, "tests": tests, "limits": limits}}


def asserts_spec(*code: str, **limits: Any) -> dict[str, Any]:
    tests = {"kind": "asserts", "code": list(code)}
    return {"kind": "code", "code": {"language": "python", "tests": tests, "limits": limits}}


def call_spec(entry_point: str, arguments: list[Any], expected: Any, **limits: Any) -> dict[str, Any]:
    tests = {"kind": "call", "entry_point": entry_point, "cases": [{"args": arguments, "expected": expected}]}
    return {"kind": "code", "code": {"language": "python", "tests": tests, "limits": limits}}


DOUBLE_CPP = "#include <iostream>\nint main() { long x; std::cin >> x; std::cout << 2 * x; }"
DOUBLE_CS = """
using System;
class Program { static void Main() { Console.WriteLine(2 * int.Parse(Console.ReadLine())); } }
"""
SLOW_MATH = "<think>hm</think><answer>\\int_0^1 \\frac{\\ln(1+x^7)}{1+\\sqrt{x}} dx</answer>"

# name -> specification, response, when it is in the middle, what it comes to
Work = tuple[dict[str, Any], str, Callable[[subprocess.Popen[bytes]], object], tuple[str, float]]
WORK: dict[str, Work] = {
    "stdio": (
        stdio_spec("4", "8"),
        answer(NAMED + "pause()\nprint(int(input()) * 2)"),
        lambda process: named(process, MARK),
        ("pass", 1.0),
    ),
    "asserts": (
        asserts_spec("assert double(4) == 8", "assert double(5) == 10"),
        answer(NAMED + "def double(x):\n    pause()\n    return 2 * x"),
        lambda process: named(process, MARK),
        ("pass", 1.0),
    ),
    "toolchain": (
        stdio_spec("4", "8", "cpp"),
        answer(DOUBLE_CPP, "cpp"),
        lambda process: [p for p in named(process, "cc1plus") if not in_a_cell(p)],
        ("pass", 1.0),
    ),
    "compilation": (
        stdio_spec("4", "8", "csharp"),
        answer(DOUBLE_CS, "csharp"),
        lambda process: [p for p in tree(process) if in_a_cell(p) and "mcs.exe" in " ".join(command(p))],
        ("pass", 1.0),
    ),
    "math": (
        {"kind": "math", "answer": "1/2", "columns": {}},
        SLOW_MATH,
        lambda process: [w for w in math_workers(process) if w.status() == psutil.STATUS_RUNNING],
        ("timeout", 0.0),
    ),
}


def math_workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Those that the graders' own zygote forked (it is the one without a cell below it)."""
    sandbox = zygote_of(process)
    return [
        worker
        for child in psutil.Process(process.pid).children()
        if child != sandbox
        for worker in child.children(recursive=True)
    ]


def test_programs_are_graded_and_hostile_ones_do_not_end_the_evaluator(folder: Path) -> None:
    double = "def double(x):\n    return 2 * x"
    with rig(folder) as it:
        evaluator = it.evaluator()
        it.submit(
            "stdio",
            stdio_spec("4", "8", time_s=1.0),
            [
                answer("print(int(input()) * 2)"),
                answer("print(9)"),
                answer("while True: pass"),
                answer("1/0"),
                "<think>no program</think>",
                "print(int(input()) * 2)",
                answer("print(8)" + "#" * (300 * 1024)),
            ],
        )
        assert it.take("stdio") == [
            ("pass", 1.0), ("fail", 0.0), ("timeout", 0.0), ("error", 0.0), ("fail", 0.0), ("pass", 1.0), ("fail", 0.0),
        ]  # fmt: skip
        it.submit(
            "asserts",
            asserts_spec("assert double(4) == 8"),
            [answer(double), answer(double.replace("2", "3")), answer("x = 1")],
        )
        assert it.take("asserts") == [("pass", 1.0), ("fail", 0.0), ("fail", 0.0)]
        it.submit(
            "call", call_spec("double", [4], 8), [answer(double), answer("import os\ndef double(x): os._exit(0)")]
        )
        assert it.take("call") == [("pass", 1.0), ("error", 0.0)]
        bash = stdio_spec("4", "8", "bash")
        it.submit("bash", bash, [answer("read x; echo $((2 * x))", "bash"), answer("echo 9", "bash")])
        assert it.take("bash") == [("pass", 1.0), ("fail", 0.0)]
        assert evaluator.poll() is None
        evaluator.terminate()
        assert evaluator.wait(timeout=20) == 0
        assert cgroups_of(evaluator.pid) == []
        assert folders_in(it.scratch, evaluator.pid) == []


HOSTILE = {
    "a signalling NaN": "from decimal import Decimal\ndef double(x): return Decimal('sNaN')",
    "a lone surrogate raised": "def double(x): raise ValueError('\\ud800')",
    "a lone surrogate returned": "def double(x): return '\\ud800'",
    "a lone surrogate printed": "import sys\nsys.stderr.buffer.write(b'\\xed\\xa0\\x80')\ndef double(x): sys.exit(3)",
    "its own reply": "import os, struct\ndef double(x):\n    body = b'{\"value\": {\"a\": 1}}'\n"
    "    os.write(3, struct.pack('>II', len(body), 0) + body)",
    "a frame out of bounds": "import os\ndef double(x): os.write(3, b'\\xff' * 64)",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["call", "asserts"])
def test_nothing_that_a_program_answers_ends_the_evaluator(folder: Path, kind: str) -> None:
    spec = call_spec("double", [4], 8) if kind == "call" else asserts_spec("assert double(4) == 8")
    with rig(folder) as it:
        evaluator = it.evaluator()
        for number, (name, program) in enumerate(HOSTILE.items()):
            it.submit(f"t{number}", spec, [answer(program), answer("def double(x): return 2 * x")])
            first, second = it.take(f"t{number}")
            assert first[0] in ("fail", "error"), name
            assert first[1] == 0.0, name
            assert second == ("pass", 1.0), name
            assert evaluator.poll() is None, name


def test_a_reply_that_drips_does_not_outlive_its_time_limit(folder: Path) -> None:
    drip = """
import os, struct, time
def double(x):
    os.write(3, struct.pack(">II", 1000, 0))
    for _ in range(20):
        time.sleep(0.4)
        os.write(3, b" ")
"""
    with rig(folder) as it:
        it.evaluator()
        it.submit("drip", call_spec("double", [4], 8, time_s=1.0), [answer(drip)])
        (verdict,) = it.take_group("drip").verdicts
        assert verdict.outcome in ("timeout", "error")
        assert verdict.wall_s < 4.0


def test_a_program_that_takes_longer_than_a_lease_is_graded_at_the_first_attempt(folder: Path) -> None:
    """Its tests are progress: the lease is renewed while they run."""
    cases = [{"stdin": str(number), "expected": str(number)} for number in range(6)]
    spec = stdio_spec("", "")
    spec["code"]["tests"]["cases"] = cases
    with rig(folder) as it:
        it.evaluator()
        it.submit("long", spec, [answer("import time\ntime.sleep(0.7)\nprint(input())")])
        assert it.take("long") == [("pass", 1.0)]
        status = it.learner.request(GetStatus()).header
        assert isinstance(status, StatusReport)
        assert status.status["counters"]["leases_expired"] == 0, status.status


def test_killed_in_the_middle_of_each_kind_of_work_the_group_is_regraded_and_nothing_is_left(folder: Path) -> None:
    """One after the other, each evaluator that grades a group being the one that is killed over the next."""
    dead: list[int] = []
    with rig(folder) as it:
        evaluator = it.evaluator()
        for name, (spec, response, in_the_middle, expected) in WORK.items():
            if missing := missing_tools(LANGUAGES[spec.get("code", {}).get("language", "python")]):
                print(f"{name} is left out: no {missing}")
                continue
            it.submit(name, spec, [response])
            it.wait(lambda wait_for=in_the_middle, victim=evaluator: wait_for(victim), 20.0, name)
            left = tree(evaluator)
            assert left
            evaluator.kill()
            evaluator.wait()
            dead.append(evaluator.pid)
            it.wait(lambda rest=left: not alive(rest), 15.0)
            evaluator = it.evaluator()
            assert cgroups_of(dead[-1]) == [], name
            assert folders_in(it.scratch, *dead) == [], name
            assert it.take(name) == [expected], name
        evaluator.terminate()
        assert evaluator.wait(timeout=20) == 0
        assert [path for pid in [*dead, evaluator.pid] for path in cgroups_of(pid)] == []
        assert os.listdir(it.scratch) == []


def test_killed_while_it_probes_its_folder_goes_with_the_next_start(folder: Path) -> None:
    with rig(folder) as it:
        evaluator = it.evaluator(ready=False)
        it.wait(lambda: folders_in(it.scratch))
        left = tree(evaluator)
        evaluator.kill()
        evaluator.wait()
        it.wait(lambda: not alive(left), 10.0)
        first = evaluator.pid
        assert folders_in(it.scratch, first)
        it.evaluator()
        assert folders_in(it.scratch, first) == []
        assert cgroups_of(first) == []


@pytest.mark.parametrize("name", ["stdio", "asserts"])
def test_the_zygote_killed_in_the_middle_costs_a_second_try_and_no_verdict(folder: Path, name: str) -> None:
    spec, response, in_the_middle, expected = WORK[name]
    with rig(folder) as it:
        evaluator = it.evaluator()
        it.submit(name, spec, [response, response, response])
        it.wait(lambda: in_the_middle(evaluator))
        zygote = zygote_of(evaluator)
        cells = zygote.children(recursive=True)
        zygote.kill()
        it.wait(lambda: not alive(cells), 15.0)
        assert it.take(name) == [expected] * 3
        assert evaluator.poll() is None
        assert zygote_of(evaluator) != zygote
        log = it.log("evaluator-1")
        assert "tried once more" in log
        assert "returned ungraded" not in log, log


ON: dict[str, Any] = {"code": "on"}
BELOW: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "tier 3": (ON | {"sandbox_tier": 3}, None, "tier 3 wants a gVisor or microVM pod"),
    "no libseccomp": (ON, "sys.modules['pyseccomp'] = None", "seccomp: libseccomp cannot be used"),
}


@pytest.mark.parametrize("name", BELOW)
def test_an_evaluator_below_its_floor_refuses_to_start_and_names_the_layer(folder: Path, name: str) -> None:
    section, change, said = BELOW[name]
    it = Rig(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"evaluator": section}))
    evaluator = it.evaluator(change, ready=False)
    try:
        assert evaluator.wait(timeout=60) == 1
    finally:
        evaluator.kill()
        evaluator.wait()
    log = it.log("evaluator-1")
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if line.startswith("failed: ")]
    assert said in line
    assert folders_in(it.scratch, evaluator.pid) == []
    assert cgroups_of(evaluator.pid) == []


def test_a_program_that_comes_to_an_evaluator_below_its_floor_gets_no_verdict(folder: Path) -> None:
    """`evaluator.code: auto` finds out when the first program comes: it ends, and the lease goes to somebody better."""
    with rig(folder) as it:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"evaluator": {"sandbox_tier": 3}}))
        evaluator = it.evaluator()
        it.submit("t", stdio_spec("4", "8"), [answer("print(8)")])
        assert evaluator.wait(timeout=60) == 1
        assert "tier 3 wants" in it.log("evaluator-1")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        it.evaluator()
        assert it.take("t") == [("pass", 1.0)]


def test_stopping_does_not_wait_for_a_program(folder: Path) -> None:
    sleeps = "import time, ctypes\nctypes.CDLL(None).prctl(15, b'" + MARK + "')\ntime.sleep(300)"
    with rig(folder) as it:
        evaluator = it.evaluator()
        it.submit("sleeps", stdio_spec("", "", time_s=300), [answer(sleeps)])
        it.wait(lambda: named(evaluator, MARK))
        left = tree(evaluator)
        evaluator.send_signal(signal.SIGTERM)
        assert evaluator.wait(timeout=15) == 0
        it.wait(lambda: not alive(left), 10.0)

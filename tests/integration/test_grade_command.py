"""`zeroq grade` as a process: what it answers, in which order, with which exit code, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 90.0
COMMAND = [sys.executable, "-m", "launcher", "grade"]
# The command with one tool that cannot be found, as on a machine without it.
WITHOUT = """
import sys
from evaluator.sandbox import tools
from launcher.cli import main
real = tools.find_tool
tools.find_tool = lambda name: None if name in sys.argv[1].split(",") else real(name)
sys.exit(main(sys.argv[2:]))
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
    pytest.mark.usefixtures("no_leaked_processes", "no_leftovers"),
]

Answer = dict[str, Any]


class Graded:
    """What a command came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def answers(self) -> list[Answer]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def by_id(self) -> dict[str, Answer]:
        return {answer["id"]: answer for answer in self.answers}


def folders() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith(("zeroq-toolchain-", "zeroq-probe-"))}


def cgroups_of(pids: set[int]) -> list[Path]:
    return [p for pid in pids for p in Path("/sys/fs/cgroup").glob(f"**/zeroq-cell-{pid}-*")]


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    """No folder stays in TMPDIR; one that does goes with the test that left it."""
    before = folders()
    yield
    left = folders() - before
    for name in left:
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)
    assert left == set()


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def grade(*lines: Any, options: tuple[str, ...] = (), command: list[str] | None = None) -> Graded:
    """Grade these lines: dicts, or bytes as they are."""
    given = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    done = subprocess.run(
        [*(command or COMMAND), *options], cwd=ROOT, input=given, capture_output=True, timeout=TIMEOUT_S
    )
    graded = Graded(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in graded.err, graded.err
    return graded


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command under way, in a session of its own, where Ctrl-C works even if the tests run in a background job."""
    process = subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        process.wait()


def code(name: str, source: str, *cases: tuple[str, str], language: str = "python", **limits: Any) -> Answer:
    tests = {"kind": "stdio", "cases": [{"stdin": given, "expected": wanted} for given, wanted in cases]}
    return {"id": name, "kind": "code", "language": language, "source": source, "tests": tests, "limits": limits}


def math(name: str, gold: str, response: str) -> Answer:
    return {"id": name, "kind": "math", "gold": gold, "response": response}


DOUBLE = "print(int(input()) * 2)"
GOOD = code("good", DOUBLE, ("4", "8"), ("5", "10"))
# Not to be interrupted, and known from outside by its name.
SLEEPER = """
import ctypes, signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
ctypes.CDLL(None).prctl(15, b"zq-sleeper")
time.sleep(600)
"""
SLEEPS = code("sleeps", SLEEPER, ("", ""), time_s=600)
FORMAT = {"id": "format", "kind": "format", "response": "<think>hm</think><answer>4</answer>"}


def test_every_kind_of_line_is_answered_in_order_with_its_fields() -> None:
    lines = [
        GOOD,
        math("half", "\\frac{1}{2}", "<think>hm</think> so \\boxed{0.5}"),
        math("no", "\\frac{1}{2}", "<think>\\boxed{0.5}</think> so \\boxed{0.3}"),
        FORMAT,
        FORMAT | {"id": "loose", "response": "so 4", "mode": "lenient"},
        {"id": "english", "kind": "language", "response": "<think>we add the two numbers and get four</think>4"},
        {
            "id": "german",
            "kind": "language",
            "response": "<think>wir zählen nun die beiden Zahlen zusammen und das gibt dann vier</think>4",
            "language": "en",
        },
        code("wrong", DOUBLE, ("4", "8"), ("5", "11")) | {"reward": "fraction"},
        code("late", "while True: pass", ("", ""), time_s=0.3),
        code("crash", "1/0", ("", "")),
        code("untested", "print(1)"),
    ]
    graded = grade(*lines, options=("--workers", "2"))
    assert graded.code == 0, graded.err
    assert [answer["id"] for answer in graded.answers] == [line["id"] for line in lines]
    found = graded.by_id
    fields = {"id", "verdict", "passed", "total", "per_test", "reward", "detail", "wall_s", "cpu_s"}
    assert found["good"].keys() == fields
    assert (found["good"]["verdict"], found["good"]["per_test"], found["good"]["reward"]) == ("pass", [True, True], 1.0)
    assert found["half"].keys() == {"id", "correct", "reward", "detail", "wall_s"}
    assert (found["half"]["correct"], found["half"]["reward"]) == (True, 1.0)
    assert (found["no"]["correct"], found["no"]["reward"]) == (False, 0.0)
    assert found["format"]["reward"] == 1.0
    assert found["loose"]["reward"] < 1.0
    assert {"id", "reward", "detail"} <= found["format"].keys()
    assert found["english"]["reward"] > 0.9
    assert found["german"]["reward"] < 0.6
    assert (found["wrong"]["verdict"], found["wrong"]["reward"]) == ("fail", 0.5)
    assert (found["wrong"]["passed"], found["wrong"]["total"]) == (1, 2)
    verdicts = [found[name]["verdict"] for name in ("late", "crash", "untested")]
    assert verdicts == ["timeout", "error", "error"]
    assert "ZeroDivisionError" in found["crash"]["detail"]


def test_function_and_suffix_tests_of_every_kind() -> None:
    add = "def add(a, b):\n    return a + b\n"
    tests: dict[str, dict[str, Any]] = {
        "call": {"kind": "call", "entry_point": "add", "cases": [{"args": [1, 2], "expected": 3}]},
        "method": {"kind": "call", "entry_point": "add", "cls": "S", "cases": [{"args": [1, 2], "expected": 3}]},
        "assert": {
            "kind": "assert",
            "entry_point": "add",
            "code": "def check(candidate):\n    assert candidate(1, 2) == 3",
        },
        "asserts": {
            "kind": "asserts",
            "code": ["assert add(1, 2) == 3", "assert add(a=1, b=2) == x"],
            "setup": "x = 3",
        },
        "suffix": {"kind": "suffix", "code": "assert add(1, 2) == 3"},
    }
    method = "class S:\n    def add(self, a, b):\n        return a + b\n"
    lines = []
    for name, kind in tests.items():
        source = method if name == "method" else add
        lines.append({"id": name, "kind": "code", "language": "python", "source": source, "tests": kind})
        lines.append(lines[-1] | {"id": f"{name}-wrong", "source": source.replace("+", "-")})
    graded = grade(*lines, options=("--workers", "2"))
    assert graded.code == 0, graded.err
    assert [(a["id"], a["verdict"]) for a in graded.answers if "wrong" not in a["id"]] == [(n, "pass") for n in tests]
    assert [a["verdict"] for a in graded.answers if "wrong" in a["id"]] == ["fail"] * len(tests)
    assert all(a["reward"] == (a["verdict"] == "pass") for a in graded.answers)


def test_a_parameter_named_target_is_no_trap() -> None:
    line = {
        "id": "target",
        "kind": "code",
        "language": "python",
        "source": "def find(nums, target, self=0):\n    return nums.index(target)\n",
        "tests": {
            "kind": "asserts",
            "code": ["assert find(nums=[5, 6], target=6) == 1", "assert find([5], target=5, self=1) == 0"],
        },
    }
    (answer,) = grade(line).answers
    assert answer["verdict"] == "pass", answer


def test_order_is_kept_whoever_is_first_and_unordered_is_not() -> None:
    slow = code("slow", "import time\ntime.sleep(1.5)\nprint(8)", ("4", "8"))
    lines = [slow, *(GOOD | {"id": str(number)} for number in range(6))]
    ordered = grade(*lines, options=("--workers", "2"))
    assert [answer["id"] for answer in ordered.answers] == [line["id"] for line in lines]
    unordered = grade(*lines, options=("--workers", "2", "--unordered"))
    assert [answer["id"] for answer in unordered.answers][-1] == "slow"
    assert sorted(unordered.by_id) == sorted(ordered.by_id)
    assert ordered.code == unordered.code == 0


def test_two_workers_work_at_the_same_time() -> None:
    nap = "import time\ntime.sleep(1.0)\nprint(8)"
    lines = [code(str(number), nap, ("", "8")) for number in range(4)]

    def span_s(workers: str) -> float:
        with running("--workers", workers) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            warm = json.dumps(GOOD).encode() + b"\n"
            process.stdin.write(warm + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            process.stdin.close()
            process.stdout.readline()
            begin = time.monotonic()
            rest = process.stdout.read().splitlines()
            assert [json.loads(line)["verdict"] for line in rest] == ["pass"] * 4
            return time.monotonic() - begin

    assert span_s("2") < 3.5  # four seconds one after the other


MALFORMED: dict[str, tuple[bytes, str]] = {
    "not JSON": (b'{"id": "x", "kind"\n', "not JSON"),
    "no object": (b"[1, 2]\n", "an object is expected, found list"),
    "null": (b"null\n", "an object is expected"),
    "no UTF-8": (b'{"id": "\xff\xfe"}\n', "not JSON"),
    "too deep": (b"[" * 100_000 + b"\n", "not JSON"),
    "a number of 10,000 digits": (b'{"id": ' + b"9" * 10_000 + b"}\n", "not JSON"),
    "no kind": (b'{"id": "x"}\n', "kind"),
    "unknown kind": (b'{"id": "x", "kind": "poem"}\n', "'code'"),
    "no id": (json.dumps(FORMAT | {"id": None}).encode() + b"\n", "id"),
    "no gold": (b'{"id": "x", "kind": "math", "response": "5"}\n', "gold"),
    "empty gold": (b'{"id": "x", "kind": "math", "gold": "", "response": "5"}\n', "gold"),
    "unknown field": (json.dumps(FORMAT | {"extra": 1}).encode() + b"\n", "extra"),
    "unknown language": (json.dumps(FORMAT | {"kind": "language", "language": "tlh"}).encode() + b"\n", "'tlh'"),
    "unknown toolchain": (json.dumps(GOOD | {"language": "cobol"}).encode() + b"\n", "language"),
    "bad tests": (json.dumps(GOOD | {"tests": {"kind": "stdio", "cases": [{"stdin": 4}]}}).encode() + b"\n", "stdin"),
    "bad limits": (json.dumps(GOOD | {"limits": {"time_s": -1}}).encode() + b"\n", "time_s"),
    "functions in C++": (
        json.dumps(GOOD | {"language": "cpp", "tests": {"kind": "asserts", "code": []}}).encode() + b"\n",
        "are for python, not cpp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--unordered", "--workers", "2")], ids=["ordered", "unordered"])
def test_malformed_lines_are_answered_by_number_and_the_rest_is_graded(options: tuple[str, ...]) -> None:
    lines: list[Any] = [GOOD, b"\n", b"  \t\r\n"]  # blank lines count, and are no lines
    numbers = {}
    for name, (text, _) in MALFORMED.items():
        lines.append(text)
        numbers[len(lines)] = name
    lines += [FORMAT, b'{"id": "no newline at the end"']
    numbers[len(lines)] = "not JSON"
    graded = grade(*lines, options=options)
    assert graded.code == 2
    refused = {answer["line"]: answer for answer in graded.answers if "error" in answer}
    assert sorted(refused) == sorted(numbers)
    for number, name in numbers.items():
        error = refused[number]["error"]
        assert error.startswith(f"line {number}: "), error
        assert MALFORMED[name][1] in error, f"{name}: {error}"
        assert len(error) < 400, f"{name}: {error}"
        assert "reward" not in refused[number]
    assert refused[4 + list(MALFORMED).index("bad limits")]["id"] == "good"  # known by its name where it has one
    served = {answer["id"]: answer for answer in graded.answers if "error" not in answer}
    assert served["good"]["verdict"] == "pass"
    assert served["format"]["reward"] == 1.0
    assert len(graded.err.splitlines()) == 1
    assert f"{len(numbers)} of {len(numbers) + 2} lines malformed" in graded.err


SURROGATE = "\ud800"
ODD: dict[str, Answer] = {
    "id": GOOD | {"id": SURROGATE},
    "expected": code("expected", "print(1)", ("", SURROGATE)),
    "stdin": code("stdin", "import sys\nprint(len(sys.stdin.buffer.read()))", (SURROGATE, "3")),
    "raised": GOOD
    | {
        "id": "raised",
        "source": "def f(): raise ValueError('\\ud800')",
        "tests": {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 1}]},
    },
    "returned": GOOD
    | {
        "id": "returned",
        "source": "def f(): return '\\ud800'",
        "tests": {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": SURROGATE}]},
    },
    "asserted": GOOD
    | {
        "id": "asserted",
        "source": "def f(): raise ValueError('\\ud800')",
        "tests": {"kind": "asserts", "code": ["assert f() == 1"]},
    },
    "snan": GOOD
    | {
        "id": "snan",
        "source": "from decimal import Decimal\ndef f(): return Decimal('sNaN')",
        "tests": {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 1}]},
    },
    "source": GOOD | {"id": "source", "source": f"print('{SURROGATE}')"},
    "gold": math("gold", SURROGATE, "\\boxed{1}"),
    "response": math("response", "1", f"{SURROGATE} \\boxed{{1}}"),
    "format": FORMAT | {"response": SURROGATE},
    "language": {"id": "language", "kind": "language", "response": f"{SURROGATE} one and one is two"},
}


def test_no_line_takes_the_command_down() -> None:
    """Each is answered or refused, and so is what comes after it."""
    graded = grade(*ODD.values(), GOOD)
    assert len(graded.answers) == len(ODD) + 1
    for name, answer in zip(ODD, graded.answers, strict=False):
        if "error" not in answer:
            assert answer["reward"] in (0.0, 1.0) or name == "language", name
            assert answer.get("verdict") != "infra_error", name
    assert graded.answers[-1]["verdict"] == "pass"
    assert graded.code == (2 if any("error" in answer for answer in graded.answers) else 0)


def test_an_absent_toolchain_is_ours_by_name_and_never_a_fail() -> None:
    java = code("java", "class Main {}", ("", ""), language="java")
    graded = grade(java, GOOD, command=[sys.executable, "-c", WITHOUT, "javac", "grade"])
    assert graded.code == 1
    absent, good = graded.answers
    assert (absent["verdict"], absent["reward"]) == ("infra_error", 0.0)
    assert "toolchain of java is absent: javac" in absent["detail"]
    assert "make evaluator-languages" in absent["detail"]
    assert good["verdict"] == "pass"
    assert "failed: 1 of 2 lines not graded (infra_error)" in graded.err


def test_a_malformed_line_outranks_one_that_could_not_be_graded() -> None:
    java = code("java", "class Main {}", ("", ""), language="java")
    graded = grade(java, b"nonsense\n", command=[sys.executable, "-c", WITHOUT, "java,javac", "grade"])
    assert graded.code == 2
    said = [line for line in graded.err.splitlines() if line.startswith(("error: ", "failed: "))]
    assert [line.split(" lines ")[0] for line in said] == ["error: 1 of 2", "failed: 1 of 2"]


def test_capabilities_are_json_and_name_what_is_absent() -> None:
    done = grade(options=("--capabilities",), command=[sys.executable, "-c", WITHOUT, "php", "grade"])
    assert done.code == 0, done.out
    report = json.loads(done.out)
    assert (report["tier"], report["holds"]) == (2, True)
    expected = {
        "namespaces",
        "root",
        "capabilities",
        "seccomp",
        "landlock",
        "rlimits",
        "memory of the tree",
        "user outside",
    }
    assert expected <= report["layers"].keys()
    assert report["layers"]["user outside"] != "0"
    assert report["languages"]["python"] == "yes"
    assert report["languages"]["php"] == "no: php not installed (make evaluator-languages)"
    languages = {"python", "cpp", "java", "javascript", "typescript", "csharp", "php", "bash"}
    assert report["languages"].keys() == languages
    assert done.err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="as root alone tier 1 lacks a layer everywhere")
def test_tier_1_as_root_is_refused_naming_what_is_missing() -> None:
    graded = grade(GOOD, FORMAT, options=("--tier", "1"))
    assert (graded.code, graded.out) == (1, "")
    assert graded.err.startswith("failed: the sandbox does not hold tier 1 here: ")
    assert "is root" in graded.err
    assert len(graded.err.splitlines()) == 1
    report = grade(options=("--tier", "1", "--capabilities"))
    assert report.code == 1
    said = json.loads(report.out)
    assert said["holds"] is False
    assert "is root" in said["missing"]
    assert said["languages"]["cpp"].startswith("no: ")


def test_tier_3_without_an_outer_sandbox_is_refused_and_texts_need_none() -> None:
    if "gvisor" in Path("/proc/version").read_text().lower():
        pytest.skip("there is one here")
    command = ["env", "-u", "ZEROQ_OUTER_SANDBOX", *COMMAND]
    refused = grade(GOOD, options=("--tier", "3"), command=command)
    assert (refused.code, refused.out) == (1, "")
    assert "tier 3" in refused.err
    assert "gVisor or microVM" in refused.err
    texts = grade(FORMAT, math("m", "5", "\\boxed{5}"), options=("--tier", "3"), command=command)
    assert texts.code == 0
    assert [answer["reward"] for answer in texts.answers] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("/no/such/file.jsonl",), "/no/such/file.jsonl: cannot be read: No such file or directory"),
        ((str(ROOT),), "cannot be read: Is a directory"),
        (("--workers", "0"), "--workers 0: at least 1"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(options: tuple[str, ...], said: str) -> None:
    graded = grade(options=options)
    assert (graded.code, graded.out) == (2, "")
    assert graded.err.startswith("error: ")
    assert said in graded.err
    assert len(graded.err.splitlines()) == 1


def test_a_file_and_standard_input_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(FORMAT))
    answers = [
        grade(options=(str(file),)).answers,
        grade(GOOD, FORMAT).answers,
        grade(GOOD, FORMAT, options=("-",)).answers,
    ]
    stripped = [[{k: v for k, v in a.items() if k not in ("wall_s", "cpu_s")} for a in part] for part in answers]
    assert stripped[0] == stripped[1] == stripped[2]


def test_nothing_to_do_is_done_at_once() -> None:
    graded = grade()
    assert (graded.code, graded.out, graded.err) == (0, "", "")


def everything(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes if psutil.pid_exists(p.pid))


def start_sleeping(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Give the command a program that sleeps; its processes once the program sleeps."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(SLEEPS).encode() + b"\n")
    process.stdin.flush()
    process.stdin.close()
    wait_until(lambda: any(_name(child) == "zq-sleeper" for child in everything(process)))
    return everything(process)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_ctrl_c_ends_it_in_seconds_and_leaves_no_process(number: signal.Signals) -> None:
    with running() as process:
        left = start_sleeping(process)
        begin = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to all of the foreground
        else:
            process.send_signal(number)
        assert process.wait(timeout=15) == 130
        assert time.monotonic() - begin < 10
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert said.splitlines()[-1] == "interrupted"
        assert "Traceback" not in said
        wait_until(lambda: gone(left))
        assert cgroups_of({process.pid}) == []


def test_a_killed_command_leaves_no_process_and_the_next_cleans_up_after_it() -> None:
    with running() as process:
        left = start_sleeping(process)
        process.kill()
        process.wait()
        wait_until(lambda: gone(left))
        pid = process.pid
    assert grade(GOOD).code == 0
    assert cgroups_of({pid}) == []
    assert not [name for name in folders() if name.split("-")[2] == str(pid)]


def test_a_reader_that_goes_away_ends_it_without_a_traceback() -> None:
    with running() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(GOOD).encode() + b"\n")
        process.stdin.write((json.dumps(FORMAT).encode() + b"\n") * 200)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["verdict"] == "pass"
        left = everything(process)
        process.stdout.close()
        process.stdin.close()
        assert process.wait(timeout=30) not in (0, 120)
        said = process.stderr.read().decode()
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        assert len(said.splitlines()) <= 1
        wait_until(lambda: gone(left))

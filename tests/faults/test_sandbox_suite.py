"""The adversarial suite: nothing gets out, nothing is left, no hack is rewarded, no honest program is refused.

The programs are graded by a process of its own (sandbox_suite/child.py), as this user and, where that is root, once
more as an unprivileged one. Each test looks at one program's result.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sandbox_suite import CONTAINED, Program, programs
from tests.faults.sandbox_suite.plants import Plants, Traces
from tests.faults.sandbox_suite.unprivileged import NOBODY

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = programs()
MODES = ("same_user", "unprivileged")
MAX_DETAIL = 4096
TOOLS = {
    "cpp": "g++",
    "java": "javac",
    "javascript": "node",
    "typescript": "tsc",
    "csharp": "mcs",
    "php": "php",
    "bash": "bash",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

Report = dict[str, Any]


@pytest.fixture(scope="module", params=MODES)
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """What became of the programs that this session has tests for."""
    mode = request.param
    if mode == "unprivileged" and os.geteuid() != 0:
        pytest.skip("not root: the other half has run as an unprivileged user")
    names = set()
    for item in request.session.items:
        chosen = item.callspec.params.get("program") if hasattr(item, "callspec") else None
        names |= {chosen.name} if isinstance(chosen, Program) else set()
    command = [sys.executable, "-m", "tests.faults.sandbox_suite.child"]
    folder = tempfile.mkdtemp(prefix="zqs-", dir="/tmp")  # pytest's own can be entered by its user alone
    try:
        os.chmod(folder, 0o755)
        if mode == "unprivileged":
            os.chown(folder, NOBODY, NOBODY)
            command = [sys.executable, "-m", "tests.faults.sandbox_suite.unprivileged", *command]
        environment = {"PATH": os.environ["PATH"], "TMPDIR": folder, "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=json.dumps({"names": sorted(names), "bare": mode == "same_user"}),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"the grading process exited {done.returncode}:\n{done.stderr[-4000:]}"
        yield json.loads(done.stdout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_suite_is_large_and_its_names_differ() -> None:
    names = Counter(program.name for program in PROGRAMS)
    assert [name for name, count in names.items() if count > 1] == []
    categories = Counter(program.category for program in PROGRAMS)
    assert min(categories.values()) >= 25
    assert len(PROGRAMS) >= 100
    assert all("infra_error" not in program.expect for program in PROGRAMS)
    assert all("pass" not in p.expect for p in PROGRAMS if p.category == "hacks" and p.name != "true_is_not_one")


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program(report: Report, program: Program) -> None:
    result = report["results"][program.name]
    said = f"{result['verdict']}: {result['detail']}"
    if result["verdict"] == "infra_error" and program.language in TOOLS and not shutil.which(TOOLS[program.language]):
        pytest.skip(f"{program.language}: {result['detail']}")
    assert "ESCAPED" not in result["detail"], said
    assert result["verdict"] in program.expect, said
    assert (result["reward"] == 1.0) == (result["verdict"] == "pass")
    assert len(result["detail"]) <= MAX_DETAIL
    assert result["wall_s"] < program.wall_s


def test_nothing_leaks(report: Report) -> None:
    """No process, mount, cgroup, file, socket or descriptor is left; no secret printed; no listener contacted."""
    assert report["leaks"] == []


def test_a_program_finds_nothing_of_the_one_before(report: Report) -> None:
    assert report["carried"] == []


def test_honest_programs_are_served_after_all_this(report: Report) -> None:
    assert report["last"]["verdict"] == "pass", report["last"]["detail"]


@pytest.mark.parametrize("report", ["same_user"], indirect=True)
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program.escapes_bare], ids=str)
def test_the_escape_works_where_nothing_holds_it(report: Report, program: Program) -> None:
    """A program that is contained in any case would show nothing."""
    printed = report["bare"][program.name]
    assert printed.startswith("ESCAPED"), printed
    assert CONTAINED not in printed


def test_the_watch_sees_what_is_left_and_what_was_touched(tmp_path: Path) -> None:
    with Plants() as plants:
        before = Traces(plants.mark)
        assert before.left() == plants.touched() == []
        shared = Path("/dev/shm") / f"{plants.mark}-left"
        with (
            subprocess.Popen(["sleep", "60"]) as process,
            (tmp_path / "open").open("w"),
            socket.create_server(f"{tmp_path}/{plants.mark}", family=socket.AF_UNIX),
            tempfile.NamedTemporaryFile(),
            socket.create_connection(("127.0.0.1", int(plants.values["PORT"]))) as line,
        ):
            shared.touch()
            line.recv(1)  # until it was noticed and closed
            kinds = Counter(item.partition(":")[0] for item in before.left())
            process.kill()
            shared.unlink()
        assert {"process", "descriptor", "socket", "temporary file", "file"} <= kinds.keys()
        assert plants.touched() == ["the tcp listener was contacted"]
        plants.victim.kill()
        plants.victim.wait()
        assert "the victim was killed" in plants.touched()

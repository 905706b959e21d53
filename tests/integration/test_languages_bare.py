"""The trusted drivers, one plain process per program in a temporary folder: right bodies pass, wrong ones fail, and
programs that would pass without solving anything do not. The sandbox's own tests run the same drivers inside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from languages_cheats import CHEATS, PAIRS
from languages_rig import Outcome, Server, missing, run_suffix, warm

from evaluator.sandbox.job import LanguageName, SuffixTests
from evaluator.sandbox.toolchain import prepare

DATA = Path(os.environ.get("ZEROQ_DATA", Path(__file__).parents[3] / "shared" / "data"))
COMPILED: tuple[LanguageName, ...] = ("cpp", "java", "typescript")


def needs(name: LanguageName) -> None:
    """Skip without the language's tools."""
    absent = missing(name)
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}; install with make evaluator-languages")


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built once for compilers."""
    folder = tmp_path_factory.mktemp("toolchain")
    prepare(folder, {name for name in COMPILED if not missing(name)})
    return folder


@pytest.fixture(scope="session")
def servers(toolchain: Path) -> Iterator[dict[str, Server]]:
    """The warm compilers."""
    names: list[LanguageName] = [name for name in ("java", "typescript") if not missing(name)]
    running = {name: Server(name, toolchain) for name in names}
    yield running
    for server in running.values():
        server.close()


def run(
    name: LanguageName, source: str, tests: str, folder: Path, toolchain: Path, servers: dict[str, Server]
) -> Outcome:
    """Compiled by the warm compiler where there is one."""
    suffix = SuffixTests(kind="suffix", code=tests)
    return run_suffix(name, source, suffix, folder, toolchain, servers.get(name))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("warm_compiler", [True, False], ids=["warm", "cold"])
def test_right_passes_and_wrong_fails(
    name: LanguageName, warm_compiler: bool, tmp_path: Path, toolchain: Path, servers: dict[str, Server]
) -> None:
    needs(name)
    if warm_compiler and name not in servers:
        pytest.skip(f"{name} has no warm compiler")
    pair = PAIRS[name]
    for which, source in (("pass", pair.right), ("fail", pair.wrong), ("error", pair.crash)):
        (tmp_path / which).mkdir()
        outcome = run(name, source, pair.tests, tmp_path / which, toolchain, servers if warm_compiler else {})
        assert outcome.verdict == which, outcome


@pytest.mark.parametrize("name", [name for name in PAIRS if name in COMPILED or name == "csharp"])
def test_what_does_not_compile(name: LanguageName, tmp_path: Path, toolchain: Path, servers: dict[str, Server]) -> None:
    needs(name)
    outcome = run(
        name, PAIRS[name].right.replace("2 * n", "nowhere * n"), PAIRS[name].tests, tmp_path, toolchain, servers
    )
    assert outcome.verdict == "compile"
    assert "nowhere" in outcome.stderr


@pytest.mark.parametrize(("name", "cheat"), [(name, cheat) for name, cheats in CHEATS.items() for cheat in cheats])
def test_cheats_do_not_pass(
    name: LanguageName, cheat: str, tmp_path: Path, toolchain: Path, servers: dict[str, Server]
) -> None:
    needs(name)
    outcome = run(name, CHEATS[name][cheat], PAIRS[name].tests, tmp_path, toolchain, servers)
    assert outcome.verdict != "pass", outcome
    # A cheat that merely does not compile shows nothing, unless that is how it is refused.
    assert (outcome.verdict == "compile") == cheat.startswith("does not compile"), outcome


@pytest.mark.parametrize("name", ["java", "typescript"])
def test_warm_compilers_survive_bad_input(name: LanguageName, toolchain: Path) -> None:
    needs(name)
    extension = {"java": "java", "typescript": "ts"}[name]
    good = {"java": "class A { int f() { return 1; } }", "typescript": "function f(): number { return 1; }"}[name]
    with warm(name, toolchain) as server:
        for frame in (b"", b"{", b"\xff\xfe", b"[]", b'{"files": 3}', b'{"files": {"a": 1}}', b'{"files": {}}'):
            answer = server.ask_raw(frame)
            assert answer["ok"] is False
        for file in ("../A." + extension, "/tmp/A." + extension, "A.class", ""):
            assert server.ask({file: good})["ok"] is False
        assert server.ask({f"A.{extension}": "(" * 200_000})["ok"] is False
        assert server.ask_raw(b" " * (17 << 20))["ok"] is False
        for _ in range(3):  # the same names again and again: nothing of a program is kept
            assert server.ask({f"A.{extension}": good})["ok"] is True
        assert server.ask({f"B.{extension}": good.replace("1", "A.f(;")})["ok"] is False
        assert server.ask({f"B.{extension}": good.replace("A", "B") + "\n// é😀"})["ok"] is True


def lines(name: str) -> list[dict[str, Any]]:
    """A file of the data; skips without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} in $ZEROQ_DATA ({DATA})")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("name", "file"), [("cpp", "cpp"), ("java", "java"), ("javascript", "js")])
def test_references_of_humaneval_x(
    name: LanguageName, file: str, tmp_path: Path, toolchain: Path, servers: dict[str, Server]
) -> None:
    needs(name)
    for number, problem in enumerate(lines(f"humaneval_x_{file}.jsonl")[3::16]):
        if not problem["reference_passes"]:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        source = problem["starter"] + problem["solution"]
        outcome = run(name, source, problem["tests"][0]["code"], folder, toolchain, servers)
        assert outcome.verdict == "pass", (problem["id"], outcome)

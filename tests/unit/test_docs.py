"""What the pages name exists: links, anchors, files, commands and their options, configuration keys, make targets."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from common.config_file import Section, known_keys
from common.job_config import RewardModelConfig, SftConfig
from launcher.cli import build_parser, parse
from recipes.suites.builtin import builtin_suites

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if "log.md" not in path.name and path.name != "CHANGELOG.md"  # the past may name what is gone
)
FOLDERS = "actor|benchmarks|broker|common|deploy|docs|evaluator|launcher|learner|recipes|requirements|tests"
OF_A_RUN = {"config.yaml", "pipeline.yaml", "rules.yaml", "my.yaml", "suites.yaml"}
NO_KEYS = re.compile(r"\.(public|secret|jsonl|json|log|node|feed|env|py|yaml)$")
CONFIGURATIONS: tuple[type[Section], ...] = (RunConfig, SftConfig, RewardModelConfig)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text: str) -> Iterator[str]:
    """Lines of code: fenced, or indented by four after an empty line or a heading; without comments and pipes."""
    fenced, indented, before = False, False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        else:
            indented = line.startswith("    ") and (indented or not before.strip() or before.startswith("#"))
            if fenced or indented:
                yield re.split(r"\s#\s|\s{2,}(?=\S)|\s[|>]\s", line.strip().removeprefix(".venv/bin/"))[0]
        before = line


def spans(text: str) -> list[str]:
    """What stands between backticks outside of blocks."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [span.replace("\\|", "|").removeprefix(".venv/bin/") for span in re.findall(r"`([^`\n]+)`", text)]


def code(page: Path) -> list[str]:
    """All code of a page, a line each."""
    text = page.read_text(encoding="utf-8")
    return [*blocks(text), *spans(text)]


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of `zeroq` by command."""
    found = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def anchors(page: Path) -> set[str]:
    """Those that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(other), f"{target}: no such heading"


@each_page
def test_files_exist(page: Path) -> None:
    for line in code(page):
        for name in re.findall(rf"(?<![\w/.@-])(?:{FOLDERS})/[\w./{{}},*-]*", line):
            plain = re.sub(r"\{[^}]*\}", "*", name).rstrip(".,")
            if re.search("NAME|ROLE|DIR", plain) or "runs/" in plain:
                continue
            assert any(ROOT.glob(plain)), f"{name} in {line!r}"
        if re.fullmatch(r"[\w.]+\.yaml", line) and line not in OF_A_RUN:
            assert any(ROOT.glob(f"recipes/**/{line}")) or any(ROOT.glob(f"deploy/**/{line}")), line
        if re.fullmatch(r"test_\w+\.py", line):
            assert any(ROOT.glob(f"tests/**/{line}")), line


@each_page
def test_zeroq_knows_its_commands(page: Path) -> None:
    known = commands()
    for line in code(page):
        if not line.startswith("zeroq ") or line.startswith("zeroq --"):
            continue
        words = shlex.split(re.sub(r"\[[^\]]*\]", "", line.split(" | ")[0].split(" > ")[0]))
        assert words[1] in known, line
        options = {option for action in known[words[1]]._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("--")} <= options, line


@each_page
def test_zeroq_takes_its_command_lines(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in blocks(page.read_text(encoding="utf-8")):
        if not line.startswith("zeroq ") or "..." in line or "--help" in line or "──" in line:
            continue
        try:
            options = parse(shlex.split(line)[1:])
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")
        if options.command in ("run", "check") and (ROOT / options.config).is_file():
            load_config(ROOT / options.config, options.overrides)


@each_page
def test_configuration_keys_exist(page: Path) -> None:
    sections = {name for model in CONFIGURATIONS for name in model.model_fields}
    for line in spans(page.read_text(encoding="utf-8")):
        for word in line.split():
            key = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:=.*|:)?", word)
            if key is None or key[1].split(".")[0] not in sections or NO_KEYS.search(key[1]):
                continue
            *parents, last = key[1].split(".")
            known = {name for model in CONFIGURATIONS for name in known_keys(model, parents)}
            free = not known and known_keys(RunConfig, parents[:-1])  # a mapping with names of its own
            assert last in known or free, f"{key[1]} in {line!r}"


@each_page
def test_other_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        if line.startswith("make "):
            words = [word for word in line.split()[1:] if "=" not in word and not word.startswith("-")]
            assert set(words) <= targets, line
        for module in re.findall(r"python -m ([\w.|]+)", line):
            for name in module.split("|"):
                place = ROOT / name.replace(".", "/")
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() or name == "pytest", line
        for script, rest in re.findall(r"((?:benchmarks|deploy)/[\w/]+\.py)([^|>`]*)", line):
            source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / script).parent.glob("*.py"))
            assert all(f'"{option}"' in source for option in re.findall(r"--[\w-]+", rest)), line


def test_the_architecture_has_a_row_for_each_folder() -> None:
    rooms = set(re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE))
    ours = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert ours - rooms - {"runs", "docs", "build", "models"} == set()
    assert rooms - ours == set()


def test_the_suites_files_are_listed() -> None:
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    for suite in builtin_suites().values():
        family = re.sub(r"_(?:[a-z]{2}|cpp|java|js|php|sh)$", "_LANGUAGE", suite.name)
        assert f"`{suite.name}`" in page or f"`{family}`" in page, suite.name
        file = re.sub(r"_(?:cpp|java|js|cs|ts|php|sh)\.", "_LANGUAGE.", str(suite.source))
        assert f"`{file}`" in page or not file.endswith((".jsonl", ".gz")), suite.source

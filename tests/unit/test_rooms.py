"""The rooms' walls: who may import whom, and who starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"common", "broker", "actor", "evaluator", "learner", "recipes", "launcher"}
MAY_IMPORT = {
    "common": set(),
    "broker": {"common"},
    "actor": {"common"},
    "evaluator": {"common"},
    "learner": {"common"},
    "recipes": {"common", "learner"},
    "launcher": ROOMS,
}


def _imported_rooms(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_stay_within_the_walls(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    offenders = {
        str(file.relative_to(ROOT)): sorted(_imported_rooms(file) - allowed)
        for file in (ROOT / room).rglob("*.py")
        if _imported_rooms(file) - allowed
    }
    assert not offenders


@pytest.mark.parametrize("module", ["broker.server", "evaluator.loop", "launcher.cli"])
def test_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_packages_resolve_to_ours_from_anywhere() -> None:
    code = "import common, actor; print(common.__file__); print(actor.__file__)"
    out = subprocess.run([sys.executable, "-c", code], cwd="/", check=True, capture_output=True, text=True).stdout
    assert [Path(line).parent.parent for line in out.split()] == [ROOT, ROOT]

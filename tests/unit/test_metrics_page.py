"""docs/metrics.md says what the processes export, and nothing else; promtool finds nothing to object to."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.exported_metrics import MODULES
from tests.unit.metrics_table import SCRAPE_LABELS, Row, read

ROOT = Path(__file__).parents[2]
TABLE = read()
UNITS = {
    "seconds": r"_seconds(_total)?$|_seconds_since_progress$",
    "seconds since 1970": r"_timestamp_seconds$",
    "bytes": r"_bytes(_total)?$",
    "ratio": r"_ratio(_mean)?$",
    "nats": r"_nats$",
    "publishes": r"_publishes$|_version$",
}
"""How the names of metrics in these units end."""
MAKERS = ("Gauge", "Counter", "Histogram", "Summary", "Info", "Enum", "OptionalGauge", "TallyCollector")


def export(room: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.unit.exported_metrics", room]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=240).stdout


@pytest.fixture(scope="module", params=sorted(MODULES))
def exported(request: pytest.FixtureRequest) -> tuple[str, dict[str, dict[str, Any]], str]:
    """A room, its metrics by name, and its scrape."""
    text = export(request.param)
    families, _, scrape = text.partition("\n")
    return request.param, {family["name"]: family for family in json.loads(families)}, scrape


def described(room: str) -> dict[str, Row]:
    return {name: row for name, row in TABLE.items() if row.room in (room, "process")}


def test_the_page_and_the_processes_agree(exported: tuple[str, dict[str, dict[str, Any]], str]) -> None:
    room, families, _ = exported
    rows = described(room)
    assert sorted(families) == sorted(rows)
    assert {n: f["type"] for n, f in families.items()} == {n: row.type for n, row in rows.items()}
    assert {n: sorted(f["labels"]) for n, f in families.items()} == {n: sorted(row.labels) for n, row in rows.items()}


def test_label_values_are_those_of_the_page(exported: tuple[str, dict[str, dict[str, Any]], str]) -> None:
    room, families, _ = exported
    checked = 0
    for name, row in described(room).items():
        for label, listed in row.labels.items():
            seen = set(families[name]["labels"][label])
            if seen and "configuration" not in " ".join(listed):
                assert seen <= set(listed), f"{name}: {label}"
                checked += 1
    assert checked


def test_promtool_has_no_objection(exported: tuple[str, dict[str, dict[str, Any]], str]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: make monitoring-tools")
    _, _, scrape = exported
    done = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True, text=True, timeout=60)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("zeroq_")]
    assert not ours
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_are_made_where_the_others_look_for_them() -> None:
    """Else a room could export what its list of modules, and so this page, does not know."""
    known = {ROOT / f"{module.replace('.', '/')}.py" for modules in MODULES.values() for module in modules}
    known.add(ROOT / "common" / "metrics.py")
    made = set()
    for room in ("common", "broker", "actor", "evaluator", "learner", "launcher"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if '"zeroq_' in text and any(map(_makes_a_metric, ast.walk(ast.parse(text)))):
                made.add(path)
    assert made <= known
    assert len(made) > len(MODULES)


def _makes_a_metric(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in MAKERS or not node.args:
        return False
    name = node.args[0]
    return isinstance(name, ast.Constant) and str(name.value).startswith("zeroq_")


def test_every_name_ends_in_its_unit() -> None:
    for row in TABLE.values():
        if row.unit in UNITS:
            assert re.search(UNITS[row.unit], row.name), f"{row.name} is in {row.unit}"
        assert row.name.endswith("_total") == (row.type == "counter"), row.name
        assert row.meaning.endswith("."), row.name


def test_no_metric_has_a_label_that_the_scrape_adds_or_an_id() -> None:
    for row in TABLE.values():
        assert not SCRAPE_LABELS & set(row.labels), row.name
        assert not [label for label in row.labels if label.endswith("id") or label in ("name", "task", "pid")], row.name


def test_every_histogram_has_its_buckets_argued() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    argued = page[page.index("## Buckets") :]
    for row in TABLE.values():
        if row.type == "histogram":
            ends = [row.name, *(f"...{row.name[at:]}" for at in range(len(row.name)) if row.name[at] == "_")]
            assert any(f"`{end}`" in argued for end in ends), row.name

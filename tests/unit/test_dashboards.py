"""Grafana's dashboards: what is committed is what the panels say, and what the panels say is what processes export."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launcher.panels import BOARDS
from launcher.panels.model import Board, Panel, Row, Target
from launcher.promql.syntax import parse, selectors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
PREFIXES = ("ALERTS", "up", "DCGM_", "process_")  # of Prometheus twice, of NVIDIA's exporter, of the Prometheus client


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_dashboards", ROOT / "deploy" / "grafana" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def expressions(board: Board) -> list[tuple[Panel, Target]]:
    return [(panel, target) for panel in board.panels for target in panel.targets]


def metrics_of(expr: str) -> set[str]:
    return {selector.name for selector in selectors(parse(expr.replace("$__rate_interval", "1m")))}


def documented() -> set[str]:
    return set(re.findall(r"^\| `(zeroq_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))


def test_committed_files_are_current(generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert generate.main(["--check"]) == 0, "run: python deploy/grafana/generate.py"
    (tmp_path / "overview.json").write_text("{}")
    (tmp_path / "removed.json").write_text("{}")
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
    assert generate.main(["--check"]) == 0


def test_a_dashboard_fits_a_configmap(generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(path.stat().st_size < 256 * 1024 for path in FOLDER.glob("*.json"))
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "MAX_BYTES", 1000)
    assert generate.main([]) == 1


def test_the_nine_are_there_under_their_own_names() -> None:
    found = dashboards()
    assert set(found) == {board.name for board in BOARDS}
    assert {
        "overview",
        "learning",
        "broker",
        "actors",
        "evaluators",
        "learner",
        "weights",
        "autoscaler",
        "gpus",
    } == set(found)
    assert {made["uid"] for made in found.values()} == {f"zeroq-{name}" for name in found}


def test_every_metric_of_the_table_is_on_a_panel_and_no_other() -> None:
    used = {name for board in BOARDS for _, target in expressions(board) for name in metrics_of(target.expr)}
    table = documented()
    plain = {name if name in table else re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert {name for name in plain - table if not name.startswith(PREFIXES)} == set()
    assert table - plain == set()


def test_a_legend_names_labels_that_the_expression_keeps() -> None:
    for board in BOARDS:
        for panel, target in expressions(board):
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby ?\(([^)]*)\)", target.expr))))
            assert set(re.findall(r"\{\{(\w+)\}\}", target.legend)) <= kept, (board.name, panel.title)


def test_several_lines_of_a_panel_have_names() -> None:
    for board in BOARDS:
        for panel in board.panels:
            assert panel.kind == "stat" or len({target.legend for target in panel.targets}) == len(panel.targets)
            assert panel.kind != "stat" or len(panel.targets) == 1, panel.title
            assert panel.description.endswith("."), panel.title


def test_every_selector_of_ours_is_scoped_to_the_chosen_namespace() -> None:
    for name, made in dashboards().items():
        for panel in made["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"].replace("$__rate_interval", "1m")
                for selector in selectors(parse(expr)):
                    scoped = [m for m in selector.matchers if m.label == "namespace" and m.value == "$namespace"]
                    assert len(scoped) == (0 if selector.name.startswith("DCGM_") else 1), (name, expr)


def test_a_choice_of_processes_applies_to_their_metrics_alone(generate: ModuleType) -> None:
    board = Board("actors", "Actors", "", (Row("", ()),), by_instance=True)
    assert generate.scoped("sum(zeroq_actor_state)", board) == (
        'sum(zeroq_actor_state{namespace=~"$namespace", instance=~"$instance"})'
    )
    assert generate.scoped('a{x="1"} / a / zeroq_broker_peers', board) == (
        'a{namespace=~"$namespace", x="1"} / a{namespace=~"$namespace"} / zeroq_broker_peers{namespace=~"$namespace"}'
    )
    mine = 'process_cpu_seconds_total{component="actor"}'
    assert 'instance=~"$instance", component="actor"' in generate.scoped(mine, board)
    assert "instance" not in generate.scoped('process_cpu_seconds_total{component="learner"}', board)


def test_a_figure_of_the_moment_is_not_an_old_one() -> None:
    """A range query would show the last value of the whole range, in green, of a process that is gone."""
    figures = {p["title"]: p for p in dashboards()["overview"]["panels"] if p["type"] == "stat"}
    for title in ("Learner starved", "Processes ready", "Staleness violations", "Time left"):
        assert figures[title]["targets"][0].get("instant"), title
        assert not figures[title]["targets"][0].get("range"), title
    assert figures["Reward"]["targets"][0]["range"]


def test_alerts_are_those_of_the_chosen_namespace() -> None:
    exprs = [target["expr"] for p in dashboards()["overview"]["panels"] for target in p.get("targets", [])]
    asked = [expr for expr in exprs if "ALERTS" in expr]
    assert len(asked) == 2
    assert all('ALERTS{namespace=~"$namespace", alertstate="firing"' in expr for expr in asked)


def test_variables_that_are_used_exist() -> None:
    for made in dashboards().values():
        text = json.dumps([panel.get("targets", []) for panel in made["panels"]])
        used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
        assert used <= {variable["name"] for variable in made["templating"]["list"]}


def test_panels_lie_within_the_grid_and_on_no_other() -> None:
    for name, made in dashboards().items():
        taken: dict[tuple[int, int], str] = {}
        ids = [panel["id"] for panel in made["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in made["panels"]:
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert x < 24, (name, panel["title"])
                    assert (x, y) not in taken, (name, panel["title"], taken.get((x, y)))
                    taken[x, y] = panel["title"]

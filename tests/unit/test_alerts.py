"""deploy/prometheus: every alert fires and stays quiet, says what to do, and reads metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.metrics_table import SCRAPE_LABELS, read

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
CASES = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks.md"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}
TABLE = read()
WANTED = {
    *("StalenessViolated", "LearnerStarved", "BrokerDown", "QueueNearBound", "LeaseExpiries", "PoisonGroups"),
    *("AuthFailures", "PublishStalled", "StaleActors", "BroadcastAbortLoop", "EvaluatorBacklog", "CheckpointOld"),
    *("SlowFsync", "FleetBelowFloor", "TrainInferenceKlHigh", "AutoscalerFlapping", "MetricsAbsent"),
}
MADE_BY_PROMETHEUS = {"up"}
_FUNCTIONS = {"sum", "max", "count", "increase", "rate", "time", "absent", "vector", "avg_over_time"}
_WORDS = {"by", "on", "and", "or", "unless", "group_left"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: make monitoring-tools"
)


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Metrics that an expression reads, each with the values that it asks of labels."""
    bare = re.sub(r"\b(by|on|group_left|without)\s*\([^)]*\)", r"\1", expression)
    for name, matchers in re.findall(r"\b([a-z_]\w*)\b(?:\{([^}]*)\})?", re.sub(r"\[\w+\]", "", bare)):
        if name not in _FUNCTIONS | _WORDS and name not in _names_in_braces(bare):
            yield name, dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers))


def _names_in_braces(expression: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(re.findall(r"\{[^}]*\}", expression))))


def known_series() -> dict[str, str]:
    """Series names and the metrics that they belong to."""
    return {series: row.name for row in TABLE.values() for series in row.series}


def test_all_alerts_are_there() -> None:
    assert {f"Zeroq{name}" for name in WANTED} <= set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "$value" in rule["annotations"]["description"], "the figure belongs into the description"
    assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"


def test_each_runbook_is_of_an_alert_and_says_where_to_look() -> None:
    sections = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    assert sorted(titles) == sorted(ALERTS)
    for title, section in zip(titles, sections, strict=True):
        advice = "- Do:" in section and "- Look:" in section
        assert advice or "- `" in section, f"{title}: neither what to look at nor what to do"


def test_links_of_the_runbooks_lead_somewhere() -> None:
    text = RUNBOOKS.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        page = RUNBOOKS.parent / name if name else RUNBOOKS
        assert page.exists(), target
        assert not anchor or anchor in _anchors(page), target
    for metric in re.findall(r"`(zeroq_\w+)", text):
        assert metric in TABLE or metric in known_series(), f"{metric}: no such metric"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_read_metrics_that_exist(name: str) -> None:
    read_here = list(selectors(ALERTS[name]["expr"]))
    assert read_here
    for metric, asked in read_here:
        if metric in MADE_BY_PROMETHEUS:
            assert set(asked) <= SCRAPE_LABELS
            continue
        row = TABLE[known_series()[metric]]
        for label, values in asked.items():
            if label not in SCRAPE_LABELS:
                assert set(values.split("|")) <= set(row.labels[label]), f"{metric}: {label}"


def test_the_page_names_the_alerts_of_each_metric() -> None:
    used: dict[str, set[str]] = {name: set() for name in TABLE}
    for alert, rule in ALERTS.items():
        for metric, _ in selectors(rule["expr"]):
            if metric not in MADE_BY_PROMETHEUS:
                used[known_series()[metric]].add(alert)
    assert {name: set(row.alerts) for name, row in TABLE.items()} == used


def test_every_alert_is_seen_firing_and_quiet_with_data_there() -> None:
    fired, quiet = set(), set()
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            given = {series["series"].partition("{")[0] for series in case["input_series"]}
            for check in case["alert_rule_test"]:
                name = check["alertname"]
                assert case["name"].startswith(f"{name}:")
                (fired if check["exp_alerts"] else quiet).add(name)
                if not check["exp_alerts"]:
                    assert {metric for metric, _ in selectors(ALERTS[name]["expr"])} & given, case["name"]
    assert fired == quiet == set(ALERTS)


@needs_promtool
def test_promtool_accepts_rules_and_cases() -> None:
    assert _promtool("check", "rules", str(RULES)).returncode == 0
    done = _promtool("test", "rules", *map(str, CASES))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(("expression", "fires"), [("vector(1) > 2", False), ("vector(1) > 0", True)])
def test_the_cases_notice_rules_that_never_or_always_fire(tmp_path: Path, expression: str, fires: bool) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expression
            rule.pop("for", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / "tests").mkdir()
    for path in CASES:
        shutil.copy(path, tmp_path / "tests")
    done = _promtool("test", "rules", *(str(tmp_path / "tests" / path.name) for path in CASES))
    assert done.returncode != 0
    report = done.stdout + done.stderr
    compared = re.findall(
        r"alertname: (\w+), time: .*?\n\s+exp:(\[\]|\[).*?\n\s+got:(\[\]|\[)", report, flags=re.DOTALL
    )
    noticed = {name for name, wanted, got in compared if (wanted == "[]") == fires and (got == "[]") != fires}
    assert noticed == set(ALERTS)


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)

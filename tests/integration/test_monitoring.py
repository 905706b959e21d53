"""A real Prometheus scrapes a real run: every expression of dashboards and alerts returns data, and the page agrees.

One run of the demo's miniature with `--monitor`, looked at while it goes on, then after its end. What may be empty here
stands in `EMPTY` with its reason; what stands there and is not empty is an error, too.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.lifecycle import RunPaths
from launcher.panels import BOARDS
from launcher.promql.evaluate import Samples, evaluate
from launcher.promql.syntax import Selector, parse, selector_text, selectors
from launcher.watch.page import render_body
from launcher.watch.query import PrometheusSource, QueryFailed
from launcher.watch.scrape import ScrapeSource
from launcher.watch.source import Span
from launcher.watch.watcher import Watcher
from tests.integration.river_rig import ROOT, events, left_over, metrics, pids, running, until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (make monitoring-tools)"
    ),
]

EMPTY = {
    r"DCGM_\w+": "this machine has no NVIDIA GPU and no dcgm-exporter",
    r"zeroq_learner_mfu_ratio": "a CPU's peak is not known",
    r"zeroq_evaluator_programs?_(seconds|cpu_seconds|total)\w*": "the run has no programs to grade",
    r"zeroq_evaluator_scores?_\w+": "the run has no reward model",
    r"zeroq_autoscaler_\w+\{role=\"actor\"\}": "a local autoscaler has a say about evaluators alone",
    r"ALERTS": "nothing is wrong",
}
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
SETTINGS = (
    "--monitor",
    "learner.max_steps=2000",
    "learner.checkpoint_every_steps=3",
    "learner.loss.kl_coef=0.001",
    "eval.every_steps=4",
    "eval.samples=1",
    "cold_start.steps=5",
    "autoscaler.enabled=true",
    "evaluator.max_restarts=3",
)
STEPS = 8


@dataclass
class Live:
    """The run, and its Prometheus."""

    process: subprocess.Popen[bytes]
    folder: Path
    source: PrometheusSource

    def ask(self, expr: str, moment: float | None = None) -> list[dict[str, Any]]:
        """The answer to an expression, at a moment (unix seconds)."""
        at = {} if moment is None else {"time": f"{moment:.3f}"}
        answer = self.source.ask("query", {"query": expr} | at)
        return answer["result"] if answer["resultType"] != "scalar" else [{"metric": {}, "value": answer["result"]}]

    def has_data(self, expr: str) -> bool:
        """Whether at least one finite number comes back."""
        return any(math.isfinite(float(series["value"][1])) for series in self.ask(expr))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("monitored")
    with running(folder, *SETTINGS) as (process, run):
        log = folder / "launcher.log"
        until(lambda: len(metrics(run)) >= STEPS, process, log, timeout_s=240)
        source = PrometheusSource((run / "prometheus" / "url").read_text())
        until(lambda: len(active_targets(source)) == len(pids(run)), process, log, timeout_s=30)
        made = Live(process, run, source)
        until(lambda: made.has_data(f"zeroq_learner_step >= {STEPS}"), process, log, timeout_s=30)
        time.sleep(5)  # two scrapes of what happened last: rates need them
        yield made


def active_targets(source: PrometheusSource) -> dict[str, str]:
    """Address of each process that answered the last scrape."""
    try:
        targets = source.ask("targets", {"state": "active"})["activeTargets"]
    except QueryFailed:
        return {}
    return {t["labels"]["instance"]: t["scrapeUrl"] for t in targets if t["health"] == "up"}


def excused(expr: str, pattern: str) -> set[str]:
    """Selectors in an expression, without the choices of a dashboard, that a pattern of EMPTY is about."""
    found = set()
    for selector in selectors(parse(expr)):
        chosen = tuple(matcher for matcher in selector.matchers if matcher.value != ".*")
        text = selector_text(Selector(selector.name, chosen))
        if re.fullmatch(pattern, text) or re.fullmatch(pattern, selector.name):
            found.add(text)
    return found


def may_be_empty(expr: str) -> bool:
    return any(excused(expr, pattern) for pattern in EMPTY)


def substituted(expr: str) -> str:
    """A dashboard's expression with its variables as Grafana fills them in when everything is chosen."""
    return expr.replace("$__rate_interval", "30s").replace("$namespace", ".*").replace("$instance", ".*")


def dashboard_expressions() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        made = json.loads(path.read_text())
        for panel in made["panels"]:
            for target in panel.get("targets", []):
                found.append((f"{path.stem}: {panel['title']}", substituted(target["expr"])))
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_dashboard_expression_returns_data(live: Live) -> None:
    expressions = dashboard_expressions()
    assert len(expressions) > 150
    empty = [(panel, expr) for panel, expr in expressions if not may_be_empty(expr) and not live.has_data(expr)]
    assert not empty, "\n".join(f"{panel}: {expr}" for panel, expr in empty)


def test_what_may_be_empty_is(live: Live) -> None:
    exprs = [expr for _, expr in dashboard_expressions()]
    for pattern, reason in EMPTY.items():
        absent = {text for expr in exprs for text in excused(expr, pattern)}
        assert absent, f"{pattern}: no panel shows it"
        for text in absent:
            assert not live.has_data(f"sum({text}) > 0"), f"{text} has data, so it is not true: {reason}"


def test_every_choice_of_a_dashboard_has_values(live: Live) -> None:
    for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] != "query" or variable["name"] == "namespace":  # a local run has no namespace
                continue
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", substituted(variable["query"]["query"]))
            assert found, variable
            assert live.ask(f"count by ({found[2]}) ({found[1]})"), variable


def test_every_alert_looks_at_something(live: Live) -> None:
    for rule in rules():
        live.ask(rule["expr"])  # Prometheus takes it
        if may_be_empty(rule["expr"]):
            continue
        for selector in selectors(parse(rule["expr"])):
            assert live.ask(selector_text(selector)), f"{rule['alert']}: {selector_text(selector)}"


def test_no_alert_fires_in_a_healthy_run(live: Live) -> None:
    groups = live.source.ask("rules", {"type": "alert"})["groups"]
    loaded = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(loaded) == {rule["alert"] for rule in rules() if "alert" in rule}
    assert {name for name, rule in loaded.items() if rule["health"] == "err"} == set()
    assert {name for name, rule in loaded.items() if rule["state"] == "firing"} == set()


def test_the_pages_arithmetic_is_prometheus_own(live: Live) -> None:
    """On the same samples, at the same moment, launcher/promql answers every panel as Prometheus does."""
    moment = round(time.time() - 1.0, 3)
    samples = Samples(keep_s=7200.0)
    for series in live.ask('{__name__=~"zeroq_.*|process_.*|up"}[11m]', moment):
        name = series["metric"].pop("__name__")
        for time_s, value in series["values"]:
            samples.add(name, series["metric"], float(time_s), float(value))
    compared = 0
    for board in BOARDS:
        for panel in board.panels:
            for target in panel.targets:
                expr = target.expr.replace("$__rate_interval", "30s").replace("[1h]", "[10m]")
                if "ALERTS" in expr:
                    continue
                theirs = {tuple(sorted(s["metric"].items())): float(s["value"][1]) for s in live.ask(expr, moment)}
                value = evaluate(parse(expr), samples, moment)
                ours = value if isinstance(value, dict) else {(): value}
                assert ours.keys() == theirs.keys(), expr
                for labels, number in theirs.items():
                    assert ours[labels] == pytest.approx(number, rel=1e-6, nan_ok=True), (
                        expr,
                        labels,
                    )  # they count in ms
                    compared += 1
    assert compared > 200


def test_the_page_shows_the_run_with_prometheus_and_without(live: Live) -> None:
    watcher = Watcher(RunPaths(live.folder))
    try:
        watcher.refresh()
        assert watcher.headline().source == "Prometheus"
        assert "autoscaler" in {board.name for board in watcher.boards}
        for board in watcher.boards:
            text = render_body(watcher, board, "5")
            assert "live" in text
            assert text.count('<section class="panel') >= len(board.panels) / 2, board.name
    finally:
        watcher.close()
    targets = [target for board in BOARDS if not board.in_cluster_only for p in board.panels for target in p.targets]
    alone = ScrapeSource(RunPaths(live.folder), targets)
    alone.scrape(1000.0)
    time.sleep(1.0)
    alone.scrape(1002.0)
    with_data = [t for t in targets if alone.lines(t, Span(0.0, 2000.0))]
    assert len(with_data) > 0.6 * len(targets), f"{len(with_data)} of {len(targets)}"


def test_a_killed_process_is_scraped_again_at_its_new_port(live: Live) -> None:
    before = active_targets(live.source)["evaluator-0"]
    os.kill(pids(live.folder)["evaluator-0"], signal.SIGKILL)

    def back() -> bool:
        return active_targets(live.source).get("evaluator-0", before) != before

    until(back, live.process, live.folder.parent / "launcher.log", timeout_s=60)
    assert [event["name"] for event in events(live.folder, "evaluator_restarted")] == ["evaluator-0"]


def test_it_ends_with_the_run_and_its_figures_stay(live: Live) -> None:
    live.process.send_signal(signal.SIGINT)
    live.process.wait(60)
    assert not left_over(live.folder)
    assert not live.source.ready()
    watcher = Watcher(RunPaths(live.folder))
    try:
        watcher.refresh()
        assert "replayed" in watcher.headline().source
        broker = next(board for board in BOARDS if board.name == "broker")
        text = render_body(watcher, broker, "all")
        assert 'class="state">stopped' in text
        assert text.count("<svg viewBox") > 10
    finally:
        watcher.close()
    assert not left_over(live.folder)

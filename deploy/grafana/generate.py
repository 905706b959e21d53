"""Writes Grafana's dashboards from launcher/panels to dashboards/*.json: `python deploy/grafana/generate.py [--check]`.

The panels stand in launcher/panels, because `zeroq watch --html` shows the same. Here they get what only Grafana knows:
a choice of data source, namespace and process, colours, places on the grid, links between the dashboards. `--check`
writes nothing and exits 1 when a file is not what it would write; tests/unit/test_dashboards.py does the same.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Threshold as GrafanaThreshold

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from launcher.panels import BOARDS  # noqa: E402
from launcher.panels.model import Board, Panel, Target, Unit  # noqa: E402
from launcher.promql.syntax import Selector, parse, selectors  # noqa: E402

FOLDER = Path(__file__).with_name("dashboards")
MAX_BYTES = 256 * 1024  # what an annotation, and so a ConfigMap applied by kubectl, may hold
_SOURCE = DataSourceRef("prometheus", "${datasource}")
_UNITS: dict[Unit, str] = {
    "count": "short",
    "number": "short",
    "version": "none",
    "seconds": "s",
    "ratio": "percentunit",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "per_second": "cps",
    "flops": "flops",
}
_COLOURS = {"good": "green", "warning": "orange", "bad": "red"}
_UNSCOPED = re.compile(r"DCGM_\w*")  # not of a zeroq process: they have no such labels


def scoped(expr: str, board: Board) -> str:
    """The expression with the dashboard's variables as conditions in each selector.

    An unset variable is `.*`, which also matches a label that is not there: local runs have no namespace.
    """
    chosen = list(selectors(parse(expr.replace("$__rate_interval", "1m"))))
    for name in sorted({selector.name for selector in chosen if not _UNSCOPED.fullmatch(selector.name)}):
        conditions = 'namespace=~"$namespace"'
        if board.by_instance and all(_of_fleet(selector, board) for selector in chosen if selector.name == name):
            conditions += ', instance=~"$instance"'
        expr = re.sub(rf"\b{name}\b(?!\{{)", f"{name}{{{conditions}}}", expr)
        expr = re.sub(rf"\b{name}\{{(?!namespace=~)", f"{name}{{{conditions}, ", expr)
    return expr


def _of_fleet(selector: Selector, board: Board) -> bool:
    """Whether the metric comes from the processes that the dashboard is about: `actors` are of component `actor`."""
    component = board.name.removesuffix("s")
    mine = any(matcher.label == "component" and component in matcher.value for matcher in selector.matchers)
    return selector.name.startswith(f"zeroq_{component}_") or mine


def build(board: Board) -> str:
    """The dashboard as JSON text."""
    made = (
        dashboard.Dashboard(f"zeroq / {board.title}")
        .uid(f"zeroq-{board.name}")
        .description(board.description)
        .tags(["zeroq"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("zeroq")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["zeroq"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if board.name != "gpus":
        made.with_variable(_choice("namespace", "Namespace", "label_values(zeroq_process_ready, namespace)"))
    if board.by_instance:
        component = board.name.removesuffix("s")
        query = f'label_values(zeroq_process_ready{{namespace=~"$namespace", component=~"{component}.*"}}, instance)'
        made.with_variable(_choice("instance", board.title, query))
    number = iter(range(1, 1000))
    for row in board.rows:
        made.with_row(dashboard.Row(row.title).id(next(number)))
        for panel in row.panels:
            made.with_panel(_panel(panel, board).id(next(number)))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable whose values are those of a label; everything is chosen at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(True, "All", "$__all"))
    )


def _panel(panel: Panel, board: Board) -> stat.Panel | timeseries.Panel:
    built = _figure(panel) if panel.kind == "stat" else _chart(panel)
    built.title(panel.title).description(panel.description).datasource(_SOURCE).unit(_UNITS[panel.unit])
    built.span(panel.width).height(4 if panel.kind == "stat" else 8)
    if panel.low is not None:
        built.min(panel.low)
    if panel.high is not None:
        built.max(panel.high)
    steps = [GrafanaThreshold(None, "green" if panel.thresholds else "text")]
    if panel.thresholds and panel.thresholds[0].value == float("-inf"):
        steps = []
    steps += [
        GrafanaThreshold(None if limit.value == float("-inf") else limit.value, _COLOURS[limit.level])
        for limit in panel.thresholds
    ]
    built.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for reference, target in zip(_references(), panel.targets, strict=False):
        query = _query(target, board, reference)
        built.with_target(query.instant() if panel.of_the_moment else query.range())
    return built


def _references() -> Iterator[str]:
    yield from "ABCDEFGHIJKLMNOP"


def _query(target: Target, board: Board, reference: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(scoped(target.expr, board)).ref_id(reference)
    return query.legend_format(target.legend or "__auto").datasource(_SOURCE)


def _figure(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .graph_mode(BigValueGraphMode.NONE if panel.of_the_moment else BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE if panel.thresholds else BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )


def _chart(panel: Panel) -> timeseries.Panel:
    chart = (
        timeseries.Panel()
        .draw_style(GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if panel.kind == "stacked" else 8)
        .show_points(VisibilityMode.AUTO)
        .span_nulls(120_000)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.kind == "stacked":
        chart.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.thresholds:
        chart.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    return chart


def generated() -> dict[str, str]:
    """Text of each file, by name."""
    return {f"{board.name}.json": build(board) for board in BOARDS}


def main(arguments: list[str]) -> int:
    """Write the files; returns the exit code."""
    files = generated()
    old = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    if arguments == ["--check"]:
        wrong = sorted(name for name in files.keys() | old.keys() if files.get(name) != old.get(name))
        for name in wrong:
            print(f"{FOLDER / name}: not current; run python deploy/grafana/generate.py", file=sys.stderr)
        return int(bool(wrong))
    FOLDER.mkdir(exist_ok=True)
    for name in old.keys() - files.keys():
        (FOLDER / name).unlink()
    for name, text in files.items():
        if len(text.encode()) > MAX_BYTES:
            print(f"{name}: {len(text.encode())} bytes, a ConfigMap holds {MAX_BYTES}", file=sys.stderr)
            return 1
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

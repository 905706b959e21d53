"""Owns what a panel is: PromQL expressions with a title and a unit, told neither to Grafana nor to the page alone.

Expressions are PromQL with `$__rate_interval` for the window of rates. Metrics are named without the labels that say
where a target runs: deploy/grafana/generate.py adds the dashboard's own variables to every selector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["count", "seconds", "ratio", "bytes", "per_second", "bytes_per_second", "number", "version", "flops"]
Kind = Literal["lines", "stacked", "stat"]


@dataclass(frozen=True)
class Target:
    """One expression. `legend`: the name of each series, with `{{label}}` filled in (empty: the panel's title);
    `row`: key in metrics.jsonl (`eval/KEY`: of the evaluations in events.jsonl) that has the same figure for each step,
    exactly and also for runs that nobody scraped; `*` in it: one line for each key that fits."""

    expr: str
    legend: str = ""
    row: str | None = None


@dataclass(frozen=True)
class Threshold:
    """From `value` on the figure is `level`."""

    value: float
    level: Literal["good", "warning", "bad"]


@dataclass(frozen=True)
class Panel:
    """A chart or a figure. `width`: of 24 columns; `low`, `high`: the axis's ends where they are known; `thresholds`:
    ascending, good below the first; `description`: what it means and what to do when it is wrong."""

    title: str
    description: str
    targets: tuple[Target, ...]
    unit: Unit = "count"
    kind: Kind = "lines"
    width: int = 8
    low: float | None = 0.0
    high: float | None = None
    thresholds: tuple[Threshold, ...] = ()

    @property
    def of_the_moment(self) -> bool:
        """Whether it is a figure that means nothing once it is old: `0 % starved` of a learner that died an hour ago.
        Figures of steps stay true until the next step."""
        return self.kind == "stat" and not any(target.row for target in self.targets)


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard. `by_instance`: it has a choice of processes; `in_cluster_only`: its metrics come from parts of a
    cluster that a local run does not have, so the page leaves it out."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    by_instance: bool = False
    in_cluster_only: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def good_above(warning: float, good: float) -> tuple[Threshold, ...]:
    """Bad below `warning`, good from `good` on."""
    return (Threshold(float("-inf"), "bad"), Threshold(warning, "warning"), Threshold(good, "good"))


def bad_above(warning: float, bad: float) -> tuple[Threshold, ...]:
    """Good below `warning`, bad from `bad` on."""
    return (Threshold(warning, "warning"), Threshold(bad, "bad"))

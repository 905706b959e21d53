"""Owns where a panel's lines come from: the interface, and the figures that the run itself writes for each step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.lifecycle import RunPaths
from launcher.monitor import LineTail, Row, RunView
from launcher.panels.model import Panel, Target

MIN_RATE_WINDOW_S = 30.0


@dataclass(frozen=True)
class Line:
    """A named series; points are (unix seconds, value), in order of time, finite."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Span:
    """The time that is looked at, unix seconds."""

    start: float
    end: float


class Source(Protocol):
    """Answers expressions."""

    name: str

    def lines(self, target: Target, span: Span) -> list[Line]:
        """Series of the expression within `span`; none where there are no data."""

    def close(self) -> None:
        """Give back what it holds."""


class NoSource:
    """Of a run that has ended and was not scraped."""

    name = "the run's files"

    def lines(self, target: Target, span: Span) -> list[Line]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing to do."""


class StepRows:
    """Lines of metrics.jsonl and evaluations of events.jsonl: exact, for each step, and there after the run."""

    def __init__(self, paths: RunPaths) -> None:
        self.view = RunView()
        self._metrics, self._events = LineTail(paths.metrics), LineTail(paths.events)

    def refresh(self) -> None:
        """Read what is new."""
        self.view.add_events(self._events.read())
        self.view.add_metrics(self._metrics.read())

    def lines(self, row_key: str, legend_text: str, span: Span) -> list[Line]:
        """The line of a key, or of each key where it has a `*`; none if no row has it."""
        evaluation = row_key.startswith("eval/")
        rows = self.view.evaluations if evaluation else self.view.rows
        inside = [row for row in rows if span.start <= row["time"] <= span.end]
        found = []
        for key, name in self._keys(row_key.removeprefix("eval/"), legend_text, inside):
            values = ((float(row["time"]), row.get(key)) for row in inside)
            points = tuple((t, float(v)) for t, v in values if isinstance(v, int | float) and math.isfinite(v))
            if points:
                found.append(Line(name, points))
        return found

    @staticmethod
    def _keys(row_key: str, legend_text: str, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(key, name): with a `*`, what stands in its place is the name."""
        before, star, after = row_key.partition("*")
        if not star:
            return [(row_key, legend_text)]
        keys = sorted({key for row in rows for key in row if key.startswith(before) and key.endswith(after)})
        return [(key, key[len(before) : len(key) - len(after)]) for key in keys]


def panel_lines(panel: Panel, steps: StepRows, source: Source, span: Span) -> list[Line]:
    """All lines of a panel: from the run's own rows where a target names a key of them, else the source's answer.

    A gauge that stands for a row is zero before the first step; the rows have nothing there, which is the truth.
    """
    found: list[Line] = []
    for target in panel.targets:
        lines = steps.lines(target.row, target.legend, span) if target.row else source.lines(target, span)
        found += [Line(line.name or panel.title, line.points) for line in lines]
    return found


def legend(template: str, labels: Mapping[str, str]) -> str:
    """A series' name: `{{label}}` replaced by the label's value."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), template)


def thinned(points: Sequence[tuple[float, float]], most: int) -> tuple[tuple[float, float], ...]:
    """At most about `most` of the points, evenly, the last one included."""
    stride = max(1, -(-len(points) // most))
    return tuple(points[(len(points) - 1) % stride :: stride])

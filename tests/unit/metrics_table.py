"""Reads the tables of docs/metrics.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SCRAPE_LABELS = frozenset({"job", "component", "instance", "namespace"})
_SECTIONS = {
    "Every process": "process",
    "Broker": "broker",
    "Actor": "actor",
    "Weights, on the actor": "actor",
    "Weights, on the learner": "learner",
    "Evaluator": "evaluator",
    "Learner": "learner",
    "Autoscaler": "autoscaler",
}
_LABEL = re.compile(r"`(\w+)`(?:: ([^;]*))?")


@dataclass(frozen=True)
class Row:
    """One metric. `labels`: values by name; empty where the page names none."""

    name: str
    room: str
    type: str
    unit: str
    labels: dict[str, tuple[str, ...]]
    meaning: str
    alerts: tuple[str, ...]

    @property
    def series(self) -> list[str]:
        """Names under which Prometheus knows it."""
        if self.type == "histogram":
            return [f"{self.name}_{part}" for part in ("bucket", "sum", "count")]
        return [self.name]


def read() -> dict[str, Row]:
    """All metrics by name."""
    rows: dict[str, Row] = {}
    room = ""
    values: dict[str, tuple[str, ...]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            room = _SECTIONS.get(line[3:], "")
        if not room or not line.startswith("| `zeroq_"):
            continue
        name, kind, unit, labels, meaning, alerts = (cell.strip() for cell in line.strip("|").split("|"))
        named = {}
        for label, listed in _LABEL.findall(labels):
            given = tuple(value.strip() for value in listed.split(",")) if listed else ()
            if given:
                values[label] = given
            named[label] = given or values.get(label, ())
        name = name.strip("`")
        assert name not in rows, f"{name} is described twice"
        alerted = tuple(alert.strip() for alert in alerts.split(",") if alert.strip())
        rows[name] = Row(name, room, kind, unit, named, meaning, alerted)
    return rows

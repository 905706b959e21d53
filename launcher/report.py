"""Owns report.html: one file that a person can read anywhere, with figures as PNGs inside it (and in DIR/plots)."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from common.config import RunConfig, load_config
from common.errors import UserError
from common.lifecycle import RunPaths, write_atomic
from launcher.display import number
from launcher.monitor import LineTail, Row, RunView
from launcher.plots import draw_all
from launcher.reward_plots import draw_rewards
from launcher.samples import Filters, read_samples, sample_files
from launcher.summary import summary_rows

_NUM_SAMPLES = 12
_T = TypeVar("_T")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(paths: RunPaths, summary: dict[str, Any] | None = None) -> Path:
    """Write DIR/report.html and DIR/plots/*.png from what the run has left so far; returns the report's path."""
    view = read_view(paths)
    config = read_config(paths)
    plots = draw_all(view) | (draw_rewards(view, config) if config else {})
    (paths.root / "plots").mkdir(exist_ok=True)
    for name, (_, png) in plots.items():
        (paths.root / "plots" / f"{name}.png").write_bytes(png)
    write_atomic(paths.report, render_report(paths, view, plots, summary))
    return paths.report


def read_config(paths: RunPaths) -> RunConfig | None:
    """The run's configuration; None where it is missing or of another version."""
    try:
        return load_config(paths.config) if paths.config.exists() else None
    except UserError:  # a report of all else is better than none
        return None


def read_view(paths: RunPaths) -> RunView:
    """The run's past, from its files."""
    view = RunView()
    view.add_events(LineTail(paths.events).read())
    view.add_metrics(LineTail(paths.metrics).read())
    return view


def render_report(
    paths: RunPaths, view: RunView, plots: dict[str, tuple[str, bytes]], summary: dict[str, Any] | None
) -> str:
    """The page. Without a summary it says that the run is not finished."""
    name = html.escape(paths.root.name)
    result = summary["result"] if summary else "not finished"
    parts = [f"<h1>{name}</h1><p>Result: <b>{html.escape(str(result))}</b>. Steps: {view.step}.</p>"]
    if summary:
        parts.append(_summary_table(summary))
    parts += [
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, png in plots.values()
    ]
    parts.append(_restarts(view.restarts))
    parts.append(_samples(paths.root / "samples"))
    for title, path in (("Configuration", paths.config), ("Versions", paths.versions)):
        if path.exists():
            parts.append(
                f"<h2>{title}</h2><pre>{html.escape(path.read_text(encoding='utf-8', errors='replace'))}</pre>"
            )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
    return head + "\n".join(part for part in parts if part) + "</html>\n"


def _summary_table(summary: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(title)}</td><td class="number">{html.escape(first)}</td>'
        f'<td class="number">{html.escape(second)}</td></tr>'
        for title, first, second in summary_rows(summary)
    )
    return f"<table><tr><th>figure</th><th>before / value</th><th>after</th></tr>{rows}</table>"


def _restarts(restarts: list[Row]) -> str:
    if not restarts:
        return ""
    items = "".join(f"<li>{html.escape(str(r.get('name')))}: {html.escape(str(r.get('exit')))}</li>" for r in restarts)
    return f"<h2>Restarts</h2><ul>{items}</ul>"


def _samples(folder: Path) -> str:
    """Responses from first to last step, evenly picked; `zeroq samples` shows the others."""
    if not any(folder.glob("samples*.parquet")):
        return ""
    try:
        files = _evenly([path for _, path in sample_files(folder)], 2 * _NUM_SAMPLES)  # all could be gigabytes
        samples = [sample for path in files for sample in read_samples(path, Filters(), None).samples]
    except UserError as error:  # a report of all else is better than none
        return f"<h2>Responses</h2><p>{html.escape(str(error))}</p>"
    rows = "".join(
        f"<tr><td>{number(sample.step, 0)}</td><td>{number(sample.reward, 2)}</td>"
        f"<td><pre>{html.escape(sample.prompt)}\n{html.escape(sample.text)}</pre></td></tr>"
        for sample in _evenly(samples, _NUM_SAMPLES)
    )
    return f"<h2>Responses</h2><table><tr><th>step</th><th>reward</th><th>prompt and response</th></tr>{rows}</table>"


def _evenly(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of them from the first to the last."""
    count = min(count, len(items))
    return [items[i * (len(items) - 1) // max(1, count - 1)] for i in range(count)]


def load_summary(paths: RunPaths) -> dict[str, Any] | None:
    """DIR/summary.json, if the run has ended and left one that can be read."""
    try:
        loaded = json.loads(paths.summary.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) and "result" in loaded else None

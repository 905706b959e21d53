"""Owns what is left for a person of a supervised job: the table at its end, and report.html with its curves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.lifecycle import RunPaths, write_atomic
from launcher import page
from launcher.display import clock
from launcher.monitor import LineTail, RunView
from launcher.plots import count_steps, running_mean, series, to_png

_FIGURES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "loss": ("Loss of response tokens, nats", (("loss", "training"), ("eval_loss", "held out"))),
    "accuracy": (
        "Share of response tokens that are the model's likeliest",
        (("mean_token_accuracy", "training"), ("eval_mean_token_accuracy", "held out")),
    ),
    "pairs": ("Accuracy", (("accuracy", "training"), ("eval_accuracy", "held out"))),
    "rate": ("Learning rate", (("learning_rate", "learning rate"),)),
    "norm": ("Norm of the gradients before clipping", (("grad_norm", "gradient norm"),)),
}
_TITLES = {
    "steps": "optimizer steps",
    "epochs": "epochs",
    "loss": "loss (last steps), nats a token",
    "mean_token_accuracy": "token accuracy (last steps)",
    "eval_loss": "held-out loss",
    "eval_mean_token_accuracy": "held-out token accuracy",
    "train_loss": "loss (last steps), nats",
    "train_accuracy": "accuracy (last steps)",
    "accuracy": "held-out accuracy",
    "auc": "held-out area under the curve",
    "length_correlation": "held-out correlation of score and length",
    "num_pairs": "pairs",
    "eval_accuracy": "held-out accuracy",
    "num_examples": "examples",
    "num_dropped": "examples left out (too long, empty)",
    "num_tokens": "tokens fed",
    "tokens_per_s": "tokens/s",
}
_SMOOTHED_FROM = 50


def write_job_report(paths: RunPaths) -> Path:
    """Write DIR/report.html from what the job has left so far, also of one that failed; returns its path."""
    view = RunView()
    view.add_metrics(LineTail(paths.metrics).read())
    summary = json.loads(paths.summary.read_text(encoding="utf-8")) if paths.summary.exists() else {}
    parts = [page.table(("figure", "value"), _rows(summary))]
    for caption, curves in _FIGURES.values():
        png = to_png(partial(_draw, curves), caption, view)
        if png is not None:
            parts.append(page.figure(caption, png))
    for title, path in (("Configuration", paths.config), ("Versions", paths.versions)):
        if path.exists():
            parts.append(f"<h2>{title}</h2>{page.text_block(path.read_text(encoding='utf-8'))}")
    write_atomic(paths.report, page.page(paths.root.name, parts))
    return paths.report


def print_job_summary(paths: RunPaths, summary: dict[str, Any], console: Console) -> None:
    """The table at the end of a job, and where everything is."""
    table = Table(title=f"{paths.root.name}: {summary['result']}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for title, value in _rows(summary):
        table.add_row(title, page.shown(value))
    console.print(table)
    lines = [f"report       {paths.report}", f"summary      {paths.summary}", f"logs         {paths.logs}"]
    if summary.get("checkpoint"):
        lines.insert(0, f"checkpoint   {summary['checkpoint']}")
    print("\n".join(lines), file=console.file, flush=True)


def _rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("result", summary.get("result", "not finished"))]
    rows += [(title, summary[name]) for name, title in _TITLES.items() if summary.get(name) is not None]
    if summary.get("wall_s") is not None:
        rows.append(("wall time", clock(summary["wall_s"])))
    return rows


def _draw(curves: tuple[tuple[str, str], ...], axes: Any, view: RunView) -> bool:
    """Curves of the metrics that there are; long noisy ones also as a running mean."""
    drawn = False
    for key, label in curves:
        steps, values = series(view.rows, key)
        if not values:
            continue
        drawn = True
        sparse = len(values) < len(view.rows) or len(values) == 1
        if sparse or len(values) < _SMOOTHED_FROM or len(curves) == 1:
            axes.plot(steps, values, label=label, marker="o" if sparse else "")
            continue
        window = len(values) // 25
        (line,) = axes.plot(steps, running_mean(values, window), label=f"{label}, mean of {window} steps")
        axes.plot(steps, values, alpha=0.25, color=line.get_color())
    count_steps(axes)
    return drawn

"""Owns the figures of a report, drawn with matplotlib (imported when the first one is asked for)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from launcher.monitor import Row, RunView

_SIZE = (8.0, 3.4)
_LEARNER_PARTS = (("time/wait_s", "waiting for groups"), ("time/pack_s", "packing"), ("time/train_s", "training"))
_PUBLISH = ("time/publish_s", "publishing weights")


def draw_all(view: RunView) -> dict[str, tuple[str, bytes]]:
    """PNG of every figure for which there are data: {file stem: (caption, PNG bytes)}."""
    drawers: dict[str, tuple[str, Callable[[Any, RunView], bool]]] = {
        "reward": ("Mean reward of the groups trained on, by optimizer step", _reward),
        "accuracy": ("Held-out accuracy: pass@1 and cons@k over k samples, and greedy", _accuracy),
        "length": ("Mean response length, tokens", _length),
        "staleness": ("Tokens trained on, by staleness in publishes", _staleness),
        "time": ("Where the learner's time went, seconds per step", _time),
        "phases": ("Where the run's time went, seconds per phase", _phases),
    }
    return {name: (caption, png) for name, (caption, draw) in drawers.items() if (png := to_png(draw, caption, view))}


def to_png(draw: Callable[[Any, RunView], bool], caption: str, view: RunView) -> bytes | None:
    """One figure; None when `draw(axes, view)` says that there is nothing to show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: it keeps global state and looks for a display

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if not draw(axes, view):
        return None
    axes.set_title(caption, loc="left", fontsize="medium")  # the PNG is looked at without the page, too
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def count_steps(axes: Any) -> None:
    """Label the x axis."""
    axes.set_xlabel("optimizer step")
    axes.xaxis.get_major_locator().set_params(integer=True)


def series(rows: Sequence[Row], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have the metric."""
    points = [(int(r["step"]), float(r[key])) for r in rows if isinstance(r.get(key), int | float)]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place (fewer at the start)."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - window) : i + 1])]


def _reward(axes: Any, view: RunView) -> bool:
    steps, values = series(view.rows, "reward")
    if not values:
        return False
    axes.plot(steps, values, alpha=0.35, color="tab:blue", label="step")
    axes.plot(steps, running_mean(values, 10), color="tab:blue", label="mean of 10 steps")
    count_steps(axes)
    return True


def _accuracy(axes: Any, view: RunView) -> bool:
    for key, label in (("pass_at_1", "pass@1"), ("cons_at_k", "cons@k"), ("greedy", "greedy")):
        steps, values = series(view.evaluations, key)
        if values:
            axes.plot(steps, values, marker="o", label=label)
    axes.set_ylim(0, 1)
    count_steps(axes)
    return bool(view.evaluations)


def _length(axes: Any, view: RunView) -> bool:
    steps, values = series(view.rows, "completions/mean_length")
    if values:
        axes.plot(steps, values, color="tab:green", label="training, all rollouts")
    held_out_steps, held_out = series(view.evaluations, "mean_length")
    if held_out:
        axes.plot(held_out_steps, held_out, color="tab:olive", marker="o", label="held-out")
    axes.set_ylim(bottom=0)
    count_steps(axes)
    return bool(values or held_out)


def _staleness(axes: Any, view: RunView) -> bool:
    tokens: dict[int, float] = {}
    for row in view.rows:
        for staleness, count in (row.get("sample/staleness_histogram") or {}).items():
            tokens[int(staleness)] = tokens.get(int(staleness), 0.0) + float(count)
    if not tokens:
        return False
    total = sum(tokens.values())
    keys = sorted(tokens)
    bars = axes.bar([str(k) for k in keys], [tokens[k] for k in keys], color="tab:purple")
    axes.bar_label(bars, [f"{tokens[k] / total:.1%}" for k in keys])
    axes.set_xlabel("staleness, publishes")
    return True


def _time(axes: Any, view: RunView) -> bool:
    rows = [r for r in view.rows if isinstance(r.get("time/train_s"), int | float)]
    if not rows:
        return False
    steps = [int(r["step"]) for r in rows]
    parts = [*_LEARNER_PARTS, _PUBLISH]
    axes.stackplot(steps, *[[float(r.get(key) or 0.0) for r in rows] for key, _ in parts], labels=[n for _, n in parts])
    count_steps(axes)
    return True


def _phases(axes: Any, view: RunView) -> bool:
    spent = view.phase_seconds(until=view.last_sign)
    if not spent:
        return False
    bars = axes.barh(list(spent)[::-1], list(spent.values())[::-1], color="tab:gray")
    axes.bar_label(bars, fmt="%.0f s", padding=3)
    axes.grid(axis="x", alpha=0.3)
    return True

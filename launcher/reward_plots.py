"""Owns a report's figures of reward components: format and language rates, and the watch for reward hacking."""

from __future__ import annotations

from functools import partial
from typing import Any

from common.config import RunConfig
from launcher.hacking import Watch
from launcher.monitor import RunView
from launcher.plots import count_steps, running_mean, series, to_png

_SMOOTH = 10
_RATES = ("format", "language")


def draw_rewards(view: RunView, config: RunConfig) -> dict[str, tuple[str, bytes]]:
    """PNG of every figure for which the run has components and data: {file stem: (caption, PNG bytes)}."""
    figures = {
        "rates": (f"Format and language consistency: share, mean of {_SMOOTH} steps", partial(_rates, config=config)),
        "hacking": (
            "Reward models against length and unrewarded quality: mean of general rollouts",
            partial(_hacking, watch=Watch.of(config)),
        ),
    }
    return {name: (caption, png) for name, (caption, draw) in figures.items() if (png := to_png(draw, caption, view))}


def _rates(axes: Any, view: RunView, *, config: RunConfig) -> bool:
    drawn = False
    for component in config.reward.components:
        if component.kind in _RATES:
            drawn |= _component(axes, view, component.name)[0]
    axes.set_ylim(0, 1.02)
    count_steps(axes)
    return drawn


def _hacking(axes: Any, view: RunView, *, watch: Watch) -> bool:
    """Scores and qualities on the left axis, the length of what is judged on the right one."""
    drawn: list[Any] = []
    for name in (*watch.scores, *watch.qualities):
        drawn += _component(axes, view, name, label=False)[1]
    if not watch.scores or not drawn:
        return False
    lengths = axes.twinx()
    for score in watch.scores:
        steps, values = series(view.rows, f"rewards/{score}/mean_length")
        if values:
            drawn += lengths.plot(steps, running_mean(values, _SMOOTH), color="tab:gray", linestyle="--")
            drawn[-1].set_gid(f"{score}: length")
    lengths.set_ylim(bottom=0)
    lengths.set_ylabel("tokens")
    lengths.spines["top"].set_visible(False)
    axes.set_ylabel("reward")
    count_steps(axes)
    names = [line.get_gid() for line in drawn]
    axes.legend(drawn, names, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=4)
    return True


def _component(axes: Any, view: RunView, name: str, *, label: bool = True) -> tuple[bool, list[Any]]:
    """A component while training as a line, and over held-out general prompts as points of the same colour."""
    lines: list[Any] = []
    steps, values = series(view.rows, f"rewards/{name}/mean")
    if values:
        lines += axes.plot(steps, running_mean(values, _SMOOTH))
        lines[-1].set_gid(name)
    steps, values = series(view.evaluations, f"general/{name}/mean")
    if values:
        colour = {"color": lines[0].get_color()} if lines else {}
        lines += axes.plot(steps, values, marker="o", linestyle="none", **colour)
        lines[-1].set_gid(f"{name}: held out")
    if label:
        for line in lines:
            line.set_label(line.get_gid())
    return bool(lines), lines

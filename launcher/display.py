"""Owns what a person sees while a run goes on: live bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import IO, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.config import RunConfig
from launcher.hacking import Watch, find_hacking
from launcher.monitor import RunView

PHASES = {
    "starting": "starting the processes",
    "loading": "loading the model",
    "cold_start": "cold-start SFT",
    "publishing": "publishing the first weights (waiting for actors)",
    "evaluating_before": "evaluating before training",
    "training": "training with GRPO",
    "evaluating_after": "evaluating after training",
    "done": "done",
}
PLAIN_EVERY_S = 10.0
_REFRESH_S = 0.5


class Display(Protocol):
    """Shows a run. A context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, view: RunView) -> None:
        """Show the run as it stands; called several times a second."""


def make_display(config: RunConfig, stream: IO[str] | None = None) -> Display:
    """Live on a terminal; plain lines without control characters on a pipe or in CI."""
    stream = stream or sys.stdout
    return LiveDisplay(config, Console(file=stream)) if stream.isatty() else PlainDisplay(config, stream)


def phase_progress(config: RunConfig, view: RunView) -> tuple[int, int] | None:
    """(done, total) of the phases that have a length."""
    if view.phase == "cold_start":
        event = view.cold_start
        return (int(event["step"]), int(event["of"])) if event else (0, config.cold_start.steps)
    if view.phase == "training":
        return view.step, config.learner.max_steps
    return None


def phase_note(config: RunConfig, view: RunView) -> str:
    """Progress and what matters in this phase, in words."""
    progress = phase_progress(config, view)
    if progress is None:
        return ""
    done, total = progress
    parts = [f"step {done}/{total}"]
    if view.phase == "cold_start" and view.cold_start:
        parts.append(f"loss {number(view.cold_start.get('loss'), 3)}")
    remaining = eta_s(config, view)
    if remaining is not None:
        parts.append(f"ETA {clock(remaining)}")
    return ", ".join(parts)


def eta_s(config: RunConfig, view: RunView) -> float | None:
    """Seconds of training left, by the pace of the last steps."""
    if view.phase != "training" or len(view.rows) < 2:
        return None
    last = view.rows[-10:]
    pace = (last[-1]["time"] - last[0]["time"]) / max(1, last[-1]["step"] - last[0]["step"])
    return max(0.0, float(pace) * (config.learner.max_steps - view.step))


def figures(view: RunView) -> list[tuple[str, str]]:
    """The table of the display: name and value."""
    row = view.rows[-1] if view.rows else {}
    evaluation = view.evaluations[-1] if view.evaluations else {}
    queues = (view.status or {}).get("queues", {})
    leases = (view.status or {}).get("leases", {})
    at = f" (step {evaluation['step']})" if evaluation else ""
    return [
        ("reward", number(view.recent("reward"), 3)),
        ("held-out pass@1", number(evaluation.get("pass_at_1"), 3) + at),
        ("greedy", number(evaluation.get("greedy"), 3) + at),
        ("mean length", f"{number(row.get('completions/mean_length'), 1)} tokens"),
        ("actor", f"{number(view.actor_tokens_per_s(), 0)} tokens/s"),
        ("learner", f"{number(view.recent('learner_tokens_per_s'), 0)} tokens/s"),
        (
            "staleness mean / max",
            f"{number(row.get('sample/staleness_mean'), 2)} / {number(row.get('sample/staleness_max'), 0)}",
        ),
        (
            "queues",
            f"generate {queues.get('generate', '-')}+{leases.get('generate', '-')}, "
            f"grade {queues.get('grade', '-')}+{leases.get('grade', '-')}, ready {queues.get('ready_train', '-')}",
        ),
        ("restarts", str(len(view.restarts))),
    ]


class LiveDisplay:
    """Progress bars and a table that change in place."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self._config = config
        self._watch = Watch.of(config)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._shown_at = 0.0

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, view: RunView) -> None:
        """Redraw, at most twice a second."""
        if time.monotonic() - self._shown_at >= _REFRESH_S or view.phase == "done":
            self._shown_at = time.monotonic()
            self._live.update(self.render(view), refresh=True)

    def render(self, view: RunView) -> Group:
        """The whole picture."""
        return Group(self._phase_table(view), Text(), self._figure_table(view))

    def _phase_table(self, view: RunView) -> Table:
        table = Table.grid(padding=(0, 2))
        spent = view.phase_seconds()
        names = list(spent) if view.phases else ["starting"]
        for name in names:
            current = name == view.phase and name != "done"
            progress = phase_progress(self._config, view) if current else None
            if progress:
                bar = ProgressBar(total=max(1, progress[1]), completed=progress[0], width=30)
            else:
                bar = ProgressBar(total=1, completed=0 if current else 1, pulse=current, width=30)
            note = phase_note(self._config, view) if current else ""
            table.add_row(PHASES.get(name, name), bar, clock(spent.get(name, 0.0)), note)
        return table

    def _figure_table(self, view: RunView) -> Table:
        table = Table(title=f"step {view.step} of {self._config.learner.max_steps}", title_justify="left")
        table.add_column("figure")
        table.add_column("value", min_width=36)
        for name, value in figures(view):
            table.add_row(name, value)
        for found in find_hacking(view.rows, view.evaluations, self._watch):
            table.add_row("warning", Text(found.text, style="yellow"))
        return table


class PlainDisplay:
    """A line at each change of phase, and one every ten seconds in between."""

    def __init__(self, config: RunConfig, stream: IO[str]) -> None:
        self._config = config
        self._watch = Watch.of(config)
        self._warned: set[tuple[str, str, str]] = set()
        self._stream = stream
        self._phases_told = 0
        self._evaluations_told = 0
        self._told_at = 0.0
        self._began: float | None = None  # unix seconds; the run's beginning, not that of whoever watches it

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, view: RunView) -> None:
        """Say what is new, if anything is."""
        if view.phases:
            self._began = view.phases[0][1]
        for name, moment in view.phases[self._phases_told :]:
            self._say(PHASES.get(name, name), moment)
        self._phases_told = len(view.phases)
        for event in view.evaluations[self._evaluations_told :]:
            self._say(
                f"held-out after step {event['step']}: pass@1 {number(event.get('pass_at_1'), 3)}, "
                f"greedy {number(event.get('greedy'), 3)}, mean length {number(event.get('mean_length'), 1)}"
            )
        self._evaluations_told = len(view.evaluations)
        for found in find_hacking(view.rows, view.evaluations, self._watch):
            if (found.score, found.kind, found.against) not in self._warned:
                self._warned.add((found.score, found.kind, found.against))
                self._say(f"warning: {found.text}")
        if time.monotonic() - self._told_at >= PLAIN_EVERY_S:
            note = phase_note(self._config, view)
            shown = figures(view) if view.phase == "training" else []
            parts = [f"{PHASES.get(view.phase, view.phase)}{': ' + note if note else ''}"]
            self._say("; ".join(parts + [f"{name} {value}" for name, value in shown]))

    def _say(self, text: str, moment: float | None = None) -> None:
        """`moment`: of what is told, unix seconds; None: now."""
        self._told_at = time.monotonic()
        now = time.time() if moment is None else moment
        since = max(0.0, now - (now if self._began is None else self._began))
        print(f"[{clock(since)}] {text}", file=self._stream, flush=True)


def number(value: object, digits: int) -> str:
    """A figure for people; `-` when there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        return "-"
    return f"{value:,.{digits}f}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any."""
    whole = int(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole % 3600 // 60:02d}:{whole % 60:02d}"

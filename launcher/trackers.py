"""Owns what zeroq says to experiment trackers: one small class each, with the calls of the tracker's own documentation.

| tracker | calls | a run that goes on |
|---|---|---|
| tensorboard | EventFileWriter (no TensorFlow, no torch) in DIR/tensorboard | a START event at the step done over |
| wandb | `init(id, resume="allow")`, `define_metric`, `Run.log` | the same id; own step axes, so any step may come |
| trackio | `init(name, resume="allow")`, `Run.log(metrics, step)` | the run of the same name |

They are imported when they are made, in the thread that uses them, and whatever they raise is the caller's to catch.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.errors import UserError

Figures = Mapping[str, float]


@dataclass(frozen=True)
class RunIdentity:
    """Which run is logged: `id` stays the same when the run goes on (`continued`)."""

    name: str
    id: str
    project: str
    folder: Path
    continued: bool
    config: Mapping[str, Any]


class Tracker(Protocol):
    """Where rows go. `axis`: which counter `step` is of (`step`, `eval/step`, ...)."""

    def log(self, figures: Figures, axis: str, step: int, unix_s: float) -> None:
        """One row."""

    def rewind(self, step: int) -> None:
        """Steps from `step` on are done over."""

    def close(self) -> None:
        """Finish; everything is delivered after this."""


class TensorBoard:
    """Event files in DIR/tensorboard."""

    def __init__(self, run: RunIdentity) -> None:
        writer = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._events = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._writer = writer.EventFileWriter(str(run.folder / "tensorboard"))

    def log(self, figures: Figures, axis: str, step: int, unix_s: float) -> None:
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        summary = self._summaries.Summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=unix_s, step=step, summary=summary))
        self._writer.flush()

    def rewind(self, step: int) -> None:
        started = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, session_log=started))

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases. Its own step only counts upwards, so each row carries the counter that it is drawn over."""

    def __init__(self, run: RunIdentity) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings={"console": "off"},  # what the launcher prints is not the run's log, and has a live display
        )
        self._defined: set[str] = set()

    def log(self, figures: Figures, axis: str, step: int, unix_s: float) -> None:
        if axis not in self._defined:
            self._run.define_metric(axis)
        for name in figures.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
        self._defined |= {axis, *figures}
        self._run.log({**figures, axis: step})

    def rewind(self, step: int) -> None:
        """Nothing: both versions of a step are drawn, the second over the first."""

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio's local store, or the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, run: RunIdentity) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(
            project=run.project,
            name=run.name,
            config=dict(run.config),
            resume="allow" if run.continued else "never",
        )

    def log(self, figures: Figures, axis: str, step: int, unix_s: float) -> None:
        self._run.log(dict(figures), step=step)

    def rewind(self, step: int) -> None:
        """Nothing: see Wandb."""

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, type[TensorBoard | Wandb | Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def check_installed(names: list[str]) -> None:
    """UserError naming the pip command when a tracker is missing; imports nothing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"logging.to={','.join(names)}: {' and '.join(missing)} not installed; run: pip install "
            f"{' '.join(missing)}, or leave it out of logging.to"
        )

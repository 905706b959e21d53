"""Owns `logging.to`: a thread of the launcher that reads what the run writes and tells experiment trackers.

    metrics.jsonl ─┐                                      ┌── tensorboard
                   ├── LineTail ── rows with their axis ──┼── wandb          (launcher/trackers.py)
    events.jsonl ──┘                                      └── trackio

The learner knows nothing of it and never waits; a tracker that fails is said once and left out from then on. How far it
has read is kept in DIR/loggers.json, so a run that is continued goes on where it was. Evaluations are drawn over the
step that was evaluated and not over the one at which they were done.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.config import TrackerSection
from common.lifecycle import RunPaths, write_atomic
from launcher.monitor import LineTail, Row
from launcher.trackers import TRACKERS, RunIdentity, Tracker, check_installed

POLL_S = 1.0
CLOSE_TIMEOUT_S = 60.0
_STATE = "loggers.json"
_NOT_FIGURES = ("step", "time", "event", "of")


def _say(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)


def rows_of_metrics(row: Row) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(axis, step, figures) of a line of metrics.jsonl; evaluations come by events.jsonl and are left out here."""
    figures = _figures({key: value for key, value in row.items() if not key.startswith("eval/")})
    if figures and isinstance(row.get("step"), int):
        yield "step", row["step"], figures


def rows_of_event(event: Row) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(axis, step, figures) of a line of events.jsonl: evaluations, and steps of a cold start."""
    prefix = {"evaluation": "eval", "cold_start_step": "cold_start"}.get(str(event.get("event")))
    if prefix is not None and isinstance(event.get("step"), int):
        yield f"{prefix}/step", event["step"], {f"{prefix}/{key}": value for key, value in _figures(event).items()}


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn: finite numbers."""
    return {
        key: float(value)
        for key, value in row.items()
        if key not in _NOT_FIGURES
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


class LogForwarder:
    """Forwards a run's rows while the block runs. A context manager; does nothing when no tracker is named."""

    def __init__(
        self,
        settings: TrackerSection,
        paths: RunPaths,
        config: Mapping[str, Any],
        *,
        say: Callable[[str], object] = _say,
    ) -> None:
        """`config`: the run's resolved configuration, for the trackers to show. UserError if one is not installed."""
        check_installed(list(settings.to))
        self._settings, self._paths, self._config, self._say = settings, paths, config, say
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._trackers: dict[str, Tracker] = {}
        self._state: dict[str, Any] = {}

    def __enter__(self) -> LogForwarder:
        if self._settings.to:
            self._thread = threading.Thread(target=self._run, name="loggers", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Forward what is left; waits for the trackers, at most CLOSE_TIMEOUT_S."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._say(
                f"logging: {', '.join(self._trackers) or 'a tracker'} did not finish within {CLOSE_TIMEOUT_S:.0f} s; "
                "its last rows may be missing there (all are in metrics.jsonl)"
            )

    def _run(self) -> None:
        self._state = self._load()
        run = RunIdentity(
            name=self._paths.root.name,
            id=self._state["id"],
            project=self._settings.project,
            folder=self._paths.root,
            continued=self._state["continued"],
            config=self._config,
        )
        for name in self._settings.to:
            self._try(name, lambda name=name: self._trackers.__setitem__(name, TRACKERS[name](run)))  # type: ignore[misc]
        metrics = LineTail(self._paths.metrics, offset=self._state["metrics"])
        events = LineTail(self._paths.events, offset=self._state["events"])
        ending = False
        while not ending:
            ending = self._end.wait(POLL_S)
            self._forward(metrics, rows_of_metrics)  # first: a rewind must not take evaluations done since with it
            self._forward(events, rows_of_event)
            if (metrics.offset, events.offset) != (self._state["metrics"], self._state["events"]):
                self._state |= {"metrics": metrics.offset, "events": events.offset}
                self._save()
        for started, tracker in list(self._trackers.items()):
            self._try(started, tracker.close)

    def _forward(self, tail: LineTail, read: Callable[[Row], Iterator[tuple[str, int, dict[str, float]]]]) -> None:
        try:
            lines = tail.read()
        except ValueError as error:
            self._say(f"logging: {self._paths.root}: a line that is not JSON was passed over ({error})")
            return
        for line in lines:
            for axis, step, figures in read(line):
                if axis == "step":
                    if step <= self._state["step"]:
                        self._each(lambda tracker, step=step: tracker.rewind(step))  # type: ignore[misc]
                    self._state["step"] = step
                row = (figures, axis, step, float(line.get("time", time.time())))
                self._each(lambda tracker, row=row: tracker.log(*row))  # type: ignore[misc]

    def _each(self, call: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: call(tracker))  # type: ignore[misc]

    def _try(self, name: str, call: Callable[[], object]) -> None:
        """A tracker's failure is its own: said once, and it gets no more rows."""
        try:
            call()
        except Exception as error:  # anything that a third party's client can raise
            self._trackers.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self._say(f"logging to {name} has ended: {type(error).__name__}: {reason}; the run goes on without it")

    def _load(self) -> dict[str, Any]:
        path = self._paths.root / _STATE
        fresh = {"id": uuid.uuid4().hex, "metrics": 0, "events": 0, "step": -1, "continued": False}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return fresh | {key: found[key] for key in ("id", "metrics", "events", "step")} | {"continued": True}
        except (OSError, ValueError, KeyError, TypeError):
            return fresh

    def _save(self) -> None:
        kept = {key: value for key, value in self._state.items() if key != "continued"}
        try:
            write_atomic(self._paths.root / _STATE, json.dumps(kept) + "\n")
        except OSError:
            return  # at worst rows are forwarded twice after a resume

"""Owns what the page knows of a run: its own rows, where its metrics come from now, and the time that is looked at."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from common.config import RunConfig
from common.lifecycle import RunPaths
from launcher.display import PHASES, phase_note
from launcher.hacking import Watch, find_hacking
from launcher.monitor import ENDED
from launcher.monitoring import has_data, replay, running_url
from launcher.panels import BOARDS
from launcher.panels.model import Board, Panel
from launcher.report import load_summary, read_config
from launcher.run_directory import is_running
from launcher.watch.query import PrometheusSource
from launcher.watch.scrape import ScrapeSource
from launcher.watch.source import Line, NoSource, Source, Span, StepRows, panel_lines


@dataclass(frozen=True)
class Headline:
    """What stands above the panels."""

    run: str
    running: bool
    end: str  # finished, interrupted, failed, killed; empty while it runs
    phase: str
    note: str
    source: str
    warnings: tuple[str, ...]


class Watcher:
    """One run, looked at by a page. Close it at the end.

    Made and refreshed by the main thread (a replayed Prometheus dies with the thread that started it); the other
    methods are for the server's threads.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._config: RunConfig | None = read_config(paths)
        self._steps = StepRows(paths)
        self._lock = threading.Lock()
        self._running = is_running(paths)
        self._source: Source = self._choose()

    @property
    def boards(self) -> tuple[Board, ...]:
        """Dashboards to show: those of a cluster only where this run has data for them."""
        span = self.span(None)
        return tuple(
            board
            for board in BOARDS
            if not board.in_cluster_only
            or any(self._source.lines(t, span) for p in board.panels[:2] for t in p.targets)
        )

    def refresh(self) -> None:
        """Read what is new; look where the figures are kept when the run has ended or its Prometheus has come up."""
        with self._lock:
            self._steps.refresh()
            changed = is_running(self._paths) != self._running
            self._running = self._running != changed
            scraped = isinstance(self._source, ScrapeSource)
            if changed and scraped and not self._running and not has_data(self._paths):
                self._source.close()  # there is nothing to scrape any more; what was, stays
            elif changed or (scraped and self._running and running_url(self._paths) is not None):
                self._source.close()
                self._source = self._choose()

    def span(self, minutes: float | None) -> Span:
        """The last `minutes` of the run, or all of it; a run that has ended ends with its last sign."""
        view = self._steps.view
        end = time.time() if self._running else view.last_sign + 1.0
        begin = view.phases[0][1] if view.phases else end - 60.0
        start = begin if minutes is None else max(begin, end - 60.0 * minutes)
        return Span(min(start, end - 10.0), end)

    def lines(self, panel: Panel, span: Span) -> list[Line]:
        """The panel's lines."""
        with self._lock:
            return panel_lines(panel, self._steps, self._source, span)

    def headline(self) -> Headline:
        """State of the run in words."""
        view, config = self._steps.view, self._config
        warnings = [f"{row.get('name')} was restarted: {row.get('exit')}" for row in view.restarts[-3:]]
        note = ""
        if config is not None:
            note = phase_note(config, view)
            warnings += [found.text for found in find_hacking(view.rows, view.evaluations, Watch.of(config))]
        end = "" if self._running else self._end()
        if end in ("failed", "killed"):
            warnings.insert(
                0, f"The run {'has failed' if end == 'failed' else 'was killed'}; its logs: {self._paths.logs}"
            )
        name = next((name for name, _ in reversed(view.phases) if name != "stopped"), view.phase)
        phase = PHASES.get(name, name)
        return Headline(self._paths.root.name, self._running, end, phase, note, self._source.name, tuple(warnings))

    def _end(self) -> str:
        """How it ended. A launcher that was killed has left no summary, or the one of an earlier life."""
        phase = self._steps.view.phase
        if phase not in ENDED:
            return "killed"
        found = (load_summary(self._paths) or {}).get("result")
        return found if found in ("interrupted", "failed") else "finished"

    def close(self) -> None:
        """Give back what was started for the page."""
        self._source.close()

    def _choose(self) -> Source:
        if not self._running:
            return replay(self._paths) or NoSource()
        url = running_url(self._paths)
        if url is not None:
            return PrometheusSource(url)
        targets = (target for board in BOARDS for panel in board.panels for target in panel.targets)
        return ScrapeSource(self._paths, targets).start()

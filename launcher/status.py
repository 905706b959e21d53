"""Owns `zeroq status`: what a run is doing, or how it ended, from its directory (and its broker while it lives)."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.table import Table

from common.config import load_config
from common.errors import EXIT_OK
from common.lifecycle import RunPaths
from launcher.display import PHASES, clock, figures, phase_note
from launcher.monitor import RunMonitor
from launcher.report import load_summary
from launcher.run_directory import is_running
from launcher.summary import print_summary

_STATUS_DEADLINE_S = 3.0


def print_status(paths: RunPaths, console: Console) -> int:
    """Print the run's state; returns the exit code."""
    summary = load_summary(paths)
    if not is_running(paths):
        if summary is not None:
            print_summary(paths, summary, console)
        else:
            console.print(
                f"{paths.root}: not running, and it left no summary that can be read; see {paths.logs}", soft_wrap=True
            )
        return EXIT_OK
    config = load_config(paths.config)
    with RunMonitor(paths, config) as monitor:
        deadline = time.monotonic() + _STATUS_DEADLINE_S
        while monitor.poll().status is None and time.monotonic() < deadline:
            time.sleep(0.05)
        view = monitor.view
    spent = clock(view.phase_seconds().get(view.phase, 0.0))
    note = phase_note(config, view)
    console.print(f"{paths.root}: {PHASES.get(view.phase, view.phase)} for {spent}  {note}", soft_wrap=True)
    table = Table("figure", "value")
    for name, value in figures(view):
        table.add_row(name, value)
    console.print(table)
    if view.status is not None:
        peers = Table("process", "role", "weights version", "last heard, s")
        for peer in view.status["peers"]:
            version = "-" if peer["version"] is None else str(peer["version"])
            peers.add_row(peer["name"], peer["role"], version, f"{peer['idle_s']:.1f}")
        console.print(peers)
        counters = json.dumps(view.status["counters"])
        console.print(f"broker: version {view.status['version']}, counters {counters}", soft_wrap=True)
        for letter in view.status["dead_letters"]:
            console.print(f"dead letter: {letter}", soft_wrap=True)
    return EXIT_OK

"""Owns the command line of `zeroq watch`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from common.errors import EXIT_OK, UserError
from common.lifecycle import RunPaths

_POLL_S = 0.2
_REFRESH_S = 1.0


def add_parser(commands: Any) -> None:
    """The command `zeroq watch`."""
    command = commands.add_parser(
        "watch",
        help="follow a run: on the terminal, or as a page with the panels of Grafana",
        description="Follow a run that goes on, or look at one that has ended. It only reads.",
        epilog="""\
examples:

  zeroq watch                            the newest run, live on this terminal
  zeroq watch --html                     the same as a page; prints its address, Ctrl-C ends it
  zeroq watch runs/NAME --html --port 8080

The page is served to this machine only. Its figures come from the run's Prometheus (zeroq run CONFIG --monitor) where
there is one, else from scrapes of its own, and always from metrics.jsonl; docs/monitoring.md.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="default: the newest below runs/")
    command.add_argument("--html", action="store_true", help="serve a page on 127.0.0.1")
    command.add_argument("--port", type=int, metavar="N", help="the page's port (default: a free one)")


def run_from_options(options: argparse.Namespace) -> int:
    """Run what was asked for; returns the exit code."""
    from launcher.run_directory import open_run

    if options.port is not None and not options.html:
        raise UserError("--port: is the page's; add --html")
    if options.port is not None and not 0 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: a port is a number from 0 to 65535")
    paths = open_run(options.run_dir)
    return serve_page(paths, options.port or 0) if options.html else watch_terminal(paths)


def serve_page(paths: RunPaths, port: int) -> int:
    """Serve the page until Ctrl-C."""
    from common.lifecycle import StopFlag
    from launcher.watch.server import serving
    from launcher.watch.watcher import Watcher

    stop = StopFlag().install()
    watcher = Watcher(paths)
    try:
        with serving(watcher, port) as url:
            print(f"{paths.root.name}: {url}  (Ctrl-C ends the page, not the run)", flush=True)
            while not stop.wait(_REFRESH_S):
                watcher.refresh()
    finally:
        watcher.close()
    return EXIT_OK


def watch_terminal(paths: RunPaths) -> int:
    """Follow the run until it ends or Ctrl-C; a run that has ended is summed up."""
    from rich.console import Console

    from common.config import load_config
    from launcher.display import make_display
    from launcher.monitor import RunMonitor
    from launcher.run_directory import is_running
    from launcher.status import print_status

    if is_running(paths):
        config = load_config(paths.config)
        try:
            with RunMonitor(paths, config) as monitor, make_display(config) as display:
                while is_running(paths):
                    display.update(monitor.poll())
                    time.sleep(_POLL_S)
        except BrokenPipeError:  # `zeroq watch | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is to be said at exit, either
            return EXIT_OK
    return print_status(paths, Console())

"""Owns `zeroq run`: make ready, start the pool, watch until the learner is done, write summary and report."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from common.config import RunConfig
from common.errors import EXIT_INTERRUPTED, EXIT_OK, ZeroqError
from common.lifecycle import RunPaths, StopFlag, record_event, register_process
from launcher.autoscaler.local import RunScaler, export_autoscaler
from launcher.display import Display, make_display
from launcher.hub import CheckpointPusher
from launcher.loggers import LogForwarder
from launcher.monitor import RunMonitor, RunView
from launcher.monitoring import Monitoring, forget_url
from launcher.pool import Pool
from launcher.processes import plan_processes
from launcher.ready import ReadyRun, ready_run
from launcher.report import write_report
from launcher.scale import ActorScale
from launcher.summary import make_summary, print_summary, write_summary

_POLL_S = 0.1


def run_training(
    config_path: Path, overrides: list[str], *, stop: StopFlag | None = None, monitor: bool = False
) -> int:
    """Train; returns the exit code. UserError for bad input, RunFailure when the run cannot go on.

    `stop`: the caller's flag, where it has taken over the signals already. `monitor`: with a Prometheus of its own.
    """
    started = time.monotonic()
    with ready_run(config_path, overrides) as ready:
        _forget_last_start(ready.paths)
        _announce(ready)
        return _train(ready, started, stop or StopFlag().install(), Monitoring(ready.paths) if monitor else None)


def _train(ready: ReadyRun, started: float, stop: StopFlag, monitoring: Monitoring | None) -> int:
    """From the first process to the report."""
    paths, config = ready.paths, ready.config
    console = Console()
    record_event(paths, "phase", name="starting")
    with (
        contextlib.ExitStack() as exporter,
        RunMonitor(paths, config) as monitor,
        LogForwarder(config.logging, paths, config.model_dump(mode="json")),
        CheckpointPusher(config.hub, paths) as pusher,
    ):
        result = "failed"
        register_process(paths, "launcher", "launcher", export_autoscaler(config, exporter))
        try:
            with Pool(paths, partial(record_event, paths)) as pool:
                pool.start(plan_processes(config, paths, ready.placement))
                scale = ActorScale(config, paths, ready.placement)
                if monitoring is not None:
                    monitoring.start(pool)
                with make_display(config) as display:
                    finished = watch(
                        pool, monitor, display, scale, stop, monitoring, RunScaler(config, paths, pool, monitor)
                    )
                result = "finished" if finished else "interrupted"
                if not finished:
                    print("stopping: learner, actors, evaluators, broker", flush=True)
                monitor.final_status()
        except (ZeroqError, OSError):  # OSError: of our own output, when the terminal or the pipe is closed
            with contextlib.suppress(OSError):  # a full disk must not hide why the run failed
                _conclude(paths, config, monitor.poll_files(), time.monotonic() - started, result)
            raise
        summary = _conclude(paths, config, monitor.poll_files(), time.monotonic() - started, result)
        if result == "finished":
            pusher.finish()
    print_summary(paths, summary, console)
    return EXIT_OK if result == "finished" else EXIT_INTERRUPTED


def watch(
    pool: Pool,
    monitor: RunMonitor,
    display: Display,
    scale: ActorScale,
    stop: StopFlag,
    monitoring: Monitoring | None = None,
    scaler: RunScaler | None = None,
) -> bool:
    """Look after the processes and show the run; True when the learner has finished, False after a stop signal."""
    while not stop:
        if pool.poll():
            display.update(monitor.poll())
            return True
        scale.apply(pool)
        if monitoring is not None:
            monitoring.look_after(pool)
        display.update(monitor.poll())
        if scaler is not None:
            scaler.step(time.monotonic(), monitor)
        stop.wait(_POLL_S)
    return False


def _conclude(paths: RunPaths, config: RunConfig, view: RunView, wall_s: float, result: str) -> dict[str, object]:
    """Close the last phase, then write summary.json and report.html; returns the summary."""
    if view.phase != "done":
        record_event(paths, "phase", name="stopped")
    summary = make_summary(paths, config, view, view.status, wall_s, result)
    write_summary(paths, summary)
    write_report(paths, summary)
    return summary


def _forget_last_start(paths: RunPaths) -> None:
    """A run that is continued must not believe the addresses and process records of its last life."""
    paths.endpoints.unlink(missing_ok=True)
    (paths.root / "scale.json").unlink(missing_ok=True)
    forget_url(paths)
    shutil.rmtree(paths.processes, ignore_errors=True)


def _announce(ready: ReadyRun) -> None:
    config, data = ready.config, ready.data
    print(
        f"run {ready.paths.root}\n"
        f"  data: {len(data.train)} training problems, {len(data.evaluation)} held out, "
        f"{len(data.cold_start)} cold-start traces; longest prompt {data.longest_prompt} tokens\n"
        f"  processes: broker, {config.evaluator.replicas} evaluator(s), {config.actor.replicas} actor(s) on "
        f"{config.actor.device}, learner with {config.learner.ranks} rank(s) on {config.learner.device}",
        file=sys.stdout,
        flush=True,
    )
    for note in data.notes:
        print(f"  note: {note}", flush=True)

"""Owns supervised jobs as processes: start one in a pool, show how it goes, hand back its figures.

    config.yaml ── python -m learner.supervised (torchrun for several ranks) ── metrics, events ── learner_summary.json

Used by `zeroq sft`, `zeroq reward-model` and the stages of a pipeline.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from common.config_file import dump_config
from common.errors import RunFailure, UserError
from common.job_config import JobConfig
from common.lifecycle import RunPaths, StopFlag, record_event, register_process, write_atomic
from launcher.display import clock, number
from launcher.hub import CheckpointPusher, check_hub
from launcher.loggers import LogForwarder
from launcher.machine import inspect_machine, place_job
from launcher.monitor import LineTail, Row
from launcher.pool import STOP_DEADLINE_S, Pool, user_error_line
from launcher.processes import ProcessRole, job_spec
from launcher.summary import LEARNER_SUMMARY

JobKind = Literal["sft", "reward_model"]
_MODULES: dict[JobKind, str] = {"sft": "learner.supervised", "reward_model": "learner.reward_model"}
_TITLES: dict[str, str] = {
    "starting": "starting",
    "tokenising": "tokenising the data",
    "loading": "loading the model",
    "training": "training",
}
_POLL_S = 0.1
_PLAIN_EVERY_S = 5.0
_SAVING_S = 300.0


def run_job(kind: JobKind, config: JobConfig, paths: RunPaths, *, stop: StopFlag, console: Console) -> dict[str, Any]:
    """Run a job in `paths.root` to its end and return its summary, which DIR/summary.json holds as well.

    `config` is written to DIR/config.yaml. `result` of the summary is `interrupted` after `stop` (the job has saved a
    checkpoint and can be resumed), else `finished`. UserError when the job refused its input, RunFailure with the end
    of its log when it died.
    """
    began = time.monotonic()
    threads, gpus = place_job(config.learner, inspect_machine())
    check_hub(config.hub)
    forwarder = LogForwarder(config.logging, paths, config.model_dump(mode="json"))
    pusher = CheckpointPusher(config.hub, paths)
    paths.root.mkdir(parents=True, exist_ok=True)
    dump_config(config, paths.config)
    for path in (paths.root / LEARNER_SUMMARY, paths.summary):
        path.unlink(missing_ok=True)
    progress = JobProgress(paths, console)
    register_process(paths, "launcher", "launcher", None)
    record_event(paths, "phase", name="starting")
    log = paths.logs / "learner.log"
    log_begins = log.stat().st_size if log.exists() else 0
    deadlines: dict[ProcessRole, float] = {**STOP_DEADLINE_S, "learner": _SAVING_S}
    try:
        with forwarder, pusher, Pool(paths, partial(record_event, paths), stop_deadline_s=deadlines) as pool, progress:
            pool.start([job_spec(_MODULES[kind], config.learner, paths, threads, gpus)])
            while not (finished := pool.poll()) and not stop:
                progress.update()
                stop.wait(_POLL_S)
            progress.update()
    except RunFailure:
        # Under torchrun a rank's exit code is lost; what it said is not.
        said = user_error_line(_text_from(log, log_begins)) if config.learner.ranks > 1 else None
        if said is not None:
            raise UserError(said) from None
        raise
    summary = _read_summary(paths)
    if summary is None and finished:
        raise RunFailure(f"the job ended without {LEARNER_SUMMARY}; see {log}")
    summary = {
        "result": "finished" if finished else "interrupted",
        "kind": kind,
        "name": paths.root.name,
        "seed": config.seed,
        **(summary or {}),
        "wall_s": round(time.monotonic() - began, 3),
    }
    if summary.get("stopped"):
        summary["result"] = "interrupted"
    write_atomic(paths.summary, json.dumps(summary, indent=2) + "\n")
    if summary["result"] == "finished":
        pusher.finish()
    return summary


def _text_from(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode("utf-8", errors="replace")


def _read_summary(paths: RunPaths) -> dict[str, Any] | None:
    path = paths.root / LEARNER_SUMMARY
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


class JobProgress:
    """A bar on a terminal; elsewhere a line at each change of phase and every few seconds. Reads events.jsonl."""

    def __init__(self, paths: RunPaths, console: Console) -> None:
        self._tail = LineTail(paths.events)
        self._tail.read()  # what an earlier start left
        self._console = console
        self._phase = "starting"
        self._last: Row | None = None
        self._pace: tuple[float, int] | None = None
        self._said_at = time.monotonic()
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(_TITLES["starting"], total=None, note="")

    def __enter__(self) -> JobProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self) -> None:
        """Take in new events, and say what is new."""
        for event in self._tail.read():
            if event["event"] == "phase":
                self._enter(str(event["name"]))
            elif event["event"] == "progress":
                self._last = event
                if self._pace is None:
                    self._pace = (float(event["time"]), int(event["step"]))
                if event["step"] == event["of"]:
                    self._said_at = 0.0
        if self._bar:
            if self._last:
                step, of = self._last["step"], self._last["of"]
                self._bar.update(self._task, completed=step, total=of, note=self.note())
        elif self._last and time.monotonic() - self._said_at >= _PLAIN_EVERY_S:
            self._say(f"step {self._last['step']}/{self._last['of']}, {self.note()}")
            self._last = None

    def note(self) -> str:
        """Loss, pace and time left, from the last progress event."""
        event = self._last or {}
        parts = [f"loss {number(event.get('loss'), 4)}", f"{number(event.get('tokens_per_s'), 0)} tokens/s"]
        if "accuracy" in event:
            parts.insert(1, f"accuracy {number(event['accuracy'], 3)}")
        if self._pace and event and event["step"] > self._pace[1]:
            each = (event["time"] - self._pace[0]) / (event["step"] - self._pace[1])
            parts.append(f"ETA {clock(each * (event['of'] - event['step']))}")
        return ", ".join(parts)

    def _enter(self, phase: str) -> None:
        if phase in (self._phase, "done"):
            return
        self._phase = phase
        title = _TITLES.get(phase, phase.replace("_", " "))
        if self._bar:
            self._bar.update(self._task, description=title)
        else:
            self._say(title)

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        print(f"[{clock(self._said_at - self._began)}] {text}", file=self._console.file, flush=True)

"""Starts `zeroq run` on a miniature of the demo: every process real, a minute on two cores."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = [
    "cold_start.steps=20",
    "cold_start.num_examples=320",
    "data.train.size=400",
    "data.eval_size=8",
    "rollout.max_tokens=16",
    "rollout.group_size=8",
    "learner.groups_per_step=8",
    "learner.lr=2e-3",
    "learner.warmup_steps=1",
    "learner.lr_schedule=constant",
    "eval.every_steps=0",
    "reward.components=[{name: digits, kind: function, weight: 1.0, "
    "function: 'tests.integration.river_rewards:digit_share'}]",
]


@contextmanager
def running(tmp_path: Path, *overrides: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The launcher's process and the run directory; kills what is left of it on the way out."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launcher", "run", "recipes/configs/cpu_demo.yaml"]
    settings = [*MINIATURE, f"run.dir={tmp_path}", "run.name=mini", *overrides]
    with (tmp_path / "launcher.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *settings], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process, tmp_path / "mini"
    finally:
        for left in _processes_of(tmp_path / "mini"):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.kill()
        process.wait()


def pids(run: Path) -> dict[str, int]:
    """Process id by name, as the processes registered themselves."""
    records = [json.loads(file.read_text()) for file in (run / "processes").glob("*.json")]
    return {record["name"]: record["pid"] for record in records}


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Events of one kind, in order."""
    path = run / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, timeout_s: float) -> None:
    """Wait for a condition; AssertionError with the launcher's last lines if the run ends or time runs out first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        ended = process.poll()
        assert ended is None, f"the run ended with {ended}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"not within {timeout_s} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.1)


def left_over(run: Path) -> list[str]:
    """Command lines of living processes that belong to the run, the launcher apart."""
    lines = [" ".join(process.info["cmdline"]) for process in _processes_of(run)]
    return [line for line in lines if "launcher run" not in line]


def _processes_of(run: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):  # what is gone or a zombie has no command line
        if process.info["status"] != psutil.STATUS_ZOMBIE and str(run) in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found

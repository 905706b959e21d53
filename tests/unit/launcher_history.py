"""The files that a short run leaves, for tests of display, summary and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.lifecycle import RunPaths


def write_history(folder: Path, *, finished: bool = True, steps: int = 4) -> RunPaths:
    """Metrics and events of a run of `steps` steps; broken off after them unless `finished`."""
    paths = RunPaths(folder)
    events: list[dict[str, Any]] = [
        {"time": 100.0, "event": "phase", "name": "starting"},
        {"time": 110.0, "event": "phase", "name": "cold_start"},
        {"time": 111.0, "event": "cold_start_step", "step": 5, "of": 10, "loss": 1.25, "tokens_per_s": 9.0},
        {"time": 120.0, "event": "phase", "name": "evaluating_before"},
        {"time": 121.0, "event": "evaluation", "label": "before", "step": 0, "pass_at_1": 0.25, "greedy": 0.2}
        | {"mean_length": 10.0},
        {"time": 130.0, "event": "phase", "name": "training"},
        {"time": 131.0, "event": "actor_restarted", "name": "actor-0", "exit": "signal SIGKILL"},
    ]
    if finished:
        events += [
            {"time": 140.0, "event": "phase", "name": "evaluating_after"},
            {"time": 141.0, "event": "evaluation", "label": "after", "step": steps, "pass_at_1": 0.75, "greedy": 0.8}
            | {"mean_length": 20.0},
            {"time": 150.0, "event": "phase", "name": "done"},
        ]
    rows = [
        {
            "step": step,
            "time": 130.0 + 2 * step,
            "reward": step / 10,
            "completions/mean_length": 10.0 + step,
            "learner_tokens_per_s": 1000.0,
            "step_time": 2.0,
            "sample/staleness_mean": 0.5,
            "sample/staleness_max": step % 3,
            "sample/staleness_histogram": {"0": 10, "1": 5},
            "time/wait_s": 1.0,
            "time/pack_s": 0.1,
            "time/train_s": 0.8,
            "time/publish_s": 0.1,
        }
        for step in range(1, steps + 1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


STATUS: dict[str, Any] = {
    "version": 4,
    "outstanding_train": 1,
    "outstanding_eval": 0,
    "queues": {"generate": 3, "grade": 2, "ready_train": 1, "ready_eval": 0},
    "leases": {"generate": 4, "grade": 1},
    "counters": {
        "tasks_admitted": 30,
        "groups_trained": 8,
        "groups_evaluated": 20,
        "dead_lettered": 1,
        "groups_duplicated": 2,
        "tokens_generated": 5000,
    },
    "dead_letters": [],
    "peers": [],
}

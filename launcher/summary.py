"""Owns a run's result in figures: DIR/summary.json, from the learner's summary, metrics and the broker's counters."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from common.config import RunConfig
from common.lifecycle import RunPaths, write_atomic
from launcher.display import clock, number
from launcher.hacking import Watch, find_hacking
from launcher.monitor import RunView, token_rate

LEARNER_SUMMARY = "learner_summary.json"
_BEFORE_AND_AFTER = (("pass_at_1", "pass_at_1"), ("greedy", "greedy"), ("mean_length", "mean_length"))


def make_summary(
    paths: RunPaths, config: RunConfig, view: RunView, status: dict[str, Any] | None, wall_s: float, result: str
) -> dict[str, Any]:
    """The figures of a run, whether it finished or not; None where there is none. `wall_s`: duration of `zeroq run`.

    groups_lost counts admitted tasks that are neither trained, evaluated nor still in the river: dead-lettered ones,
    and any that the broker lost track of (there should be none). `general_before`, `general_after`: means of reward
    components over held-out general prompts, where there are any.
    """
    learner = _learner_summary(paths)
    counters = (status or {}).get("counters", {})
    phases = view.phase_seconds()
    training_s = phases.get("training", 0.0)
    first, last = _first_and_last_evaluation(view)
    summary: dict[str, Any] = {"result": result}
    for name, key in _BEFORE_AND_AFTER:
        summary[f"{name}_before"] = learner.get(f"{name}_before", first.get(key))
        summary[f"{name}_after"] = learner.get(f"{name}_after", last.get(key))
    for label, event in (("before", first), ("after", last)):
        general = {key.split("/")[1]: value for key, value in event.items() if key.startswith("general/")}
        if general:
            summary[f"general_{label}"] = general
    summary |= {
        "wall_s": round(wall_s, 3),
        "steps": learner.get("steps", view.step),
        "actor_tokens_per_s": token_rate(view.throughput),
        "learner_tokens_per_s": learner.get("learner_tokens_per_s", _learner_rate(view, training_s)),
        "staleness_max": learner.get("staleness_max", _largest(view, "sample/staleness_max")),
        "groups_trained": learner.get("groups_trained", counters.get("groups_trained")),
        "groups_lost": groups_lost(status),
        "groups_duplicated": learner.get("groups_duplicated"),
        "groups_dead_lettered": counters.get("dead_lettered"),
        "duplicate_submits_ignored": counters.get("groups_duplicated"),
        "restarts": len(view.restarts),
        "tokens_generated": counters.get("tokens_generated"),
        "phases_s": {name: round(seconds, 3) for name, seconds in phases.items()},
        "name": paths.root.name,
        "seed": config.seed,
        "max_staleness": config.learner.max_staleness,
        "reward_hacking": [found.text for found in find_hacking(view.rows, view.evaluations, Watch.of(config))],
    }
    return summary | {key: value for key, value in learner.items() if key not in summary}


def groups_lost(status: dict[str, Any] | None) -> int | None:
    """Admitted tasks without an outcome: see `make_summary`; None when the broker was never heard."""
    if status is None:
        return None
    counters = status["counters"]
    ended = counters.get("groups_trained", 0) + counters.get("groups_evaluated", 0)
    return int(counters.get("tasks_admitted", 0) - ended - status["outstanding_train"] - status["outstanding_eval"])


def write_summary(paths: RunPaths, summary: dict[str, Any]) -> None:
    """Write DIR/summary.json."""
    write_atomic(paths.summary, json.dumps(summary, indent=2) + "\n")


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (figure, before, after) and (figure, value, '') for people."""
    rows = [
        (title, number(summary.get(f"{key}_before"), digits), number(summary.get(f"{key}_after"), digits))
        for title, key, digits in (
            ("held-out pass@1", "pass_at_1", 3),
            ("held-out greedy accuracy", "greedy", 3),
            ("mean response length, tokens", "mean_length", 1),
        )
    ]
    groups = f"{number(summary.get('groups_trained'), 0)} trained, {number(summary.get('groups_lost'), 0)} lost"
    return [
        *rows,
        ("optimizer steps", number(summary.get("steps"), 0), ""),
        ("wall time", clock(summary.get("wall_s") or 0.0), ""),
        ("actor tokens/s", number(summary.get("actor_tokens_per_s"), 0), ""),
        ("learner tokens/s", number(summary.get("learner_tokens_per_s"), 0), ""),
        ("largest staleness trained on", number(summary.get("staleness_max"), 0), ""),
        ("groups", f"{groups}, {number(summary.get('groups_duplicated'), 0)} duplicated", ""),
        ("restarts", number(summary.get("restarts"), 0), ""),
        *(("warning", str(text), "") for text in summary.get("reward_hacking") or []),
    ]


def print_summary(paths: RunPaths, summary: dict[str, Any], console: Console) -> None:
    """The table at the end of a run, and where everything is."""
    table = Table(title=f"{paths.root.name}: {summary['result']}", title_justify="left")
    table.add_column("figure")
    table.add_column("before / value", justify="right")
    table.add_column("after", justify="right")
    for row in summary_rows(summary):
        table.add_row(*row)
    console.print(table)
    checkpoints = sorted(paths.checkpoints.glob("step-*"), key=lambda p: p.stat().st_mtime)
    lines = [f"report       {paths.report}", f"summary      {paths.summary}", f"logs         {paths.logs}"]
    if checkpoints:
        lines.insert(0, f"checkpoint   {checkpoints[-1]}")
    print("\n".join(lines), file=console.file, flush=True)


def _learner_summary(paths: RunPaths) -> dict[str, Any]:
    path = paths.root / LEARNER_SUMMARY
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _first_and_last_evaluation(view: RunView) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluations before and after training; an unfinished run has no `after`."""
    labelled = {str(event.get("label")): event for event in view.evaluations}
    return labelled.get("before", {}), labelled.get("after", {})


def _learner_rate(view: RunView, training_s: float) -> float | None:
    """Mean over steps of tokens/s, weighted by their time; None without steps."""
    rows = [r for r in view.rows if isinstance(r.get("learner_tokens_per_s"), int | float)]
    if not rows or training_s <= 0:
        return None
    weights = [float(r.get("step_time", 1.0)) for r in rows]
    return sum(float(r["learner_tokens_per_s"]) * w for r, w in zip(rows, weights, strict=True)) / sum(weights)


def _largest(view: RunView, key: str) -> float | None:
    return max((row[key] for row in view.rows if isinstance(row.get(key), int | float)), default=None)

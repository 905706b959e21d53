"""A miniature of recipes/configs/r1_cpu.yaml: all stages with their real processes, a few steps each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.integration.river_rig import ROOT

R1_CPU = ROOT / "recipes" / "configs" / "r1_cpu.yaml"
_STEPS = {"base": 250, "cold_start": 120}


def miniature(folder: Path) -> Path:
    """Write the miniature's configuration into `folder`; its pipeline is folder/runs/mini."""
    tree: dict[str, Any] = yaml.safe_load(R1_CPU.read_text(encoding="utf-8"))
    tree["run"] = {"dir": str(folder / "runs"), "name": "mini"}
    run, stages = tree["defaults"]["run"], tree["stages"]
    run["learner"] |= {"max_steps": 3, "groups_per_step": 4, "checkpoint_every_steps": 1, "warmup_steps": 0}
    run["eval"] = {"before_and_after": False, "every_steps": 0}
    run["data"]["eval_size"] = 6
    for section in ("sft", "reward_model"):
        tree["defaults"][section]["learner"] |= {"num_threads": 1, "checkpoint_every_steps": 10}
    stages["world"]["scale"] = 0.08
    for name in ("reasoning_rl", "rl_all", "student_rl"):
        stages[name]["run"].setdefault("learner", {})["max_steps"] = 3
    stages["rl_all"]["run"]["data"]["general"] |= {"last_steps": 2, "share": 0.75}
    for name in ("base", "student_base", "cold_start", "sft", "distill"):
        job = stages[name]["job"]["sft"]
        job.pop("epochs", None)
        job["max_steps"] = _STEPS.get(name, 20)
    for name in ("helpful_job", "safety_job"):
        stages["reward_model"][name]["reward_model"] |= {"epochs": 1, "batch_size": 16}
    stages["cold_start"]["filtered"]["problems"] = [{"path": "@world.train", "limit": 10}]
    stages["rejection_sample"]["problems"] = [{"path": "@world.train", "limit": 60}]
    loose = {"format": None, "min_language_share": None, "min_summary_units": 0}
    stages["rejection_sample"]["selection"] = {"filters": loose, "near_duplicates": None}
    stages["evaluate"] |= {"k": 2, "general_samples": 1}
    path = folder / "r1_mini.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def start(config: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`zeroq pipeline` in the background, its output appended to `log`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", "pipeline", str(config), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def at_work(folder: Path, kind: str) -> bool:
    """Whether a stage has done something worth losing, judged by its files."""
    if kind == "small_world":
        return (folder / "world").exists()
    if kind == "grpo":
        return _lines(folder / "run" / "metrics.jsonl") >= 1
    if kind in ("sft", "cold_start"):
        return any(folder.glob("run/checkpoints/step-*"))
    if kind == "reward_model":
        return any(folder.glob("helpful/checkpoints/step-*"))
    return any(_lines(path) >= 2 for path in folder.glob("*.jsonl"))  # the first line says what is sampled


def events_of(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; none if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0

"""General problems in the last steps of a run, through a real broker: which, when, reported how, and after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.config import RunConfig
from learner.feed import ProblemFile, TaskFeed
from learner.loop import run
from learner.schedule import TaskSchedule
from tests.learner_rig import (
    FakePublisher,
    River,
    broker_process,
    make_config,
    make_process,
    read_lines,
    tiny_model,
    write_data,
)

pytestmark = pytest.mark.usefixtures("no_leaked_processes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def write_general(root: Path) -> None:
    write_data(root)
    for name, count, first in (("general", 4, 20), ("general_eval", 2, 30)):
        lines: list[dict[str, Any]] = [
            {
                "id": f"{name}{i}",
                "prompt": f"{name} {i}",
                "prompt_ids": [first + i, 2],
                "spec": {"kind": "none", "columns": {"source": "chat"}},
            }
            for i in range(count)
        ]
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def trained(root: Path) -> dict[int, str]:
    """Prompt of each task that was trained on, by its number; each once."""
    rows = {(row["task_id"], row["step"], row["prompt"]) for row in pq.read_table(root / "samples").to_pylist()}
    assert len(rows) == len({task for task, _, _ in rows})
    return {TaskFeed.number(task): prompt for task, _, prompt in sorted(rows, key=lambda row: TaskFeed.number(row[0]))}


def train(root: Path, config: RunConfig) -> None:
    process = make_process(root, config)
    write_general(root)
    with broker_process(root) as paths, River(paths):
        run(process, make_publisher=lambda _: FakePublisher())


def configuration(model: Path, **sections: Any) -> RunConfig:
    return make_config(
        model,
        data={
            "general": {"source": "unused.jsonl", "last_steps": 2, "share": 0.5},
            "general_eval": "unused.jsonl",
        },
        learner={"max_steps": 5, "checkpoint_every_steps": 4, "loss": {"proximal": "recompute"}},
        eval={"samples": 2, "greedy": False},
        **sections,
    )


def test_general_problems_come_last_and_a_run_that_was_cut_off_among_them_goes_on(tmp_path: Path, model: Path) -> None:
    config = configuration(model)
    train(tmp_path, config)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "reward_by_source/chat/mean" in line] == [4, 5]
    assert all(line["ratio/mean"] == pytest.approx(1.0, abs=1e-5) for line in lines)  # a publish before each step
    evaluations = [e for e in read_lines(tmp_path / "events.jsonl") if e["event"] == "evaluation"]
    assert [e["label"] for e in evaluations] == ["before", "after"]
    for event in evaluations:
        assert 0 <= event["general/accuracy/mean"] <= 1
        assert event["general/length/mean"] > 1
        assert event["num_problems"] == 3

    # Cut off after step 4, one step into the general phase: the later checkpoint and what came after it are gone.
    whole = json.loads((tmp_path / "checkpoints" / "step-5" / "trainer" / "state.json").read_text())
    (tmp_path / "checkpoints" / "step-5").rename(tmp_path / "step-5")
    schedule = TaskSchedule(config, 6, 4)
    files = {part: ProblemFile(tmp_path / "data" / f"{part}.jsonl") for part in ("train", "general")}
    prompts = {n: files[part][index]["prompt"] for n in range(10) for part, index in [schedule.problem(n)]}
    assert trained(tmp_path) == prompts
    assert [n for n, prompt in prompts.items() if prompt.startswith("general")] == [7, 9]
    for name in ("metrics.jsonl", "events.jsonl"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    train(tmp_path, configuration(model, resume="auto"))
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert (line["step"], "reward_by_source/chat/mean" in line) == (5, True)
    again = json.loads((tmp_path / "checkpoints" / "step-5" / "trainer" / "state.json").read_text())
    assert (again["step"], again["cursor"], again["outstanding"]) == (5, whole["cursor"], [])
    assert trained(tmp_path) == prompts

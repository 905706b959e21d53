"""The learner's loop against a real broker, with actors and evaluator played by threads."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import RunConfig
from common.errors import RunFailure
from learner.loop import run
from tests.learner_rig import (
    FakePublisher,
    River,
    broker_process,
    make_config,
    make_process,
    read_lines,
    tiny_model,
    wait_until,
    write_data,
)

pytestmark = pytest.mark.usefixtures("no_leaked_processes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def train(root: Path, config: RunConfig, **river: Any) -> FakePublisher:
    """A whole run; returns what it published."""
    process, publisher = make_process(root, config), FakePublisher()
    write_data(root)
    with broker_process(root) as paths, River(paths, **river):
        try:
            run(process, make_publisher=lambda _: publisher)
        finally:
            assert publisher.closed
    return publisher


def test_a_run_from_start_to_end(tmp_path: Path, model: Path) -> None:
    config = make_config(
        model,
        learner={"max_steps": 5, "steps_per_publish": 2, "checkpoint_every_steps": 2, "keep_checkpoints": 2},
        cold_start={"steps": 4, "lr": 1e-3},
        eval={"samples": 2, "every_steps": 2},
    )
    publisher = train(tmp_path, config)
    assert publisher.versions == [0, 1, 2, 3]  # after the cold start, steps 2 and 4, and the last
    events = read_lines(tmp_path / "events.jsonl")
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == [
        *("loading", "cold_start", "publishing", "evaluating_before", "training", "evaluating_after", "done")
    ]
    evaluations = {(e["label"], e["step"]) for e in events if e["event"] == "evaluation"}
    assert evaluations == {("before", 0), ("during", 2), ("during", 4), ("after", 5)}
    assert any(e["event"] == "cold_start_step" and e["step"] == 4 for e in events)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["version"] for line in lines] == [0, 1, 1, 2, 3]
    for line in lines:
        assert line["sample/staleness_max"] <= config.learner.max_staleness
        assert {"reward", "rewards/accuracy/mean", "grad_norm", "entropy", "time/wait_s", "step_time"} <= set(line)
        assert line["entropy"] == pytest.approx(math.log(640), rel=0.2)
    summary = json.loads((tmp_path / "learner_summary.json").read_text())
    assert summary["steps"] == 5
    assert summary["groups_trained"] == 10
    assert summary["groups_duplicated"] == summary["groups_lost"] == summary["groups_dead_lettered"] == 0
    assert 0 <= summary["pass_at_1_before"] <= 1
    assert summary["greedy_after"] is not None
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-4", "step-5"]
    samples = pq.read_table(tmp_path / "samples").to_pylist()
    assert {row["step"] for row in samples} == {1, 2, 3, 4, 5}
    assert all(row["prompt"].endswith("+ 1 =") and row["staleness"] >= 0 for row in samples)
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "step-5")
    for name, tensor in last.state_dict().items():  # the last publish is the last checkpoint
        torch.testing.assert_close(publisher.published[-1][1][name], tensor, rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoints" / "step-5").eos_token == "<|end|>"


def test_resume_goes_on_where_the_checkpoint_was(tmp_path: Path, model: Path) -> None:
    first = make_config(model, learner={"max_steps": 3})
    train(tmp_path, first)
    state = json.loads((tmp_path / "checkpoints" / "step-3" / "trainer" / "state.json").read_text())
    assert (state["step"], state["version"], state["cursor"], state["outstanding"]) == (3, 3, 6, [])
    for name in ("metrics.jsonl", "events.jsonl"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    publisher = train(tmp_path, make_config(model, learner={"max_steps": 5}, resume="auto"))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [4, 5]
    assert publisher.versions == [3, 4, 5]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "step-3").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in publisher.published[0][1].items())
    state = json.loads((tmp_path / "checkpoints" / "step-5" / "trainer" / "state.json").read_text())
    assert (state["step"], state["cursor"]) == (5, 10)
    phases = [event.get("name") for event in read_lines(tmp_path / "events.jsonl")]
    assert "evaluating_before" not in phases  # the figures from before the first step are kept
    summary = json.loads((tmp_path / "learner_summary.json").read_text())
    steps = [row["step"] for row in pq.read_table(tmp_path / "samples").to_pylist()]
    assert Counter(steps) == dict.fromkeys(range(1, 6), 8)  # two groups of four a step, none twice
    assert summary["pass_at_1_before"] == state["counters"]["pass_at_1_before"]
    assert summary["groups_trained"] == 10


def test_a_loss_that_is_not_finite_stops_before_anything_is_published(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner import trainer

    original, calls = trainer.policy_loss, []

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        loss, stats = original(*args, **kwargs)
        return (loss * float("nan"), stats) if before.versions == [0, 1] else (loss, stats)

    monkeypatch.setattr(trainer, "policy_loss", poisoned)
    before = FakePublisher()
    config = make_config(model, learner={"checkpoint_every_steps": 1})
    process = make_process(tmp_path, config)
    write_data(tmp_path)
    with (
        broker_process(tmp_path) as paths,
        River(paths),
        pytest.raises(RunFailure, match=r"finite.*train-\d+, train-\d+"),
    ):
        run(process, make_publisher=lambda _: before)
    assert before.versions == [0, 1]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "step-1").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.published[-1][1].items())


def test_a_stop_saves_and_ends_well(tmp_path: Path, model: Path) -> None:
    config = make_config(model, learner={"max_steps": 10_000})
    process, publisher = make_process(tmp_path, config), FakePublisher()
    write_data(tmp_path)

    def stop_after_two_publishes() -> None:
        wait_until(lambda: len(publisher.versions) >= 3, "two publishes")
        process.stop.set()

    watcher = threading.Thread(target=stop_after_two_publishes)
    with broker_process(tmp_path) as paths, River(paths):
        watcher.start()
        run(process, make_publisher=lambda _: publisher)
        watcher.join()
    summary = json.loads((tmp_path / "learner_summary.json").read_text())
    assert summary["stopped"] is True
    assert summary["pass_at_1_after"] is None
    state = json.loads((Path(summary["checkpoint"]) / "trainer" / "state.json").read_text())
    assert state["step"] == summary["steps"] >= 2
    # what is outstanding and what is trained make up all that was admitted
    assert len(state["outstanding"]) + summary["groups_trained"] == state["cursor"]


def test_training_goes_on_while_a_version_is_on_its_way(tmp_path: Path, model: Path) -> None:
    """A publish ends only when the step after it has begun to wait for groups: the learner must not wait for it."""
    recorded = threading.Event()

    class Slow(FakePublisher):
        def send(self, staged: Any) -> None:
            if staged[0] == 1:
                wait_until((tmp_path / "metrics.jsonl").exists, "the record of step 1")
                recorded.set()
            super().send(staged)

    publisher = Slow()
    process = make_process(tmp_path, make_config(model, learner={"max_steps": 2, "steps_per_publish": 1}))
    write_data(tmp_path)
    with broker_process(tmp_path) as paths, River(paths):
        run(process, make_publisher=lambda _: publisher)
    assert recorded.is_set()
    assert publisher.versions == [0, 1, 2]


def test_a_publish_that_fails_ends_the_run(tmp_path: Path, model: Path) -> None:
    class Broken(FakePublisher):
        def send(self, staged: Any) -> None:
            if staged[0] == 1:
                raise RunFailure("the control thread hangs")
            super().send(staged)

    process = make_process(tmp_path, make_config(model, learner={"max_steps": 50, "steps_per_publish": 1}))
    write_data(tmp_path)
    with broker_process(tmp_path) as paths, River(paths), pytest.raises(RunFailure, match="control thread hangs"):
        run(process, make_publisher=lambda _: Broken())
    assert len(read_lines(tmp_path / "metrics.jsonl")) <= 2


def test_groups_of_equal_rewards_leave_the_weights_alone(tmp_path: Path, model: Path) -> None:
    publisher = train(tmp_path, make_config(model, learner={"max_steps": 2}), reward=lambda rng: 0.25)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["frac_reward_zero_std"] for line in lines] == [1.0, 1.0]
    assert [line["grad_norm"] for line in lines] == [0.0, 0.0]
    first, last = publisher.published[0][1], publisher.published[-1][1]
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_nobody_at_work_is_a_failure_and_not_a_hang(tmp_path: Path, model: Path) -> None:
    config = make_config(model, actor={"startup_timeout_s": 0.5}, broker={"generate_lease_s": 0.5})
    process = make_process(tmp_path, config)
    write_data(tmp_path)
    with broker_process(tmp_path), pytest.raises(RunFailure, match="no actor or evaluator"):
        run(process, make_publisher=lambda _: FakePublisher())

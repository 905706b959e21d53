"""Runs and jobs tell trackers and the hub what they did, and end as they would without them. Processes are played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.errors import RunFailure
from common.job_config import SftConfig
from common.lifecycle import RunPaths, StopFlag
from launcher import hub, jobs, loggers, run
from launcher.cli import main
from launcher.jobs import run_job
from tests.unit.launcher_inputs import make_model_directory, write_config

REPO = "me/model"


class FakePool:
    """Does at once what a run's processes do: metrics, an evaluation, a checkpoint, a summary."""

    fails = False

    def __init__(self, paths: RunPaths, *_: Any, **__: Any) -> None:
        self.paths = paths

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, _processes: object) -> None:
        with self.paths.metrics.open("a") as file:
            file.writelines(
                json.dumps({"step": n, "time": 1.0 + n, "loss": 0.5, "eval_loss": 2.0}) + "\n" for n in (1, 2)
            )
        with self.paths.events.open("a") as file:
            event = {"time": 2.0, "event": "evaluation", "label": "after", "step": 2, "pass_at_1": 0.5, "greedy": 0.25}
            file.write(json.dumps(event | {"mean_length": 3.0}) + "\n")
        make_model_directory(self.paths.checkpoints / "step-2")
        (self.paths.root / "learner_summary.json").write_text(json.dumps({"steps": 2}))

    def poll(self) -> bool:
        if self.fails:
            raise RunFailure("the learner is gone")
        return True


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Plays the pool and the hub; returns what is pushed."""
    for room in (run, jobs):
        monkeypatch.setattr(room, "Pool", FakePool)
    monkeypatch.setattr(loggers, "POLL_S", 0.01)
    monkeypatch.setattr(hub, "_token", lambda: "hf_x")
    pushed: list[Path] = []

    def push(folder: Path, target: hub.Target, **_: Any) -> str:
        assert target == hub.Target(REPO, private=True)
        pushed.append(folder)
        return "http://hub/commit/1"

    monkeypatch.setattr(hub, "push_model", push)
    return pushed


def scalars(root: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(root / "tensorboard"))
    read.Reload()
    return [(point.step, point.value) for point in read.Scalars(tag)]


OVERRIDES = ("run.name=a", "logging.to=[tensorboard]", f"hub.push_to={REPO}")


def test_a_run_is_logged_and_pushed(tmp_path: Path, pushes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write_config(tmp_path)), *OVERRIDES]) == 0
    root = tmp_path / "runs" / "a"
    assert scalars(root, "loss") == [(1, 0.5), (2, 0.5)]
    assert scalars(root, "eval/pass_at_1") == [(2, 0.5)]
    assert pushes == [root / "checkpoints" / "step-2"]
    assert "pushed step 2: http://hub/commit/1" in capsys.readouterr().out


def test_a_push_that_fails_leaves_the_run_finished(
    tmp_path: Path, pushes: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RunFailure("push to me/model: failed 4 times, last by ConnectError: refused")

    monkeypatch.setattr(hub, "push_model", fail)
    assert main(["run", str(write_config(tmp_path)), *OVERRIDES]) == 0
    error = capsys.readouterr().err
    assert f"training is not affected, repeat it with: zeroq push {tmp_path}/runs/a {REPO}" in error
    assert json.loads((tmp_path / "runs" / "a" / "summary.json").read_text())["result"] == "finished"


def test_a_run_that_failed_is_logged_to_its_end_and_not_pushed(
    tmp_path: Path, pushes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakePool, "fails", True)
    assert main(["run", str(write_config(tmp_path)), *OVERRIDES]) == 1
    assert scalars(tmp_path / "runs" / "a", "loss") == [(1, 0.5), (2, 0.5)]
    assert pushes == []


def test_a_supervised_job_is_logged_and_pushed(tmp_path: Path, pushes: list[Path]) -> None:
    tree = {"model": "m", "sft": {"data": "x.parquet", "epochs": 1}, "learner": {"device": "cpu"}}
    config = SftConfig.model_validate(tree | {"logging": {"to": ["tensorboard"]}, "hub": {"push_to": REPO}})
    paths = RunPaths(tmp_path / "job")
    summary = run_job("sft", config, paths, stop=StopFlag(), console=Console(quiet=True))
    assert summary["result"] == "finished"
    assert scalars(paths.root, "eval_loss") == [(1, 2.0), (2, 2.0)]
    assert pushes == [paths.checkpoints / "step-2"]

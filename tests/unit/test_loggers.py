"""`logging.to`: what experiment trackers are told, over which axis, also by a run that goes on."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import LoggingSection
from common.errors import UserError
from common.lifecycle import RunPaths
from launcher import loggers, trackers
from launcher.cli import main
from launcher.loggers import LogForwarder
from tests.unit.launcher_inputs import write_config

Calls = list[tuple[str, Any]]


def write(paths: RunPaths, first: int, last: int) -> None:
    """Metrics of steps `first`..`last`; an evaluation of the step before, completed during `last`."""
    paths.root.mkdir(exist_ok=True, parents=True)
    with paths.metrics.open("a") as file:
        for step in range(first, last + 1):
            row = {"step": step, "time": 100.0 + step, "reward": step / 8, "kl": None, "entropy": float("nan")}
            row |= {"sample/staleness_histogram": {"0": 3}, "eval/step": step - 1, "eval/pass_at_1": 0.5}
            file.write(json.dumps(row) + "\n")
    with paths.events.open("a") as file:
        file.write(json.dumps({"time": 99.0, "event": "phase", "name": "training"}) + "\n")
        event = {"time": 105.0, "event": "evaluation", "label": "during", "step": last - 1, "pass_at_1": 0.25}
        file.write(json.dumps(event | {"greedy": None}) + "\n")


def forward(paths: RunPaths, *to: str, project: str = "zeroq") -> list[str]:
    """Forward all there is, as a run does that has just ended; returns what was said."""
    said: list[str] = []
    settings = LoggingSection(to=list(to), project=project)  # type: ignore[arg-type]
    with LogForwarder(settings, paths, {"seed": 3}, say=said.append):
        pass
    return said


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "POLL_S", 0.01)


class FakeRun:
    """A run of wandb's or trackio's that records what it is told, and can be made to fail."""

    def __init__(self, calls: Calls, fail_at: int | None) -> None:
        self.calls, self.fail_at = calls, fail_at

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.calls.append(("define", (name, step_metric)))

    def log(self, metrics: dict[str, Any] | None = None, step: int | None = None, **more: Any) -> None:
        assert not more
        if len([1 for kind, _ in self.calls if kind == "log"]) == self.fail_at:
            raise ConnectionError("the service is away\nfor good")
        self.calls.append(("log", (metrics, step)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Puts a module in the place of wandb or trackio; returns the list of calls it gets."""

    def make(name: str, fail_at: int | None = None) -> Calls:
        calls: Calls = []
        module = types.ModuleType(name)

        def init(**settings: Any) -> FakeRun:
            calls.append(("init", settings))
            return FakeRun(calls, fail_at)

        module.init = init  # type: ignore[attr-defined]
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
        return calls

    return make


def logged(calls: Calls) -> list[Any]:
    return [what for kind, what in calls if kind == "log"]


def test_wandb_gets_each_row_with_its_own_axis(tmp_path: Path, fake: Callable[..., Calls]) -> None:
    calls, paths = fake("wandb"), RunPaths(tmp_path / "run")
    write(paths, 1, 3)
    assert forward(paths, "wandb", project="r1") == []
    kind, init = calls[0]
    assert kind == "init"
    assert init.pop("id") == json.loads((paths.root / "loggers.json").read_text())["id"]
    wanted = {"project": "r1", "name": "run", "resume": "allow", "dir": str(paths.root), "config": {"seed": 3}}
    assert init == wanted | {"settings": {"console": "off"}}
    assert [what for kind, what in calls if kind == "define"] == [
        ("step", None),
        ("reward", "step"),
        ("eval/step", None),
        ("eval/pass_at_1", "eval/step"),
    ]
    # No step argument: wandb drops rows whose own step went back. No histogram, null or NaN.
    assert logged(calls) == [
        *(({"reward": step / 8, "step": step}, None) for step in (1, 2, 3)),
        ({"eval/pass_at_1": 0.25, "eval/step": 2}, None),
    ]
    assert calls[-1] == ("finish", None)


def test_a_run_that_goes_on_forwards_only_what_is_new(tmp_path: Path, fake: Callable[..., Calls]) -> None:
    wandb, trackio, paths = fake("wandb"), fake("trackio"), RunPaths(tmp_path / "run")
    write(paths, 1, 3)
    forward(paths, "wandb", "trackio")
    write(paths, 3, 4)  # from the checkpoint of step 2
    forward(paths, "wandb", "trackio")
    inits = [what for kind, what in wandb if kind == "init"]
    assert inits[0]["id"] == inits[1]["id"]
    assert [what["resume"] for kind, what in trackio if kind == "init"] == ["never", "allow"]
    assert [row["step"] for row, _ in logged(wandb) if "step" in row] == [1, 2, 3, 3, 4]
    assert [step for row, step in logged(trackio)] == [1, 2, 3, 2, 3, 4, 3]
    assert logged(trackio)[0] == ({"reward": 0.125}, 1)


def test_tensorboards_files_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = RunPaths(tmp_path / "run")
    write(paths, 1, 4)
    assert forward(paths, "tensorboard") == []
    with paths.metrics.open("a") as file:  # again from the checkpoint of step 2, with other rewards
        for step in (3, 4, 5):
            file.write(json.dumps({"step": step, "time": 200.0 + step, "reward": 7.0}) + "\n")
    assert forward(paths, "tensorboard") == []
    read = EventAccumulator(str(paths.root / "tensorboard"))
    read.Reload()
    points = [(point.step, point.value) for point in read.Scalars("reward")]
    assert points == [(1, 0.125), (2, 0.25), (3, 7.0), (4, 7.0), (5, 7.0)]
    assert read.Scalars("reward")[-1].wall_time == 205.0


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(tmp_path: Path, fake: Callable[..., Calls]) -> None:
    wandb, trackio, paths = fake("wandb", fail_at=1), fake("trackio"), RunPaths(tmp_path / "run")
    write(paths, 1, 4)
    said = forward(paths, "wandb", "trackio")
    assert said == ["logging to wandb has ended: ConnectionError: the service is away; the run goes on without it"]
    assert (len(logged(wandb)), len(logged(trackio))) == (1, 5)


def test_a_tracker_that_does_not_start_is_said_too(
    tmp_path: Path, fake: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("wandb")

    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    write(RunPaths(tmp_path / "run"), 1, 2)
    (said,) = forward(RunPaths(tmp_path / "run"), "wandb")
    assert "RuntimeError: api_key not configured" in said


def test_a_tracker_that_hangs_does_not_hold_the_run_up(
    tmp_path: Path, fake: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("wandb")
    go = threading.Event()
    monkeypatch.setattr(FakeRun, "finish", lambda self: go.wait(30))
    monkeypatch.setattr(loggers, "CLOSE_TIMEOUT_S", 0.2)
    write(RunPaths(tmp_path / "run"), 1, 1)
    (said,) = forward(RunPaths(tmp_path / "run"), "wandb")
    go.set()
    assert "wandb did not finish within 0 s" in said


def test_rows_are_forwarded_while_the_run_goes_on(tmp_path: Path, fake: Callable[..., Calls]) -> None:
    calls, paths = fake("wandb"), RunPaths(tmp_path / "run")
    write(paths, 1, 1)
    seen = threading.Event()
    original = FakeRun.log

    def log(self: FakeRun, metrics: dict[str, Any]) -> None:
        original(self, metrics)
        if metrics.get("step") == 2:
            seen.set()

    FakeRun.log = log  # type: ignore[method-assign,assignment]
    try:
        with LogForwarder(LoggingSection(to=["wandb"]), paths, {}):
            write(paths, 2, 2)
            assert seen.wait(10)
    finally:
        FakeRun.log = original  # type: ignore[method-assign]
    assert calls[-1][0] == "finish"


def test_no_tracker_no_thread_no_file(tmp_path: Path) -> None:
    write(RunPaths(tmp_path / "run"), 1, 1)
    assert forward(RunPaths(tmp_path / "run")) == []
    assert not (tmp_path / "run" / "loggers.json").exists()


def test_what_is_not_installed_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb trackio"):
        trackers.check_installed(["wandb", "trackio"])
    for command in ("check", "run"):
        assert main([command, str(write_config(tmp_path)), "logging.to=[wandb]"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "wandb not installed; run: pip install wandb" in error
    assert not (tmp_path / "runs").exists()


def test_each_tracker_once() -> None:
    with pytest.raises(ValueError, match="name each tracker once"):
        LoggingSection(to=["wandb", "wandb"])

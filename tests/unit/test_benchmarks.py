"""The benchmarks: they explain themselves, refuse wrong input, and compute rightly. Nothing is measured here."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = ("vs_trl.py", "async_vs_sync.py")


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load(monkeypatch, "sides")


@pytest.fixture
def async_vs_sync(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load(monkeypatch, "async_vs_sync")


def _load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script: str) -> None:
    done = _run(script, "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("examples:", "--start", "--target", "--steps", "--seed", "--json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--start", "/nowhere"], "--start /nowhere"),
        (["--target", "75"], "--target 75"),
        (["--steps", "0"], "--steps"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = _run("async_vs_sync.py", "--out", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    done = _run("async_vs_sync.py", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "exists already" in done.stderr


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(0.0, 0.25), (10.0, 0.5), (20.0, 1.0)], 15.0),  # on the line between two measurements
        ([(0.0, 0.25), (10.0, 0.75)], 10.0),
        ([(0.0, 0.8), (10.0, 0.9)], 0.0),  # there from the start
        ([(0.0, 0.25), (10.0, 0.7)], None),
        ([(0.0, 0.5), (10.0, 0.4), (20.0, 0.9)], 17.0),  # from the last measurement below, not the best one
        ([(0.0, 0.5), (10.0, 1.0), (20.0, 0.5)], 5.0),  # the first time counts
        ([], None),
    ],
)
def test_time_to_target(sides: ModuleType, curve: list[tuple[float, float]], expected: float | None) -> None:
    assert sides.time_to_target(curve, 0.75) == (None if expected is None else pytest.approx(expected))


def test_ratio_of_what_is_missing_is_missing(sides: ModuleType) -> None:
    assert sides.ratio(6.0, 3.0) == 2.0
    assert sides.ratio(None, 3.0) is None
    assert sides.ratio(3.0, None) is None
    assert sides.ratio(3.0, 0.0) is None


def test_rates_of_a_run_count_from_the_start_of_training(sides: ModuleType) -> None:
    events: list[dict[str, Any]] = [
        {"time": 90.0, "event": "phase", "name": "starting"},
        {"time": 95.0, "event": "evaluation", "step": 0},
        {"time": 100.0, "event": "phase", "name": "training"},
        {"time": 97.0, "event": "actor_ready", "name": "actor-0"},
        {"time": 99.0, "event": "actor_ready", "name": "actor-1"},
    ]
    metrics = [
        {"time": 110.0, "sample/staleness_histogram": {"0": 60, "1": 40}},
        {"time": 112.0, "sample/staleness_histogram": {"2": 300}},
        {"time": 114.0, "sample/staleness_histogram": {"2": 200}},
    ]
    late = [{**event, "time": 104.0} if event["event"] == "actor_ready" else event for event in events]
    assert sides.training_of("zeroq", metrics, late).steps == [6.0, 8.0, 10.0]
    side = sides.training_of("zeroq", metrics, events)
    assert side.steps == [10.0, 12.0, 14.0]
    assert side.tokens_per_s == pytest.approx(600 / 14)
    assert sides.settled_rate(side) == pytest.approx(500 / 4)  # without the first step
    assert side.to_json()["seconds"] == 14.0


def test_idle_is_the_share_of_samples_without_a_lease(async_vs_sync: ModuleType) -> None:
    samples = [(0.0, 0), (1.0, 16), (2.0, 0), (3.0, 4), (4.0, 1), (9.0, 0)]
    assert async_vs_sync.idle_share(samples, 1.0, 4.0) == pytest.approx(0.25)
    assert async_vs_sync.idle_share(samples, 5.0, 6.0) is None


def test_cores_used_is_processor_time_per_second(async_vs_sync: ModuleType) -> None:
    samples = [(0.0, 5.0), (1.0, 6.0), (3.0, 7.5), (9.0, 20.0)]
    assert async_vs_sync.cores_used(samples, 1.0, 4.0) == pytest.approx(0.75)
    assert async_vs_sync.cores_used(samples, 1.0, 2.0) is None


def test_mean_staleness_weighs_tokens(async_vs_sync: ModuleType) -> None:
    rows = [{"sample/staleness_histogram": {"0": 100}}, {"sample/staleness_histogram": {"1": 100, "2": 200}}]
    assert async_vs_sync.staleness_mean(rows) == pytest.approx(500 / 400)
    assert async_vs_sync.staleness_mean([]) == 0.0


def test_the_gain_is_bounded_by_the_busier_side(async_vs_sync: ModuleType) -> None:
    assert async_vs_sync.bound(2.0, 1.0, 1.0) == 2.0
    assert async_vs_sync.bound(2.0, 1.6, 0.4) == pytest.approx(1.25)

"""What a person sees of a run: from the files to a live picture or plain lines."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from launcher.display import LiveDisplay, PlainDisplay, clock, eta_s, make_display, number
from launcher.monitor import LineTail, RunView, token_rate
from launcher.report import read_view
from tests.unit.launcher_history import STATUS, write_history
from tests.unit.launcher_inputs import make_config


def test_a_tail_gives_complete_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = LineTail(path)
    assert tail.read() == []
    path.write_text('{"a": 1}\n{"a": ')
    assert tail.read() == [{"a": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert tail.read() == [{"a": 2}]
    assert tail.read() == []


def test_a_step_done_again_replaces_its_first_version() -> None:
    view = RunView()
    view.add_metrics([{"step": 1}, {"step": 2, "old": 1}, {"step": 3}, {"step": 2}])
    assert view.rows == [{"step": 1}, {"step": 2}]


def test_phases_and_rates(tmp_path: Path) -> None:
    view = read_view(write_history(tmp_path))
    spent = view.phase_seconds()
    assert spent == {
        "starting": 10.0,
        "cold_start": 10.0,
        "evaluating_before": 10.0,
        "training": 10.0,
        "evaluating_after": 10.0,
    }
    assert token_rate([(0.0, 100), (2.0, 500)]) == 200.0
    assert token_rate([(0.0, 100)]) is None


def test_remaining_time_is_that_of_the_last_steps(tmp_path: Path) -> None:
    view = read_view(write_history(tmp_path, finished=False))
    config = make_config(tmp_path, "learner.max_steps=10")
    assert eta_s(config, view) == 12.0


def test_the_live_picture_shows_every_figure(tmp_path: Path) -> None:
    view = read_view(write_history(tmp_path, finished=False))
    view.add_status(STATUS, 0.0)
    view.add_status(STATUS | {"counters": {"tokens_generated": 7000}}, 4.0)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(LiveDisplay(make_config(tmp_path, "learner.max_steps=10"), console).render(view))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("step 4/10", "ETA 00:12", "0.250 (step 0)", "500 tokens/s", "1,000 tokens/s", "0.50 / 1"):
        assert expected in text
    assert "generate 3+4, grade 2+1, ready 1" in text


def test_plain_lines_have_no_control_characters(tmp_path: Path) -> None:
    config, stream = make_config(tmp_path), io.StringIO()
    display = make_display(config, stream)
    assert isinstance(display, PlainDisplay)
    with display:
        display.update(RunView())
        display.update(read_view(write_history(tmp_path)))
        display.update(read_view(write_history(tmp_path)))
    lines = stream.getvalue().splitlines()
    assert not any(ord(c) < 32 for c in stream.getvalue().replace("\n", ""))
    assert len([line for line in lines if "training with GRPO" in line]) == 1
    assert any("held-out after step 4: pass@1 0.750, greedy 0.800, mean length 20.0" in line for line in lines)


def test_plain_lines_count_from_the_runs_beginning_for_whoever_watches_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.display.PLAIN_EVERY_S", 0.0)
    stream, view, began = io.StringIO(), RunView(), time.time() - 600.0
    view.phases += [("starting", began), ("loading", began + 65.0)]
    PlainDisplay(make_config(tmp_path), stream).update(view)
    assert [line.partition("]")[0] for line in stream.getvalue().splitlines()] == ["[00:00", "[01:05", "[10:00"]


def test_figures_for_people() -> None:
    assert (number(None, 2), number(float("nan"), 2), number(1234.5, 1)) == ("-", "-", "1,234.5")
    assert (clock(61), clock(3661)) == ("01:01", "1:01:01")

"""Summary and report: the agreed fields, one self-contained page, also for a run that did not finish."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from launcher.report import load_summary, read_view, write_report
from launcher.summary import groups_lost, make_summary, print_summary, write_summary
from tests.unit.launcher_history import STATUS, write_history
from tests.unit.launcher_inputs import make_config

AGREED = {
    *("pass_at_1_before", "pass_at_1_after", "greedy_before", "greedy_after", "mean_length_before"),
    *("mean_length_after", "wall_s", "steps", "actor_tokens_per_s", "learner_tokens_per_s", "staleness_max"),
    *("groups_trained", "groups_lost", "groups_duplicated"),
}


def test_a_summary_has_the_agreed_fields(tmp_path: Path) -> None:
    paths = write_history(tmp_path)
    (tmp_path / "learner_summary.json").write_text(json.dumps({"groups_duplicated": 0, "tokens": 7}))
    view = read_view(paths)
    summary = make_summary(paths, make_config(tmp_path), view, STATUS, 50.0, "finished")
    assert summary.keys() >= AGREED
    assert (summary["pass_at_1_before"], summary["pass_at_1_after"]) == (0.25, 0.75)
    assert (summary["mean_length_before"], summary["mean_length_after"]) == (10.0, 20.0)
    assert (summary["steps"], summary["staleness_max"], summary["learner_tokens_per_s"]) == (4, 2, 1000.0)
    assert (summary["groups_trained"], summary["groups_lost"], summary["groups_duplicated"]) == (8, 1, 0)
    assert summary["phases_s"]["training"] == 10.0
    assert summary["tokens"] == 7


def test_the_learners_own_figures_win(tmp_path: Path) -> None:
    paths = write_history(tmp_path)
    (tmp_path / "learner_summary.json").write_text(json.dumps({"pass_at_1_after": 0.5, "steps": 9}))
    summary = make_summary(paths, make_config(tmp_path), read_view(paths), None, 1.0, "finished")
    assert (summary["pass_at_1_after"], summary["steps"], summary["groups_lost"]) == (0.5, 9, None)


def test_lost_groups_are_those_without_an_outcome() -> None:
    assert groups_lost(STATUS) == 1
    assert groups_lost(None) is None


def test_the_printed_summary_says_where_things_are(tmp_path: Path) -> None:
    paths = write_history(tmp_path)
    (paths.checkpoints / "step-4").mkdir(parents=True)
    summary = make_summary(paths, make_config(tmp_path), read_view(paths), STATUS, 50.0, "finished")
    console = Console(file=io.StringIO(), width=100)
    print_summary(paths, summary, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert str(paths.report) in text
    assert str(paths.checkpoints / "step-4") in text
    assert re.search(r"held-out pass@1\s+│\s+0.250\s+│\s+0.750", text)


def test_the_report_is_one_file_with_its_figures(tmp_path: Path) -> None:
    paths = write_history(tmp_path)
    (tmp_path / "samples").mkdir()
    sample = {"step": 1, "prompt": "<b>?", "text": "42", "reward": 1.0}
    pq.write_table(pa.Table.from_pylist([sample]), tmp_path / "samples" / "samples-1-1.parquet")
    summary = make_summary(paths, make_config(tmp_path), read_view(paths), STATUS, 50.0, "finished")
    write_summary(paths, summary)
    page = write_report(paths, summary).read_text()
    names = {p.stem for p in (tmp_path / "plots").glob("*.png")}
    assert names == {"reward", "accuracy", "length", "staleness", "time", "phases"}
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "&lt;b&gt;?" in page
    assert "actor-0: signal SIGKILL" in page


def test_an_unfinished_run_has_a_report_too(tmp_path: Path) -> None:
    page = write_report(write_history(tmp_path, finished=False)).read_text()
    assert "not finished" in page
    empty = tmp_path / "empty"
    assert "not finished" in write_report(write_history(empty, finished=False, steps=0)).read_text()


@pytest.mark.parametrize("content", [b"", b"{cut", b"[]\n7\n", b"{}\n", b"\xff\xfe\n"])
@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "events.jsonl", "config.yaml", "versions.json"])
def test_a_damaged_file_costs_only_its_own_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    paths = write_history(tmp_path)
    (paths.root / name).write_bytes(content)
    assert load_summary(paths) is None
    monkeypatch.setattr("launcher.report.draw_rewards", lambda *_: {})
    monkeypatch.setattr("launcher.report.draw_all", lambda view: {"seconds": (str(view.phase_seconds()), b"")})
    assert "not finished" in write_report(paths, load_summary(paths)).read_text(encoding="utf-8")

"""What a person sees of a supervised job: plain lines, a bar on a terminal, the table and the report at its end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.config import TrainingSection
from common.lifecycle import RunPaths
from launcher import jobs
from launcher.job_report import print_job_summary, write_job_report
from launcher.jobs import JobProgress
from launcher.machine import Machine, MachineLacks, place_job
from launcher.processes import job_spec


def record(paths: RunPaths, time: float, event: str, **fields: Any) -> None:
    with paths.events.open("a") as file:
        file.write(json.dumps({"time": time, "event": event, **fields}) + "\n")


def told(paths: RunPaths, console: Console) -> None:
    """A job from its start to its last step."""
    record(paths, 1.0, "progress", step=99, of=99, loss=9.9, tokens_per_s=9)  # of an earlier start
    with JobProgress(paths, console) as progress:
        record(paths, 10.0, "phase", name="training")
        record(paths, 20.0, "progress", step=10, of=100, loss=1.25, tokens_per_s=4321.0)
        progress.update()
        record(paths, 30.0, "progress", step=20, of=100, loss=0.5, tokens_per_s=4000.0)
        progress.update()


def test_plain_lines_say_loss_pace_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    told(RunPaths(tmp_path), Console(file=out))
    lines = [line.split("] ")[1] for line in out.getvalue().splitlines()]
    assert lines == [
        "training",
        "step 10/100, loss 1.2500, 4,321 tokens/s",
        "step 20/100, loss 0.5000, 4,000 tokens/s, ETA 01:20",  # 10 steps in 10 s, 80 to go
    ]


def test_between_lines_it_is_quiet(tmp_path: Path) -> None:
    out = io.StringIO()
    told(RunPaths(tmp_path), Console(file=out))
    assert [line.split("] ")[1] for line in out.getvalue().splitlines()] == ["training"]


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    out = io.StringIO()
    told(RunPaths(tmp_path), Console(file=out, force_terminal=True, width=120))
    assert "training" in out.getvalue()
    assert "ETA 01:20" in out.getvalue()
    assert "9.9" not in out.getvalue()


def test_report_and_table_show_what_there_is(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "job<1>")
    paths.root.mkdir()
    rows = [{"step": i, "loss": 1 / i, "learning_rate": 1e-3, "grad_norm": 1.0} for i in range(1, 120)]
    rows[50]["eval_loss"] = 0.7
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"result": "finished", "steps": 119, "loss": 0.01, "num_dropped": 3, "wall_s": 61.0, "eval_loss": 0.7}
    paths.summary.write_text(json.dumps(summary))
    report = write_job_report(paths).read_text()
    assert "job&lt;1&gt;" in report
    for text in ("Loss of response tokens", "Learning rate", "held-out loss", "examples left out"):
        assert text in report
    assert "likeliest" not in report  # no accuracy was logged
    out = io.StringIO()
    print_job_summary(paths, summary, Console(file=out, width=100))
    assert "optimizer steps" in out.getvalue()
    assert "01:01" in out.getvalue()


def test_a_job_has_the_machine_to_itself() -> None:
    cpu = TrainingSection(device="cpu", ranks=2)
    assert place_job(cpu, Machine((0, 1, 2, 3), ())) == (2, ())
    assert place_job(TrainingSection(device="cpu", num_threads=3), Machine((0, 1, 2, 3), ())) == (3, ())
    two = TrainingSection(device="cuda", ranks=2)
    assert place_job(two, Machine((0, 1), ("0", "1", "2")))[1] == ("0", "1")
    with pytest.raises(MachineLacks, match=r"learner\.device=cuda: no GPU"):
        place_job(two, Machine((0,), ()))
    with pytest.raises(MachineLacks, match=r"learner\.ranks=2: 1 GPU"):
        place_job(two, Machine((0,), ("0",)))


def test_several_ranks_are_started_by_torchrun(tmp_path: Path) -> None:
    one = job_spec("learner.supervised", TrainingSection(ranks=1), RunPaths(tmp_path), 1, ("3",))
    two = job_spec("learner.supervised", TrainingSection(ranks=2), RunPaths(tmp_path), 1)
    assert one.command[1:] == ("-m", "learner.supervised", "--run-dir", str(tmp_path), "--name", "learner")
    assert one.environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert two.command[1:6] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert two.command[6:8] == ("-m", "learner.supervised")

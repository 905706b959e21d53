"""Fine-tuning jobs as processes: several ranks, kills, stops, bad input, and the command."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from common.config_file import dump_config
from common.errors import RunFailure, UserError
from common.job_config import SftConfig
from common.lifecycle import RunPaths, StopFlag
from launcher.cli import main
from launcher.jobs import run_job
from tests.learner_rig import ROOT, read_lines, tiny_model, wait_until
from tests.supervised_rig import PAIRS, job_config, optimizer_state, weights, write_corpus

pytestmark = pytest.mark.usefixtures("no_leaked_processes")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "train.parquet")


def run(root: Path, config: SftConfig) -> tuple[dict[str, Any], str]:
    """A job as a pipeline runs it; its summary and what it said."""
    said = io.StringIO()
    console = Console(file=said, force_terminal=False)
    return run_job("sft", config, RunPaths(root), stop=StopFlag(), console=console), said.getvalue()


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process in our checkout."""
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=ENVIRONMENT, stdout=out, stderr=out)


def test_two_ranks_equal_one(tmp_path: Path, model: Path, corpus: Path) -> None:
    sft = {"eval_data": str(write_corpus(tmp_path / "held_out.jsonl", PAIRS[:9])), "max_steps": 12}
    one, said = run(tmp_path / "one", job_config(model, corpus, sft=sft))
    two, _ = run(tmp_path / "two", job_config(model, corpus, sft=sft, learner={"ranks": 2}))
    assert (one["result"], one["steps"], one["num_examples"]) == ("finished", 12, 50)
    assert [line.split("] ")[1] for line in said.splitlines()][:3] == [
        "tokenising the data", "loading the model", "training",
    ]  # fmt: skip
    assert "step 12/12, loss" in said
    assert json.loads((tmp_path / "one" / "summary.json").read_text()) == one
    rows = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for own, other in zip(*rows, strict=True):
        for key in ("loss", "grad_norm", "mean_token_accuracy", "num_tokens", "learning_rate"):
            assert other[key] == pytest.approx(own[key], rel=1e-4), key
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    ends = [weights(Path(summary["checkpoint"])) for summary in (one, two)]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_a_killed_job_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, model: Path, corpus: Path) -> None:
    sft, learner = {"max_steps": 150}, {"checkpoint_every_steps": 20}
    whole, _ = run(tmp_path / "whole", job_config(model, corpus, sft=sft, learner=learner))
    config = job_config(model, corpus, sft=sft, learner=learner, resume="auto")
    root = tmp_path / "killed"
    root.mkdir()
    dump_config(config, root / "config.yaml")
    job = start(["learner.supervised", "--run-dir", str(root)], root / "log")
    try:
        wait_until(lambda: (root / "checkpoints" / "step-40").exists(), "step 40", 60)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait(timeout=20)
    steps = len(read_lines(root / "metrics.jsonl"))
    assert 40 <= steps < 150
    killed, _ = run(root, config)
    assert killed["resumed_from"] is not None
    assert killed["num_tokens"] == whole["num_tokens"]
    ends = [Path(summary["checkpoint"]) for summary in (whole, killed)]
    own, other = (weights(end) for end in ends)
    assert all(torch.equal(own[name], other[name]) for name in own)
    moments, others = (optimizer_state(end) for end in ends)
    for name, state in moments.items():
        assert torch.equal(state["exp_avg"], others[name]["exp_avg"])
        assert torch.equal(state["exp_avg_sq"], others[name]["exp_avg_sq"])


def test_bad_input_of_several_ranks_is_the_users_error(tmp_path: Path, model: Path) -> None:
    long = write_corpus(tmp_path / "long.parquet", [("1 + 1 =", "2" * 300)])
    config = job_config(model, long, sft={"max_tokens": 50}, learner={"ranks": 2})
    with pytest.raises(UserError, match=r"long\.parquet: 1 of 1 examples are longer than 50 tokens"):
        run(tmp_path / "run", config)


def test_a_job_that_dies_is_a_failure_with_the_end_of_its_log(tmp_path: Path, model: Path, corpus: Path) -> None:
    root = tmp_path / "run"
    (root / "checkpoints").mkdir(parents=True)
    (root / "checkpoints" / ".step-10.tmp").mkdir()
    (root / "metrics.jsonl").mkdir()  # cannot be written
    with pytest.raises(RunFailure, match=r"learner ended with exit code 1; .*(?s:.)*metrics\.jsonl"):
        run(root, job_config(model, corpus))


def zeroq(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_trains_and_reports(tmp_path: Path, model: Path, corpus: Path) -> None:
    dump_config(job_config(model, corpus), tmp_path / "job.yaml")
    done = zeroq("sft", "job.yaml", "run.name=a", "sft.max_steps=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "runs" / "a"
    assert "checkpoint" in done.stdout
    assert "step-3" in done.stdout
    report = (root / "report.html").read_text()
    assert "Loss of response tokens" in report
    assert "held-out loss" not in report
    assert {"config.yaml", "versions.json", "summary.json"} <= {path.name for path in root.iterdir()}


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives the test's process its signal handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    dump_config(job_config(model, corpus), tmp_path / "job.yaml")
    half = write_corpus(tmp_path / "half.parquet")
    half.write_bytes(half.read_bytes()[:-50])
    write_corpus(tmp_path / "long.parquet", [("1 + 1 =", "2" * 300)])
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for overrides, message in (
        (["run.name=a"], "exists; choose another run.name"),
        (["sft.data=half.parquet"], "not a whole Parquet file (its end is missing)"),
        (["sft.data=nothing.parquet"], "nothing.parquet: no such file"),
        (["sft.data=corpus.csv"], "expected a name ending in"),
        (["model=nowhere/at/all"], "no such directory"),
        (["resume=/nowhere"], "resume=/nowhere: no such directory"),
        (["learner.device=cuda"], "learner.device=cuda"),
        (["sft.data=long.parquet", "sft.max_tokens=50"], "1 of 1 examples are longer than 50 tokens"),
    ):
        code = main(["sft", "job.yaml", "run.name=b", *overrides])
        said = capsys.readouterr().err
        assert (code, message in said) == (2, True), said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, model: Path, corpus: Path) -> None:
    dump_config(job_config(model, corpus, sft={"max_steps": 100_000}), tmp_path / "job.yaml")
    command = [sys.executable, "-m", "launcher", "sft", "job.yaml", "run.name=a"]
    job = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    root = tmp_path / "runs" / "a"
    try:
        wait_until(lambda: (root / "checkpoints" / "step-8").exists(), "step 8", 60)
        job.send_signal(signal.SIGINT)
        output, _ = job.communicate(timeout=60)
    finally:
        job.kill()
        job.wait(timeout=20)
    assert job.returncode == 130, output
    summary = json.loads((root / "summary.json").read_text())
    assert summary["result"] == "interrupted"
    step = summary["steps"]
    assert (root / "checkpoints" / f"step-{step}" / "manifest.json").exists()
    again = zeroq("sft", "job.yaml", "run.name=a", "resume=auto", f"sft.max_steps={step + 2}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((root / "summary.json").read_text())["steps"] == step + 2
    assert (root / "config.before-resume.yaml").exists()

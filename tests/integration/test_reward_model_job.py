"""The reward-model job as a process: killed and resumed, on two ranks, by `zeroq reward-model`, and its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.config_file import dump_config
from common.job_config import RewardModelConfig
from common.reward_model import read_reward_model
from tests.reward_rig import make_base, make_job, preferences, run_job, write_rows

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_leaked_processes")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model")


def start(directory: Path, config: RewardModelConfig, *, ranks: int = 1) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    dump_config(config, directory / "config.yaml")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--module")
    command = [sys.executable, *(torchrun if ranks > 1 else ("-m",)), "learner.reward_model"]
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--run-dir", str(directory), "--name", "learner"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
        )


def finish(directory: Path, config: RewardModelConfig, *, ranks: int = 1) -> dict[str, Any]:
    process = start(directory, config, ranks=ranks)
    assert process.wait(timeout=200) == 0, (directory / "log").read_text()[-3000:]
    summary: dict[str, Any] = json.loads((directory / "learner_summary.json").read_text())
    return summary


def weights(summary: dict[str, Any]) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(summary["checkpoint"]) / "model.safetensors"))


def test_killed_and_resumed_equals_never_killed_and_two_ranks_equal_one(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.parquet", preferences("helpful", 120))
    settings: dict[str, Any] = {"lr": 3e-4, "learner": {"checkpoint_every_steps": 1, "keep_checkpoints": 2}}
    whole = run_job(tmp_path / "whole", make_job(base, "helpful", data, **settings))
    assert whole["steps"] == 7

    killed = tmp_path / "killed"
    process = start(killed, make_job(base, "helpful", data, **settings))
    deadline = time.monotonic() + 100
    while not list((killed / "checkpoints").glob("step-[2-9]/manifest.json")):
        assert process.poll() is None, (killed / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = finish(killed, make_job(base, "helpful", data, resume="auto", **settings))
    assert resumed["resumed_from"] is not None
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    assert read_reward_model(resumed["checkpoint"]) == read_reward_model(whole["checkpoint"])

    settings["learner"] |= {"ranks": 2, "tokens_per_microbatch": 512}
    two = finish(tmp_path / "two", make_job(base, "helpful", data, **settings), ranks=2)
    assert two["accuracy"] == whole["accuracy"]
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=0, atol=2e-4, msg=lambda t, n=name: f"{n}: {t}")
    assert read_reward_model(two["checkpoint"]).scale == pytest.approx(
        read_reward_model(whole["checkpoint"]).scale, rel=1e-2
    )


def test_a_stop_saves_a_checkpoint_that_is_no_reward_model_yet(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 200))
    config = make_job(base, "helpful", data, epochs=1000.0)
    process = start(tmp_path / "run", config)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None, (tmp_path / "run" / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 0
    summary = json.loads((tmp_path / "run" / "learner_summary.json").read_text())
    assert summary["stopped"]
    checkpoint = Path(summary["checkpoint"])
    assert (checkpoint / "manifest.json").exists()
    assert not (checkpoint / "reward_model.json").exists()


def test_the_command_trains_and_refuses(tmp_path: Path, base: Path) -> None:
    data = write_rows(tmp_path / "labels.parquet", preferences("safety", 100))
    preset = ROOT / "recipes" / "configs" / "reward_model_safety.yaml"
    common = [f"model={base}", f"run.dir={tmp_path}", "learner.ranks=1", "learner.device=cpu", "learner.dtype=float32"]
    common += ["learner.num_threads=1", "reward_model.max_tokens=128", "reward_model.batch_size=32"]

    def zeroq(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "launcher",
            "reward-model",
            str(preset),
            *common,
            f"run.name={name}",
            *overrides,
        ]
        return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)

    done = zeroq("good", f"reward_model.data={data}")
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((tmp_path / "good" / "summary.json").read_text())
    assert (summary["result"], summary["steps"], summary["reward_kind"]) == ("finished", 3, "safety")
    assert read_reward_model(summary["checkpoint"]).kind == "safety"
    assert (tmp_path / "good" / "report.html").exists()

    half = tmp_path / "half.parquet"
    half.write_bytes(data.read_bytes()[:400])
    for name, override, message in [
        ("a", f"reward_model.data={half}", "half.parquet: not a whole Parquet file"),
        ("b", "reward_model.data=none.parquet", "none.parquet: no such file"),
        ("c", "reward_model.kind=useful", "reward_model.kind = 'useful'"),
    ]:
        bad = zeroq(name, f"reward_model.data={data}", override)
        assert bad.returncode == 2, bad.stderr + bad.stdout
        assert bad.stderr.startswith("error: "), bad.stderr
        assert message in bad.stderr
        assert bad.stderr.count("\n") == 1
        assert not (tmp_path / name).exists()

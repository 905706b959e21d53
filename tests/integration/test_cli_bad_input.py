"""Bad input to the `zeroq` command: exit code 2, one line on standard error, nothing started, nothing overwritten."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.run_directory import locked, open_run
from tests.unit.launcher_inputs import write_config, write_problems

ROOT = Path(__file__).resolve().parents[2]


def zeroq(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, without a hub and without GPUs."""
    added = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ZEROQ_DATA": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        cwd=folder,
        env=os.environ | added | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refuse(folder: Path, *arguments: str) -> str:
    """The one line with which `zeroq run` refuses."""
    before = sorted(folder.rglob("*"))
    done = zeroq(folder, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(folder.rglob("*")) == before
    return done.stderr


def no_change(_folder: Path) -> None: ...


def break_line(folder: Path) -> None:
    with (folder / "problems.jsonl").open("a") as file:
        file.write("{broken\n")


def empty_line(folder: Path) -> None:
    with (folder / "problems.jsonl").open("a") as file:
        file.write("\n")


def eval_only(folder: Path) -> None:
    write_problems(folder / "problems.jsonl", 20, eval_only=True)


def no_eos(folder: Path) -> None:
    (folder / "model" / "tokenizer_config.json").write_text("{}")


def long_prompt(folder: Path) -> None:
    with (folder / "problems.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x" * 100, "answer": "1"}) + "\n")


def no_model(folder: Path) -> None:
    (folder / "model").rename(folder / "moved")


CASES: list[tuple[Callable[[Path], None], str, str]] = [
    (no_change, "learner.lrr=1", "did you mean learner.lr?"),
    (no_change, "learner.max_steps=many", "learner.max_steps = 'many'"),
    (no_change, "rollout.group_size=1", "override 'rollout.group_size=1'"),
    (no_change, "model=/nowhere", "model /nowhere: no such directory"),
    (no_model, "seed=0", "no such directory"),
    (no_eos, "seed=0", "no end-of-sequence token"),
    (no_change, "data.train=none.jsonl", "none.jsonl: no such file"),
    (break_line, "seed=0", "problems.jsonl:21: not valid JSON"),
    (empty_line, "seed=0", "problems.jsonl:21: empty line"),
    (eval_only, "seed=0", "problems.jsonl:1: marked eval_only"),
    (long_prompt, "seed=0", "problems.jsonl:21: prompt of 101 tokens"),
    (no_change, "rollout.max_tokens=64", "rollout.max_tokens=64 leaves no room"),
    (no_change, "learner.device=cuda", "no GPU is visible"),
    (no_change, "actor.cpu_threads='9999'", "core 9999 is not available"),
    (no_change, "resume=/nowhere", "resume=/nowhere: no such directory"),
    (no_change, "resume=auto", "resume=auto needs run.name"),
    (no_change, "run.name=../up", "run.name='../up'"),
    (no_change, "run.dir=problems.jsonl", "is not a directory we may write to"),
    (no_change, f"run.name={'x' * 300}", "300 characters; give it 1 to 200"),
    (no_change, "metrics.port=9400", "set metrics.port=0"),
    (no_change, "metrics.host=192.0.2.1", "metrics.host=192.0.2.1: cannot bind there"),
    (no_change, "weights.host=192.0.2.1", "weights.host=192.0.2.1: cannot bind there"),
    (no_change, "actor.replicas=65", "actor.replicas=65: at most 64 on one machine"),
    (no_change, "evaluator.replicas=257", "evaluator.replicas=257: at most 256 on one machine"),
    (
        no_change,
        "reward.components=[{name: mine, kind: function, function: 'nowhere:f'}]",
        "reward component 'mine': function nowhere:f",
    ),
]


@pytest.mark.parametrize(("damage", "override", "says"), CASES, ids=[f"{c[0].__name__}-{c[1][:24]}" for c in CASES])
def test_bad_input_is_refused(tmp_path: Path, damage: Callable[[Path], None], override: str, says: str) -> None:
    config = write_config(tmp_path)
    damage(tmp_path)
    assert says in refuse(tmp_path, "run", str(config), override)


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert f"broker.ports.actor={port}: cannot bind" in refuse(
            tmp_path, "run", str(config), f"broker.ports.actor={port}"
        )


def test_an_existing_run_is_left_as_it_is(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("precious")
    assert "exists; choose another run.name" in refuse(tmp_path, "run", str(config), "run.name=mine")
    assert (run / "config.yaml").read_text() == "precious"


def test_a_run_that_goes_on_is_not_joined(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config.read_text())
    with locked(open_run(str(run))):
        done = zeroq(tmp_path, "run", str(config), "run.name=mine", "resume=auto")
    assert done.returncode == 2
    assert "a run is going on in it" in done.stderr
    assert (run / "config.yaml").read_text() == config.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["run"],
        ["run", "none.yaml"],
        ["check", "config.yaml", "--fast"],
        ["status", "nowhere"],
        ["report"],
        ["scale", "nowhere", "actors=2"],
        ["eval", "model", "--data", "none.jsonl"],
        ["eval", "model", "--data", "problems.jsonl", "--samples", "0"],
        ["eval", "model", "--data", "problems.jsonl", "--limit", "0"],
        ["eval", "model", "--data", "problems.jsonl", "--max-tokens", "4000"],
        ["eval", "model", "--data", "problems.jsonl", "--json", "no/such/dir.json"],
        ["eval", "model", "--data", "problems.jsonl", "--standings", "none.jsonl"],
        ["init-model", "model"],
        ["init-model", "new", "--seed", "-1"],
        ["init-model", "new", "--seed", "4294967296"],
        ["init-model", "/proc/none/model"],
        ["prepare", "config.yaml", "--run-dir", "/proc/none"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    write_config(tmp_path)
    assert refuse(tmp_path, *arguments)


def test_a_reader_that_leaves_is_no_failure_to_speak_of(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)  # what `| head` does
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "keygen", "--k8s"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_check_passes_what_is_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = zeroq(tmp_path, "check", str(config), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for expected in ("15 to train on, 5 held out", "2 groups x 2 = 4 rollouts", "credit for 6 groups"):
        assert expected in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_check_of_a_hub_model_without_a_hub_says_what_it_could_not_check(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = zeroq(tmp_path, "check", str(config), "model=nobody/nothing", "learner.device=cuda", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "note: model nobody/nothing" in done.stdout
    assert "note: it cannot run on this machine" in done.stdout
    assert zeroq(tmp_path, "check", str(config), "model=nobody/nothing", "learner.lr=-1").returncode == 2


def test_user_modules_in_the_working_directory_are_found_but_shadow_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "mine.py").write_text("def f(prompts, completions, **columns):\n    return [0.0] * len(prompts)\n")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('not ours')")
    reward = "reward.components=[{name: mine, kind: function, function: 'mine:f'}]"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launcher", "check", str(config), reward],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        started = time.monotonic()
        assert "zeroq run" in zeroq(tmp_path, "--help").stdout
        times.append(time.monotonic() - started)
    assert min(times) < 0.5

"""`zeroq prepare`: idempotent, safe against being killed half-way, careful of checkpoints."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import UserError
from common.lifecycle import RunPaths
from launcher import prepare as command
from launcher.cli import main
from launcher.prepare import prepare
from tests.unit.launcher_inputs import make_model_directory, write_config, write_problems


def state_of(root: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content of every file but the lock."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): (path.stat().st_ino, path.read_bytes()) for path in files}


def add_checkpoint(root: Path, model: Path, step: int = 4) -> Path:
    folder = root / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_directory_is_prepared_once(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "volume" / "run"
    assert "15 training problems, 5 held out" in prepare(config, run, [])
    paths = RunPaths(run)
    resolved = load_config(paths.config)
    assert (resolved.run.name, resolved.model) == ("run", str(tmp_path / "model"))
    assert json.loads(paths.versions.read_text())["configuration"] == str(config)
    assert len((run / "data" / "train.jsonl").read_text().splitlines()) == 15
    before = state_of(run)
    assert prepare(config, run, []) == f"{run} is prepared already"
    after = state_of(run)
    assert {k: v for k, v in after.items() if k != "config.yaml"} == {
        k: v for k, v in before.items() if k != "config.yaml"
    }
    assert not (run / ".prepare.tmp").exists()


@pytest.mark.parametrize("override", ["learner.lr=1e-3", "metrics.port=9400", "evaluator.sandbox_tier=1"])
def test_settings_that_data_do_not_depend_on_only_change_the_configuration(tmp_path: Path, override: str) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    data = state_of(run / "data")
    assert "already" in prepare(config, run, [override])
    assert state_of(run / "data") == data
    key = override.partition("=")[0].split(".")
    wanted = load_config(config, [override])
    assert getattr(getattr(load_config(run / "config.yaml"), key[0]), key[1]) == getattr(
        getattr(wanted, key[0]), key[1]
    )


def test_changed_configuration_or_data_is_prepared_again(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    checkpoint = add_checkpoint(run, tmp_path / "model")
    assert "10 training problems, 10 held out" in prepare(config, run, ["data.eval_size=10", "resume=auto"])
    write_problems(tmp_path / "problems.jsonl", 30)
    assert "20 training problems, 10 held out" in prepare(config, run, ["data.eval_size=10", "resume=auto"])
    assert len((run / "data" / "train.jsonl").read_text().splitlines()) == 20
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "manifest.json"]


def test_a_file_that_is_no_longer_wanted_goes(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, ["cold_start.steps=2"])
    assert (run / "data" / "cold_start.jsonl").exists()
    prepare(config, run, [])
    assert not (run / "data" / "cold_start.jsonl").exists()


def test_checkpoints_of_another_model_are_refused_and_left_alone(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    add_checkpoint(run, tmp_path / "model")
    other = make_model_directory(tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")  # same shapes
    before = state_of(run)
    with pytest.raises(UserError, match=r"step-4 of another model than .*other; put `model` back"):
        prepare(config, run, [f"model={other}", "resume=auto"])
    assert state_of(run) == before
    assert "prepared" in prepare(config, run, ["resume=auto"])  # the first model still is welcome


def test_a_directory_without_a_stamp_goes_by_the_shapes(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    add_checkpoint(run, tmp_path / "model")
    other = make_model_directory(tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"vocab_size": 129, "hidden_size": 7}))
    with pytest.raises(UserError, match="another model"):
        prepare(config, run, [f"model={other}", "resume=auto"])
    prepare(config, run, ["resume=auto"])


def test_checkpoints_are_not_passed_over(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    add_checkpoint(run, tmp_path / "model")
    with pytest.raises(UserError, match="resume=never would pass it over; set resume=auto"):
        prepare(config, run, [])


def _prepare_and_die(config: Path, run: Path, overrides: list[str], step: int) -> None:
    """Die by SIGKILL when the `step`-th file or folder is about to be put in its place."""
    left = step

    def dying(original):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return call

    for name in ("_swap", "_write_stamp", "_write_config"):
        setattr(command, name, dying(getattr(command, name)))
    prepare(config, run, overrides)


@pytest.mark.parametrize("step", range(5))
def test_killed_half_way_the_next_call_makes_it_whole(tmp_path: Path, step: int) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    add_checkpoint(run, tmp_path / "model")
    changed = ["data.eval_size=10", "resume=auto"]
    child = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(config, run, changed, step))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert "10 training problems, 10 held out" in prepare(config, run, changed)
    assert len((run / "data" / "eval.jsonl").read_text().splitlines()) == 10
    assert not (run / ".prepare.tmp").exists()
    assert "already" in prepare(config, run, changed)


def test_killed_half_way_and_called_with_the_old_configuration(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    changed = ["data.eval_size=10"]
    child = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(config, run, changed, 3))
    child.start()
    child.join(30)
    assert len((run / "data" / "eval.jsonl").read_text().splitlines()) == 10  # swapped, and not said to be complete
    assert "15 training problems, 5 held out" in prepare(config, run, [])
    assert len((run / "data" / "eval.jsonl").read_text().splitlines()) == 5


def test_what_was_taken_away_is_prepared_again(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, [])
    (run / "data" / "train.jsonl").unlink()
    assert "15 training problems" in prepare(config, run, [])


def test_the_tiny_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(path: Path, seed: int) -> None:
        made.append(seed)
        make_model_directory(path)
        (path / "model.safetensors").write_bytes(str(seed).encode())

    monkeypatch.setattr("launcher.ready.make_tiny_model", make)
    config, run = write_config(tmp_path), tmp_path / "run"
    prepare(config, run, ["model=tiny"])
    assert load_config(run / "config.yaml").model == str(run / "model")
    prepare(config, run, ["model=tiny"])
    prepare(config, run, ["model=tiny", "data.eval_size=6"])
    assert made == [0]
    prepare(config, run, ["model=tiny", "seed=1"])
    assert made == [0, 1]
    add_checkpoint(run, run / "model")
    with pytest.raises(UserError, match="another model"):
        prepare(config, run, ["model=tiny", "seed=2", "resume=auto"])
    assert (run / "model" / "model.safetensors").read_bytes() == b"1"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    assert main(["prepare", str(config), "--run-dir", str(run), "data.eval_size=4"]) == 0
    assert "16 training problems" in capsys.readouterr().out
    assert main(["prepare", str(config), "--run-dir", str(run), "data.train=gone.jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: gone.jsonl")
    assert error.count("\n") == 1


def test_a_model_that_comes_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a cluster another pod brings it; a container that ended would have a whole gang made anew."""
    monkeypatch.setattr(command, "LOOK_EVERY_S", 0.02)
    config, run = write_config(tmp_path), tmp_path / "volume" / "run"
    model = Path(load_config(config).model)
    assert model.is_absolute()
    hidden = model.with_name(".model.part")
    model.rename(hidden)
    arguments = ["prepare", str(config), "--run-dir", str(run)]
    assert main(arguments) == 2
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            hidden.rename(model)

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert main([*arguments, "--wait-for-model"]) == 0
    assert looks == 3
    out = capsys.readouterr().out
    assert out.count(f"model {model} is not there yet; waiting for it") == 1
    assert "prepared" in out

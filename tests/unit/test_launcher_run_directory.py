"""A run's directory appears complete or not at all, belongs to one launcher, and is found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import UserError
from common.lifecycle import RunPaths
from launcher.cli import main
from launcher.run_directory import choose_run_directory, is_running, locked, open_run, resume_note, staged
from tests.unit.launcher_inputs import make_config


def test_default_name_is_configuration_and_time(tmp_path: Path) -> None:
    root = choose_run_directory(make_config(tmp_path), Path("x/demo.yaml")).root
    assert root.parent == tmp_path / "runs"
    assert root.name.startswith("demo-20")


def fail_in(paths: RunPaths) -> None:
    with staged(paths) as stage:
        (stage.root / "file").touch()
        raise RuntimeError


def be_late_for(paths: RunPaths) -> None:
    with staged(paths) as stage:
        (stage.root / "mine").touch()
        paths.root.mkdir()
        (paths.root / "theirs").touch()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_in(RunPaths(tmp_path / "runs" / "a"))
    assert list(tmp_path.iterdir()) == []


def test_success_appears_under_its_name(tmp_path: Path) -> None:
    with staged(RunPaths(tmp_path / "runs" / "a")) as stage:
        (stage.root / "config.yaml").touch()
        assert not (tmp_path / "runs" / "a").exists()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]


def test_who_is_late_gets_an_error_and_changes_nothing(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be created"):
        be_late_for(paths)
    assert [p.name for p in paths.root.iterdir()] == ["theirs"]


def test_the_lock_is_exclusive_and_ends_with_its_holder(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert not is_running(paths)
    with locked(paths):
        assert is_running(paths)
        with pytest.raises(UserError, match="a run is going on"), locked(paths):
            pass
    assert not is_running(paths)


def test_the_newest_run_is_opened_by_default(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", ".hidden")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        os.utime(tmp_path / name / "config.yaml", (1000 - age, 1000 - age))
    assert open_run(None, str(tmp_path)).root.name == "new"
    with pytest.raises(UserError, match="not a run directory"):
        open_run(str(tmp_path))
    with pytest.raises(UserError, match="no runs below"):
        open_run(None, str(tmp_path / "new"))


def test_a_directory_that_cannot_be_made_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"cannot be made: .*; set run\.dir"), staged(RunPaths(Path("/proc/none/run"))):
        pass


def test_going_on_with_a_run_that_does_not_exist_is_said(tmp_path: Path) -> None:
    config = make_config(tmp_path, "resume=auto", "run.name=mistyped")
    paths = choose_run_directory(config, tmp_path / "config.yaml")
    assert "there is no run mistyped" in str(resume_note(config, paths))
    paths.root.mkdir(parents=True)
    assert resume_note(config, paths) is None
    assert resume_note(make_config(tmp_path), RunPaths(tmp_path / "new")) is None


def test_a_run_of_another_user_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_path: str | None) -> RunPaths:
        raise PermissionError(13, "Permission denied", "runs/theirs/config.yaml")

    monkeypatch.setattr("launcher.run_directory.open_run", refuse)
    monkeypatch.setattr("launcher.cli.signal.signal", lambda *_: None)
    assert main(["status", "runs/theirs"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: runs/theirs/config.yaml: user ")
    assert said.count("\n") == 1


def test_the_run_of_a_pipelines_stage_is_found(tmp_path: Path) -> None:
    pipeline = tmp_path / "runs" / "r1"
    pipeline.mkdir(parents=True)
    (pipeline / "pipeline.yaml").touch()
    with pytest.raises(UserError, match=r"a pipeline, not a run; .*; none has begun yet"):
        open_run(str(pipeline))
    run = pipeline / "stages" / "r1_zero" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=f"a pipeline, not a run; .*, such as {run}"):
        open_run(str(pipeline))
    assert open_run(None, str(tmp_path / "runs")).root == run.resolve()

"""A run's directory appears complete or not at all, belongs to one launcher, and is found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import UserError
from common.lifecycle import RunPaths
from launcher.run_directory import choose_run_directory, is_running, locked, open_run, staged
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

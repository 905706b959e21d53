"""A run's temporary files go with it; what a killed launcher left goes with the next run, and nothing else does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from launcher.scratch import Scratch


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def abandoned(folder: Path, name: str, *, age_s: float = 3600.0) -> Path:
    """A folder whose owner is gone since `age_s`."""
    path = folder / name
    path.mkdir()
    (path / "socket").touch()
    (path / ".owner").touch()
    then = (path / ".owner").stat().st_mtime - age_s
    os.utime(path / ".owner", (then, then))
    return path


def test_it_goes_with_what_is_in_it(folder: Path) -> None:
    scratch = Scratch()
    (scratch.path / "socket").touch()
    scratch.remove()
    scratch.remove()
    assert list(folder.iterdir()) == []


def test_only_what_has_no_owner_any_more_is_swept(folder: Path) -> None:
    held = Scratch()
    then = (held.path / ".owner").stat().st_mtime - 3600.0
    os.utime(held.path / ".owner", (then, then))
    left = abandoned(folder, "zeroq-left")
    young = abandoned(folder, "zeroq-young", age_s=0.0)
    other = abandoned(folder, "other")
    unmarked = folder / "zeroq-unmarked"
    unmarked.mkdir()
    Scratch().remove()
    assert not left.exists()
    assert all(path.exists() for path in (young, other, held.path, unmarked))
    held.remove()

"""Temporary folders that carry their owner's process id, so that the next start can remove what a killed one left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def make(prefix: str) -> Path:
    """A new folder PREFIX-PID-xxxx, after removing those whose owner is gone."""
    remove_stale(prefix)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-"))


def remove_stale(prefix: str) -> None:
    """Remove the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}-*-*"):
        owner = folder.name.removeprefix(f"{prefix}-").partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

"""What all tests share."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

_scratch = pytest.StashKey[str]()

settings.register_profile("zeroq", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("zeroq")


def pytest_configure(config: pytest.Config) -> None:
    """The suite's temporary files, and those of libraries and processes that it starts, go with it."""
    folder = tempfile.mkdtemp(prefix="zq-")  # short: sockets lie in it
    config.stash[_scratch] = folder
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    """See pytest_configure."""
    shutil.rmtree(config.stash[_scratch], ignore_errors=True)


@pytest.fixture(autouse=True)
def logging_stays_as_it_was() -> Iterator[None]:
    """A process's set-up, called within a test, leaves no handler that writes to that test's captured output."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler and h not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def no_leaked_processes() -> Iterator[None]:
    """Fails if a test leaves child processes behind that were not there before; ends those it finds."""
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    yield
    deadline = time.monotonic() + 5
    while True:
        left = [child for child in me.children(recursive=True) if child.pid not in before]
        alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > deadline:
            break
        psutil.wait_procs(alive, timeout=0.1)
    names = [f"{child.pid} {' '.join(child.cmdline()[:6])}" for child in alive]
    for child in alive:
        child.kill()
    assert not names, f"processes left behind: {names}"

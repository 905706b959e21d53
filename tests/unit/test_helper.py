"""Short work in another process: its words, its end, and that it dies with whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.helper import run_code, run_module
from launcher.processes import import_path

ASKER = """
from launcher.helper import run_code
run_code("import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)",
         {path!r}, timeout_s=60)
"""


def test_output_and_exit_code_come_back() -> None:
    done = run_code("import sys; print(sys.argv[1:]); sys.exit(3)", "a", "b", timeout_s=30)
    assert (done.stdout, done.returncode) == ("['a', 'b']\n", 3)


def test_a_module_sees_its_own_command_line() -> None:
    done = run_module("recipes.small_world", "--help", timeout_s=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m recipes.small_world")


def test_it_is_killed_at_its_deadline(no_leaked_processes: None) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_code("import time; time.sleep(60)", timeout_s=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal on a parent's death is Linux's")
def test_it_dies_with_whoever_asked_for_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": import_path()}
    asker = subprocess.Popen([sys.executable, "-c", ASKER.format(path=str(path))], env=environment)
    try:
        for _ in range(3000):
            if path.exists() and path.read_text():
                break
            with pytest.raises(subprocess.TimeoutExpired):
                asker.wait(0.01)
        helper = psutil.Process(int(path.read_text()))
        asker.send_signal(signal.SIGKILL)
        asker.wait()
        psutil.wait_procs([helper], timeout=10)
        assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
    finally:
        asker.kill()
        asker.wait()

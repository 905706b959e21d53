"""Owns short work in another process: it dies with this one, however that dies, and has a deadline."""

from __future__ import annotations

import os
import subprocess
import sys

from launcher.processes import import_path

_FIRST = "from common.lifecycle import die_with_parent; die_with_parent()\n"
_MODULE = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def run_code(code: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """`python -c CODE ARGUMENTS` with this one's packages and one thread; its output is captured.

    Raises subprocess.TimeoutExpired, when it has been killed.
    """
    environment = {**os.environ, "PYTHONPATH": import_path(), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", _FIRST + code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def run_module(name: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """`python -m NAME ARGUMENTS`, as `run_code`."""
    return run_code(_MODULE, name, *arguments, timeout_s=timeout_s)

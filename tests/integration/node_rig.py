"""Nodes of a learner as process trees on this machine, each with a run directory of its own that no other one reads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Pod:
    """One `python -m learner.node` (or `module`), which can be killed and started again, as a container is."""

    number: int
    root: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
        self.root.mkdir(exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def log_file(self) -> Path:
        return self.root / "node.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def tree(self) -> list[psutil.Process]:
        """This pod's living processes, the node first."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            node = psutil.Process(self.process.pid)
            return [node, *node.children(recursive=True)]
        return []

    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                if "RANK" in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL to the whole tree at once: the node it ran on is gone."""
        tree = self.tree()
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait()
        psutil.wait_procs(tree, timeout=10)

    def terminate(self) -> int:
        """SIGTERM to the node alone, as a kubelet sends it; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def pods(
    folder: Path,
    num: int,
    arguments: list[str],
    module: str = "learner.node",
    more: Callable[[int], list[str]] = lambda number: [],
) -> Iterator[list[Pod]]:
    """`num` pods, started, with `more` arguments of their own; whatever is left of them is killed at the end."""
    port = free_port()
    made = []
    for number in range(num):
        root = folder / f"pod-{number}"
        command = [sys.executable, "-m", module, "--run-dir", str(root), "--nodes", str(num), "--rank", str(number)]
        command += ["--rendezvous", f"127.0.0.1:{port}", *arguments, *more(number)]
        made.append(Pod(number, root, command))
    try:
        for pod in made:
            pod.start()
        yield made
    finally:
        for pod in made:
            pod.kill()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

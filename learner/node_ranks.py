"""Owns the ranks of one machine: starting a generation of them by torchrun, watching, stopping, killing them all."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

import psutil

from common.config import RunConfig
from common.lifecycle import RunPaths
from common.metrics import probe_page
from common.pages import TEXT, Page

log = logging.getLogger(__name__)

_KILL_DEADLINE_S = 20.0
_PROBE_TIMEOUT_S = 5.0
LAUNCHER = (sys.executable, "-m", "learner.torchrun")
START_LIMIT_S = 300.0
"""Ranks that do not answer probes so long after their start are not alive."""


class NodeRanks:
    """The ranks of node `node` of `num_nodes`; one generation at a time. `name` is the learner's."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        arguments: list[str],
        *,
        name: str,
        node: int,
        num_nodes: int,
        host: str,
    ) -> None:
        """`arguments`: of `python -m learner`; `host`: where rank 0's machine is reached."""
        self._config, self._paths, self._arguments, self._host = config, paths, arguments, host
        self._node, self._num_nodes = node, num_nodes
        self._per_node = config.learner.ranks // num_nodes
        first = node * self._per_node
        self._name, self._record = name, paths.processes / f"{name if first == 0 else f'{name}-rank{first}'}.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._began_unix = 0.0
        self._saved_before = self._saved()

    @property
    def running(self) -> bool:
        """Whether there is a generation, dead or alive, that was not cleared away."""
        return self._process is not None

    @property
    def seconds(self) -> float:
        """Since the last start."""
        return time.monotonic() - self._began

    def start(self, port: int) -> None:
        """Start a generation that meets at `port`. Where an earlier one has saved a checkpoint, whatever `resume` says,
        it goes on from there."""
        self._record.unlink(missing_ok=True)  # of an earlier generation
        command = [*LAUNCHER]
        command += ["--nnodes", str(self._num_nodes), "--node-rank", str(self._node)]
        command += ["--nproc-per-node", str(self._per_node), "--max-restarts", "0"]
        command += ["--master-addr", self._host, "--master-port", str(port), "--module", "learner"]
        # Probes and Prometheus ask this process, which asks the machine's first rank.
        command += [*self._arguments, "metrics.host=127.0.0.1", "metrics.port=0"]
        if self._saved() - self._saved_before:
            command.append("resume=auto")
        self._began, self._began_unix = time.monotonic(), time.time()
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def poll(self) -> int | None:
        """Exit code of the generation; None while it runs. Once it has one, it is cleared away."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._process = None
        return code

    def ask_to_stop(self) -> None:
        """SIGTERM to the ranks, which save a checkpoint and leave together. (Torchrun would give them 30 s.)"""
        for rank in self._ranks():
            with contextlib.suppress(psutil.Error):
                rank.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the generation at once; returns when all its processes are gone."""
        if self._process is None:
            return
        ranks = self._ranks()
        self._process.kill()
        for rank in ranks:
            with contextlib.suppress(psutil.Error):
                rank.kill()
        self._process.wait()
        self._process = None
        _, left = psutil.wait_procs(ranks, timeout=_KILL_DEADLINE_S)
        if left:
            log.error("ranks %s do not die; their ports stay taken", [process.pid for process in left])

    @property
    def trained_to_the_end(self) -> bool:
        """Whether rank 0, if it is here, said at its end that nothing is left to train."""
        path = self._paths.root / "learner_summary.json"
        try:
            if path.stat().st_mtime < self._began_unix - 1.0:
                return False
            summary = json.loads(path.read_text())
            return not summary["stopped"] and int(summary["steps"]) >= self._config.learner.max_steps
        except (OSError, ValueError, KeyError):
            return False

    def page(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """What the machine's first rank answers; of ranks that cannot answer yet, that they start."""
        port = self._port()
        if port is None:
            starting = (
                None if self.seconds < START_LIMIT_S else f"the ranks have been starting for {self.seconds:.0f} s"
            )
            return probe_page(starting if path == "/livez" else "the ranks are starting", "the ranks are starting")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", headers={"Accept": headers.get("Accept", "*/*")}
        )
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S) as reply:
                return Page(reply.read(), reply.status, reply.headers.get("Content-Type", TEXT))
        except urllib.error.HTTPError as error:
            return Page(error.read(), error.code)
        except (OSError, ValueError) as error:
            return probe_page(f"the first rank here does not answer: {error}", "")

    def _saved(self) -> set[tuple[str, int]]:
        """The checkpoints that there are."""
        found = set()
        for manifest in self._paths.checkpoints.glob("step-*/manifest.json"):
            with contextlib.suppress(OSError):  # pruned just now
                found.add((manifest.parent.name, manifest.stat().st_mtime_ns))
        return found

    def _port(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            port = json.loads(self._record.read_text())["metrics_port"]
            return port if isinstance(port, int) else None
        return None

    def _ranks(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self._process.pid).children(recursive=True)
            return [child for child in children if _is_rank(child)]
        return []


def _is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "learner" in process.cmdline() and "RANK" in process.environ()
    return False


def free_port() -> int:
    """A port that is free now, from the range that the system takes such ports from."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

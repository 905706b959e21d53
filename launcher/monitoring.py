"""Owns a run's own Prometheus: its configuration, the list of what it scrapes, and how it is started.

    DIR/processes/NAME.json ── update() ── DIR/prometheus/targets.json ── file discovery ── Prometheus (loopback)
                                           DIR/prometheus/{prometheus.yml,rules.yaml}

Processes choose their ports when they start, so the list is written again whenever one comes or is restarted. Where no
`prometheus` is installed the files are written all the same. A Prometheus that fails does not end the run.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from common.lifecycle import RunPaths, write_atomic
from launcher.pool import Pool
from launcher.processes import ProcessSpec
from launcher.watch.query import PrometheusSource
from launcher.watch.targets import JOB, find_targets

NAME = "prometheus"
SCRAPE_EVERY_S = 2
MAX_RESTARTS = 3
RULES = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "rules.yaml"
_CHILD = Path(__file__).with_name("child.py")
_LOOK_EVERY_S = 1.0
_REPLAY_DEADLINE_S = 30.0
_RETENTION = "10y"  # the figures go with the run's directory, not before


class Monitoring:
    """A run's Prometheus: makes the files, keeps the targets current. `spec`: its process, None if not installed."""

    def __init__(self, paths: RunPaths) -> None:
        self.folder = paths.root / NAME
        self._paths = paths
        self._looked_at = float("-inf")
        self._written: str | None = None
        self.folder.mkdir(exist_ok=True)
        if RULES.is_file():
            shutil.copyfile(RULES, self.folder / "rules.yaml")
        write_atomic(self.folder / "prometheus.yml", yaml.safe_dump(_configuration(self.folder), sort_keys=False))
        self.update()
        program = shutil.which("prometheus")
        port = _free_port()
        self.url = None if program is None else f"http://127.0.0.1:{port}"
        self.spec = None if program is None else _spec(program, self.folder, port)
        if self.url is not None:
            write_atomic(self.folder / "url", self.url)

    def start(self, pool: Pool) -> None:
        """Start Prometheus among the run's processes, and tell the person who asked for it."""
        if self.spec is not None:
            pool.add(self.spec)
        print(self.announce(), flush=True)

    def look_after(self, pool: Pool) -> None:
        """Keep the targets current; say it once when the pool has let Prometheus go."""
        self.update()
        if self.spec is not None and NAME not in pool.children:
            self.spec = None
            print(f"monitoring has ended, the run goes on; see {self._paths.logs / NAME}.log", flush=True)

    def update(self) -> None:
        """Write the list of targets if it has changed; looks at most once a second."""
        if time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        groups: list[dict[str, Any]] = []
        for target in find_targets(self._paths):
            labels = {"run": self._paths.root.name} | target.labels
            del labels["job"]  # the configuration's
            groups.append({"targets": [target.address], "labels": labels})
        text = json.dumps(groups, indent=1) + "\n"
        if text != self._written:
            write_atomic(self.folder / "targets.json", text)
            self._written = text

    def announce(self) -> str:
        """A line for the person who asked for it."""
        page = f"panels: zeroq watch {self._paths.root} --html"
        if self.url is None:
            return f"monitoring: prometheus is not installed; its configuration is in {self.folder}; {page}"
        return f"monitoring: {self.url} (Prometheus); {page}"


def forget_url(paths: RunPaths) -> None:
    """Forget the address of a Prometheus that has ended."""
    (paths.root / NAME / "url").unlink(missing_ok=True)


def running_url(paths: RunPaths) -> str | None:
    """Where the run's Prometheus answers; None if it has none that is ready."""
    try:
        url = (paths.root / NAME / "url").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return url if PrometheusSource(url).ready() else None


class Replay(PrometheusSource):
    """A Prometheus over what the run's own one left behind; scrapes nothing and ends with this process."""

    def __init__(self, program: str, home: Path) -> None:
        """Start it (main thread only: it dies with the thread that made it)."""
        port = _free_port()
        super().__init__(f"http://127.0.0.1:{port}", name="the run's Prometheus, replayed")
        (home / "replay.yml").write_text("scrape_configs: []\n", encoding="utf-8")
        command = _command(program, home, port, "replay.yml")
        with (home / "replay.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", str(_CHILD), str(os.getpid()), "-", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = _REPLAY_DEADLINE_S) -> bool:
        """Until it has read its data; False when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def has_data(paths: RunPaths) -> bool:
    """Whether the run's Prometheus left something that can be looked at here."""
    home = paths.root / NAME
    return shutil.which("prometheus") is not None and (home / "data").is_dir() and os.access(home, os.W_OK)


def replay(paths: RunPaths) -> Replay | None:
    """The figures that a run's Prometheus kept; None if it had none, if `prometheus` is not installed, or if its data
    cannot be read (DIR/prometheus/replay.log says why)."""
    program, home = shutil.which("prometheus"), paths.root / NAME
    if program is None or not has_data(paths):
        return None
    source = Replay(program, home)
    if source.wait():
        return source
    source.close()
    return None


def _configuration(home: Path) -> dict[str, Any]:
    made: dict[str, Any] = {
        "global": {"scrape_interval": f"{SCRAPE_EVERY_S}s", "evaluation_interval": f"{2 * SCRAPE_EVERY_S}s"},
        "scrape_configs": [
            {
                "job_name": JOB,
                "scrape_timeout": f"{SCRAPE_EVERY_S}s",
                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "2s"}],
            }
        ],
    }
    if (home / "rules.yaml").is_file():
        made["rule_files"] = ["rules.yaml"]
    return made


def _command(program: str, home: Path, port: int, configuration: str) -> tuple[str, ...]:
    return (
        program,
        f"--config.file={home / configuration}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )


def _spec(program: str, home: Path, port: int) -> ProcessSpec:
    return ProcessSpec(
        name=NAME,
        role="prometheus",
        command=_command(program, home, port, "prometheus.yml"),
        environment={"GOMAXPROCS": "1"},  # the cores are the run's
        max_restarts=MAX_RESTARTS,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

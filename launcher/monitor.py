"""Owns what is known of a run while it goes on: its files' new lines and the broker's status, in one `RunView`.

Reads metrics.jsonl and events.jsonl (appended by the learner and the pool) and asks the broker for its status once a
second. It only listens; a run that nobody watches does the same.
"""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.client import BrokerClient
from common.config import RunConfig
from common.errors import BrokerUnavailable, NotLetIn, UserError
from common.keys import Keys
from common.lifecycle import RunPaths
from common.messages import Drain, GetStatus, Hello, StatusReport, Welcome, WorkRole
from common.wire import Envelope

STATUS_EVERY_S = 1.0
ENDED = ("done", "stopped")
_RECENT_STEPS = 10

Row = dict[str, Any]


class LineTail:
    """New complete JSON lines of a file that somebody else appends to, from byte `offset` on."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    def read(self) -> list[Row]:
        """Objects of the lines completed since the last call; a file that does not exist yet has none, nor has a line
        that a full disk cut off (`common.lifecycle.append_record`)."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        rows: list[Row] = []
        for line in complete.splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
        return rows


@dataclass
class RunView:
    """A run as it stands. `rows`: metrics of each step; `phases`: (name, unix time); `status`: the broker's report."""

    phases: list[tuple[str, float]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    cold_start: Row | None = None
    restarts: list[Row] = field(default_factory=list)
    status: dict[str, Any] | None = None
    throughput: list[tuple[float, int]] = field(default_factory=list)

    @property
    def phase(self) -> str:
        """What the run is doing."""
        return self.phases[-1][0] if self.phases else "starting"

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def last_sign(self) -> float:
        """Unix time of the newest line in the run's files; now, if there are none."""
        times = [time_ for _, time_ in self.phases[-1:]] + [
            float(row["time"]) for row in self.rows[-1:] if "time" in row
        ]
        return max(times, default=time.time())

    def phase_seconds(self, until: float | None = None) -> dict[str, float]:
        """Time spent in each phase; the last one lasts until `until` (unix; default: now)."""
        spent: dict[str, float] = {}
        if not self.phases:
            return {}
        ends = [start for _, start in self.phases[1:]] + [until if until is not None else time.time()]
        for (name, start), end in zip(self.phases, ends, strict=True):
            if name in ENDED:
                continue
            spent[name] = spent.get(name, 0.0) + max(0.0, end - start)
        return spent

    def recent(self, key: str) -> float | None:
        """Mean of a metric over the last steps that have it."""
        values = [float(row[key]) for row in self.rows[-_RECENT_STEPS:] if isinstance(row.get(key), int | float)]
        return sum(values) / len(values) if values else None

    def actor_tokens_per_s(self) -> float | None:
        """Tokens that actors delivered per second, over the last half minute of training."""
        return token_rate(self.throughput[-30:])

    def add_metrics(self, rows: list[Row]) -> None:
        """Take in lines of metrics.jsonl; a step that was done again after a resume replaces its first version."""
        for row in rows:
            if "step" not in row:
                continue
            while self.rows and self.rows[-1]["step"] >= row["step"]:
                self.rows.pop()
            self.rows.append(row)

    def add_events(self, events: list[Row]) -> None:
        """Take in lines of events.jsonl."""
        for event in events:
            kind = str(event.get("event"))
            if kind == "phase":
                self.phases.append((str(event["name"]), float(event["time"])))
            elif kind == "evaluation":
                self.evaluations.append(event)
            elif kind == "cold_start_step":
                self.cold_start = event
            elif kind.endswith("_restarted"):
                self.restarts.append(event)

    def add_status(self, status: dict[str, Any], now: float) -> None:
        """Take in the broker's report; remembers the tokens generated while the run is training."""
        self.status = status
        if self.phase == "training":
            self.throughput.append((now, int(status["counters"].get("tokens_generated", 0))))


def token_rate(samples: list[tuple[float, int]]) -> float | None:
    """Tokens per second between the first and the last (time, tokens) sample; None over less than a second."""
    if len(samples) < 2 or samples[-1][0] - samples[0][0] < 1:
        return None
    return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])


class RunMonitor:
    """Keeps a `RunView` current. A context manager, because of its connection to the broker. UserError for keys that
    will not do."""

    def __init__(self, paths: RunPaths, config: RunConfig) -> None:
        self.view = RunView()
        self._paths = paths
        self._keys = Keys.for_process(config, paths, "monitor")
        self._metrics = LineTail(paths.metrics)
        self._events = LineTail(paths.events)
        self._client: BrokerClient | None = None
        self._question: Future[Envelope] | None = None
        self._asked_at = 0.0
        self._introduced = False

    def __enter__(self) -> RunMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def poll(self) -> RunView:
        """Read what is new, without waiting for anything. UserError when the broker does not let us in."""
        self.poll_files()
        self._ask_status()
        return self.view

    def poll_files(self) -> RunView:
        """Read the files only."""
        self.view.add_events(self._events.read())
        self.view.add_metrics(self._metrics.read())
        return self.view

    def final_status(self, timeout_s: float = 5.0) -> dict[str, Any] | None:
        """Ask once more and wait for the answer, before the broker is stopped; the last known one if none comes."""
        if self._client is not None and self._introduced:
            try:
                self._take(self._client.request(GetStatus(), timeout_s=timeout_s))
            except BrokerUnavailable:
                return self.view.status
        return self.view.status

    def drain(self, role: WorkRole, names: list[str], for_s: float) -> None:
        """Have the broker give these processes of a role no new work for so many seconds (0: work again). Nobody waits
        for it."""
        if self._client is not None and self._introduced:
            self._client.call(Drain(role=role, names=names, for_s=for_s))

    def _ask_status(self) -> None:
        if self._client is None:
            if not self._paths.endpoints.exists():
                return
            endpoint = json.loads(self._paths.endpoints.read_text())["monitor"]
            self._client = BrokerClient(endpoint, "monitor", "launcher", keys=self._keys)
            self._introduced = False
        if self._question is not None and self._question.done():
            question, self._question = self._question, None
            try:
                self._take(question.result())
            except NotLetIn as error:
                raise UserError(str(error)) from None
            except BrokerUnavailable:
                return  # the pool will find out that the broker is gone
        if self._question is None and time.monotonic() - self._asked_at >= STATUS_EVERY_S:
            incarnation = self._client.incarnation
            hello = Hello(role="monitor", name="launcher", incarnation=incarnation)
            self._question = self._client.call(GetStatus() if self._introduced else hello)
            self._asked_at = time.monotonic() if self._introduced else 0.0

    def _take(self, envelope: Envelope) -> None:
        if isinstance(envelope.header, StatusReport):
            self.view.add_status(envelope.header.status, time.time())
        # Anything but a report or a welcome means that the broker does not know us on this connection.
        self._introduced = isinstance(envelope.header, StatusReport | Welcome)

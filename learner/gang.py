"""The gang: all machines of a learner run their ranks together, or none does. A state machine without sockets or clock.

    node --Report(state of its ranks)--> Gang --Order(run generation g | stop | finished)--> node

The node of rank 0 holds the gang; every node, itself included, reports several times a second and obeys the answer. A
generation is one life of the whole process group. It ends for all when the ranks of one node fail, when a node is
replaced or silent, and the next one begins once every node is there with nothing running: from the last checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.message_parts import SCHEMA_VERSION, SchemaVersion

NodeState = Literal["idle", "running", "failed", "ended", "finished"]
"""Of a node's ranks. ended: they left in good order; finished: so did rank 0's, and training is done."""

SILENT_S = 10.0
_BACKOFF_S = (0.0, 0.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_S = 600.0
_LAG_S = 120.0
"""Ranks leave together; a node whose ranks are still there so long after the first have left is stuck."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: SchemaVersion = SCHEMA_VERSION


class Report(_Message):
    """What a node says. `gang` and `generation`: the generation that `state` speaks of; 0 before the first."""

    node: int = Field(ge=0, le=65_535)
    incarnation: str = Field(max_length=64)
    gang: str = Field("", max_length=64)
    generation: int = Field(0, ge=0)
    state: NodeState = "idle"


class Order(_Message):
    """What a node shall do. `go`: have the ranks of `generation` running, which meet at `port` of rank 0's machine."""

    gang: str = Field(max_length=64)
    generation: int = Field(ge=0)
    go: bool = False
    port: int = Field(0, ge=0, le=65_535)
    finished: bool = False
    reason: str = Field("", max_length=512)


@dataclass
class _Member:
    report: Report
    heard_at: float
    told_to_run: bool = False
    """Since its last report, which does not say so yet."""


class Gang:
    """What is to run. `pick_port` finds a free port on rank 0's machine; times are monotonic seconds."""

    def __init__(self, num_nodes: int, *, pick_port: Callable[[], int], silent_s: float = SILENT_S) -> None:
        self.name = uuid.uuid4().hex
        self.generation = 0
        self.running = self.finished = False
        self._num_nodes, self._pick_port, self._silent_s = num_nodes, pick_port, silent_s
        self._members: dict[int, _Member] = {}
        self._port = 0
        self._reason = "starting"
        self._began = 0.0
        self._leaving_since: float | None = None
        self._failures = 0
        self._not_before = 0.0

    def hear(self, report: Report, now: float) -> Order:
        """Take a node's report; returns its order. ValueError for a node that cannot be."""
        if report.node >= self._num_nodes:
            raise ValueError(f"node {report.node} of {self._num_nodes}: every node needs the same --nodes")
        before = self._members.get(report.node)
        self._members[report.node] = _Member(report, now)
        if self.running and before is not None and before.report.incarnation != report.incarnation:
            self._stop(f"node {report.node} was replaced", now)
        self.tick(now)
        self._members[report.node].told_to_run = self.running
        return Order(
            gang=self.name,
            generation=self.generation,
            go=self.running,
            port=self._port if self.running else 0,
            finished=self.finished,
            reason=self._reason[:512],
        )

    def tick(self, now: float) -> None:
        """End a generation that cannot go on, begin one that can."""
        if self.running:
            self._judge(now)
        elif not self.finished and now >= self._not_before:
            self._begin_if_all_are_here(now)

    def _judge(self, now: float) -> None:
        states = {node: self._state(member) for node, member in self._members.items()}
        failed = [node for node, state in states.items() if state == "failed"]
        silent = [node for node, member in self._members.items() if now - member.heard_at > self._silent_s]
        left = [node for node, state in states.items() if state in ("ended", "finished")]
        if left and self._leaving_since is None:
            self._leaving_since = now
        late = self._leaving_since is not None and now - self._leaving_since > _LAG_S
        if failed:
            self._stop(f"ranks of node {failed[0]} failed", now)
        elif states[0] == "finished" and (late or len(left) == self._num_nodes):
            self.running, self.finished, self._reason = False, True, "training is finished"
        elif states[0] == "ended":  # asked to stop, which all ranks do together, after a checkpoint
            self._stop("the ranks were asked to stop", now, failed=False)
        elif late:
            self._stop(f"ranks of node {left[0]} have left, others have not", now)
        elif silent:
            self._stop(f"node {silent[0]} has been silent for {self._silent_s:g} s", now)

    def _state(self, member: _Member) -> NodeState:
        """Of the present generation; a node that speaks of another has not heard of this one yet."""
        report = member.report
        return report.state if (report.gang, report.generation) == (self.name, self.generation) else "idle"

    def _runs(self, member: _Member) -> bool:
        """Whether its ranks run, or will before it reports again."""
        return member.told_to_run or member.report.state == "running"

    def _stop(self, reason: str, now: float, *, failed: bool = True) -> None:
        self.running, self._reason = False, reason
        self._failures = 0 if not failed or now - self._began > _STEADY_S else self._failures + 1
        self._not_before = now + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]

    def _begin_if_all_are_here(self, now: float) -> None:
        here = {node for node, member in self._members.items() if now - member.heard_at <= self._silent_s}
        missing = [node for node in range(self._num_nodes) if node not in here]
        busy = [node for node in here if self._runs(self._members[node])]
        if missing:
            self._reason = f"waiting for node {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        elif not busy:
            self.generation += 1
            self._port, self.running, self._began = self._pick_port(), True, now
            self._leaving_since = None
            self._reason = f"generation {self.generation}"

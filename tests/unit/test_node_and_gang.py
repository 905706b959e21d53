"""Nodes that obey a gang over a line that loses answers."""

from __future__ import annotations

from typing import Any, cast

from common.lifecycle import StopFlag
from learner.gang import SILENT_S, Gang, Order, Report
from learner.node import Node, Place


class Ranks:
    """Ranks that run until they are killed."""

    def __init__(self) -> None:
        self.running = False
        self.starts: list[int] = []

    def start(self, port: int) -> None:
        self.running = True
        self.starts.append(port)

    def kill(self) -> None:
        self.running = False


class Line:
    """A GangClient whose reports arrive at once, and whose answers are lost while `deaf`."""

    def __init__(self, gang: Gang) -> None:
        self.gang, self.now, self.heard_at, self.deaf = gang, 0.0, 0.0, False

    @property
    def silent_s(self) -> float:
        return self.now - self.heard_at

    def report(self, report: Report, timeout_s: float) -> Order | None:
        order = self.gang.hear(report, self.now)
        if self.deaf:
            return None
        self.heard_at = self.now
        return order


def test_a_node_that_ended_its_ranks_for_silence_has_the_others_end_theirs() -> None:
    """The gang had heard of it all the time. It used to stay idle, and its peers in a collective, for ten minutes."""
    ports = iter(range(1, 100))
    gang = Gang(2, pick_port=lambda: next(ports))
    lines, ranks = [Line(gang), Line(gang)], [Ranks(), Ranks()]
    nodes = [
        Node(Place(n, 2, "h", 1), cast(Any, ranks[n]), cast(Any, lines[n]), StopFlag(), exit_when_done=False)
        for n in (0, 1)
    ]

    def rounds(seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            for line, node in zip(lines, nodes, strict=True):
                line.now += 0.5
                node._obey(node._ask())

    rounds(2)
    assert [r.starts for r in ranks] == [[1], [1]]
    lines[1].deaf = True
    rounds(SILENT_S + 1)
    assert not ranks[1].running
    lines[1].deaf = False
    rounds(5)
    assert [r.starts for r in ranks] == [[1, 2], [1, 2]]
    assert ranks[0].running
    assert ranks[1].running

"""What a learner's node says to probes and Prometheus while it has no ranks."""

from __future__ import annotations

from typing import Any, cast

import pytest

from common.lifecycle import StopFlag
from common.metrics import export_health
from common.pages import Page
from learner.gang import NodeState
from learner.node import Node, Place


class Ranks:
    """Ranks that answer for themselves."""

    def page(self, path: str, headers: object) -> Page:
        return Page(f"ranks: {path}".encode())


@pytest.fixture
def node() -> Node:
    made = Node(Place(0, 1, "127.0.0.1", 1), cast(Any, Ranks()), cast(Any, None), StopFlag(), exit_when_done=False)
    made.health.beat("node")
    export_health(made.health)
    return made


def ask(node: Node, state: NodeState, path: str) -> tuple[int, str]:
    node._state = state
    page = node.page(path, {})
    assert page is not None
    return page.status, page.body.decode()


@pytest.mark.parametrize(("state", "ready"), [("finished", 1.0), ("idle", 0.0), ("failed", 0.0), ("ended", 0.0)])
def test_a_node_without_ranks_is_scraped_all_the_same(node: Node, state: NodeState, ready: float) -> None:
    """503 would be `up == 0`: ZeroqMetricsAbsent, for as long as a finished run is left standing."""
    status, text = ask(node, state, "/metrics")
    assert status == 200
    assert f"zeroq_process_ready {ready}" in text
    assert "zeroq_process_seconds_since_progress 0." in text
    assert ask(node, state, "/readyz")[0] == (200 if ready else 503)
    assert ask(node, state, "/livez")[0] == 200


def test_ranks_speak_for_themselves(node: Node) -> None:
    assert ask(node, "running", "/metrics") == (200, "ranks: /metrics")
    assert node.page("/elsewhere", {}) is None

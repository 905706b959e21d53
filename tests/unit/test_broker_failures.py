"""What a broker's log says of leases that failed: on a cluster it is all that an operator has (docs/runbooks.md)."""

from __future__ import annotations

import logging

import pytest

from broker.server import Server
from common.lifecycle import StopFlag
from tests.unit.broker_harness import Harness, make_config


def failed_three_times() -> Harness:
    """A task whose lease runs out three times, with an actor that dies each time."""
    broker = Harness()
    broker.add("train-1")
    for attempt in range(3):
        broker.hello(f"actor{attempt}", version=0)
        broker.lease(f"actor{attempt}")
        broker.advance(11.0)
    return broker


def test_a_failed_attempt_names_task_holder_and_reason() -> None:
    failures = list(failed_three_times().state.core.failures)
    assert [text.partition(":")[0] for text in failures] == [
        "task train-1, attempt 1 of 3, done again",
        "task train-1, attempt 2 of 3, done again",
        "task train-1, attempt 3 of 3, given up",
    ]
    for attempt, text in enumerate(failures):
        assert f"generate by actor{attempt} expired: no progress within 10 s" in text


def test_what_a_peer_says_is_one_line() -> None:
    broker = Harness()
    broker.add("train-1")
    broker.hello("actor0", version=0)
    reason = "boom\n2026-01-01 broker ERROR forged " + "x" * 400
    broker.give_back("actor0", broker.lease("actor0"), failed=True, reason=reason)
    (text,) = broker.state.core.failures
    assert "returned: boom 2026-01-01" in text
    assert "\n" not in text
    assert len(text) <= 600


def test_the_servers_loop_logs_them(caplog: pytest.LogCaptureFixture) -> None:
    stop = StopFlag()
    with Server(make_config()) as server, caplog.at_level(logging.WARNING, logger="broker.server"):
        server.state.core.failures += failed_three_times().state.core.failures
        server.serve(stop, beat=stop.set)
    assert [record.message.partition(",")[0] for record in caplog.records] == ["task train-1"] * 3
    assert not server.state.core.failures

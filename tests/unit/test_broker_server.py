"""The broker's shell against peers that mean it no good: what they can make it write to disk and hold in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgpack
import pytest
import zmq

from broker import server as server_module
from broker.server import ROLES, Server
from common import messages as m
from common.lifecycle import StopFlag
from common.message_parts import SCHEMA_VERSION
from common.messages import Role
from common.wire import encode
from tests.learner_rig import wait_until
from tests.unit.broker_harness import make_config
from tests.unit.broker_shell import server

__all__ = ["server"]  # a fixture

GARBAGE = msgpack.packb({"v": SCHEMA_VERSION, "type": "get_status", "a line\nof its own": 1})


@pytest.fixture
def peer() -> Iterator[zmq.Socket[bytes]]:
    """A socket that has room for one message."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvhwm = 1
        socket.setsockopt(zmq.RCVBUF, 4096)
        yield socket


def test_bad_messages_are_all_counted_and_fill_no_disk(
    server: Server, peer: zmq.Socket[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    peer.connect(server.endpoints["actor"])
    for _ in range(100):
        peer.send(GARBAGE)
    wait_until(lambda: server.num_undecodable == 100, "all are counted", 20)
    assert [record.message[:36] for record in caplog.records] == ["message on the actor socket refused:"]
    assert "\n" not in caplog.messages[0]


def test_failed_attempts_fill_no_disk(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(make_config()) as server:
        for number in range(3 * server_module.MAX_FAILURE_LINES):
            server.state.core.failures.append(f"attempt {number}")
            server._log_failures()
    assert not server.state.core.failures
    assert caplog.messages == [f"attempt {number}" for number in range(server_module.MAX_FAILURE_LINES)]


def test_replies_that_are_never_read_are_not_kept_without_end(
    peer: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for one peer is bounded; the broker goes on, and answers others."""
    monkeypatch.setattr(server_module, "MAX_UNREAD", 20)
    stop = StopFlag()
    with Server(make_config()) as server, zmq.Context() as context, context.socket(zmq.DEALER) as other:
        thread = threading.Thread(target=server.serve, args=[stop])
        thread.start()
        try:
            peer.connect(server.endpoints["monitor"])
            for _ in range(20_000):
                peer.send_multipart(encode(m.GetStatus()))
                if server.num_undeliverable:
                    break
            wait_until(lambda: server.num_undeliverable > 0, "the rest is dropped", 20)
            other.linger = 0
            other.connect(server.endpoints["monitor"])
            other.send_multipart(encode(m.GetStatus()))
            assert other.poll(10_000), "the broker answers nobody else"
        finally:
            stop.set()
            thread.join(10)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "learner"])
def test_requests_without_end_wait_on_their_own_side(
    role: Role, peer: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is busy meanwhile takes in no more of them than it would hold answers."""
    monkeypatch.setattr(server_module, "MAX_UNREAD", 20)
    with Server(make_config()) as server:
        peer.sndhwm = 1
        peer.connect(server.endpoints[role])
        num_sent = 0
        while num_sent < 5000 and peer.poll(300, zmq.POLLOUT):
            peer.send(bytes(50_000))
            num_sent += 1
    assert 20 <= num_sent < 1000, "20, and what the two kernels hold"

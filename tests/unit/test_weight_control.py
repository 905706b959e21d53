"""The weights socket against an actor's key in the wrong hands: what it can have written to disk and held in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import torch
import zmq

from common.message_parts import SCHEMA_VERSION
from common.messages import Join, Pull, PullFiles
from common.wire import decode, encode
from learner.weights import WeightPublisher, control, pulls
from tests.integration.weights_fakes import weights_config
from tests.learner_rig import wait_until


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each message of the publisher could be sent."""
    outcomes: list[bool] = []
    send = control.ControlServer._send

    def spy(self: control.ControlServer, *args: Any) -> bool:
        outcomes.append(send(self, *args))
        return outcomes[-1]

    monkeypatch.setattr(control.ControlServer, "_send", spy)
    return outcomes


@pytest.fixture
def connect(sent: list[bool], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], zmq.Socket[bytes]]]:
    """Makes sockets, each with room for one message, to a publisher whose bounds are low."""
    monkeypatch.setattr(control, "_MAX_UNREAD", 20)
    monkeypatch.setattr(control, "_MAX_JOIN_LINES", 2)
    publisher = WeightPublisher(weights_config(), host="127.0.0.1")
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        stack.callback(publisher.close)

        def make() -> zmq.Socket[bytes]:
            socket = stack.enter_context(context.socket(zmq.DEALER))
            socket.linger, socket.rcvhwm = 0, 1
            socket.setsockopt(zmq.RCVBUF, 4096)
            socket.connect(publisher.endpoint)
            return socket

        yield make


def test_answers_that_are_never_read_are_not_kept_without_end(
    connect: Callable[[], zmq.Socket[bytes]], sent: list[bool]
) -> None:
    deaf, other = connect(), connect()
    for _ in range(50_000):
        deaf.send_multipart(encode(PullFiles()))
        if False in sent:
            break
    wait_until(lambda: False in sent, "the rest is dropped", 20)
    other.send_multipart(encode(PullFiles()))
    assert other.poll(10_000), "nobody else is answered"


def test_a_pull_of_everything_at_once_is_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is checksummed in the thread that all actors wait for."""
    monkeypatch.setattr(pulls, "MAX_CHUNK_BYTES", 64)
    publisher = WeightPublisher(weights_config(), host="127.0.0.1")
    with zmq.Context() as context, contextlib.closing(publisher), context.socket(zmq.DEALER) as socket:
        publisher.publish(0, [("w", torch.arange(64, dtype=torch.float32))])
        socket.linger = 0
        socket.connect(publisher.endpoint)
        socket.send_multipart(encode(Join(name="a", incarnation="i")))
        socket.send_multipart(encode(Pull(max_bytes=1 << 40)))
        assert socket.poll(10_000), "no answer"
        assert decode(socket.recv_multipart()).array("chunk", "uint8").size == 64


def test_bad_messages_fill_no_disk(connect: Callable[[], zmq.Socket[bytes]], caplog: pytest.LogCaptureFixture) -> None:
    socket = connect()
    for _ in range(5):
        socket.send(msgpack.packb({"v": SCHEMA_VERSION, "type": "pull_files", "a line\nof its own": 1}))
    socket.send_multipart(encode(PullFiles()))
    assert socket.poll(10_000), "no answer"
    assert [message[:25] for message in caplog.messages] == ["weights: message refused:"]
    assert "\n" not in caplog.messages[0]


def test_joins_without_end_fill_no_disk(
    connect: Callable[[], zmq.Socket[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    socket = connect()
    for number in range(5):
        socket.send_multipart(encode(Join(name=f"a{number}", incarnation="i")))
    socket.send_multipart(encode(PullFiles()))
    assert socket.poll(10_000), "no answer"
    assert caplog.messages == [f"weights: actor a{number} joins" for number in range(2)]

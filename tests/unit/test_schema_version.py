"""Processes of different schema versions: each says so in one line, and neither tries to make sense of the other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgpack
import pytest
import zmq

from actor.model_files import wait_for_model
from broker.server import DOES_NOT_COMPARE, Server
from common import messages as m
from common.client import BrokerClient
from common.config import SecuritySection
from common.errors import BrokerUnavailable, NotLetIn, RunFailure, SchemaMismatch, UserError
from common.lifecycle import RunPaths, StopFlag
from common.message_parts import SCHEMA_VERSION
from common.wire import decode, encode
from launcher.monitor import RunMonitor
from learner import loop as learner_loop
from learner.gang import Gang, Order, Report
from learner.gang_link import GangClient, GangServer
from learner.weights import WeightPublisher
from tests.integration.weights_fakes import weights_config
from tests.unit.broker_harness import make_config
from tests.unit.broker_shell import server
from tests.unit.model_files_rig import Learner
from tests.unit.test_client import FakeBroker, broker
from tests.unit.test_weight_receiver import beside

__all__ = ["broker", "server"]  # fixtures

OLDER, NEWER = SCHEMA_VERSION - 1, SCHEMA_VERSION + 1
DIGESTS = {2: "89b1ea1c1ae82d04969e4b49d14d61a7"}
"""By number. A new number gets a new line; a line never changes, or two images would call two languages the same."""


def line(theirs: int | None, age: str) -> str:
    came = "no schema version" if theirs is None else f"schema version {theirs}"
    return f"{came} came, {SCHEMA_VERSION} is spoken here: the sender is {age}; give all processes one image tag"


AGES = [(OLDER, "older"), (NEWER, "newer"), (None, "older")]


def of_version(version: int | None, header: m.Header, **fields: Any) -> list[bytes]:
    """A message as a process of that version would send it, with fields that nobody here knows."""
    message = msgpack.unpackb(encode(header)[0]) | {"v": version} | fields
    return [msgpack.packb({key: value for key, value in message.items() if key != "v" or value is not None})]


def strip(schema: Any) -> Any:
    """A JSON schema without the version itself and what no process reads."""
    if isinstance(schema, dict):
        left_out = {"v"} | {key for key in ("title", "description") if isinstance(schema.get(key), str)}
        return {key: strip(value) for key, value in schema.items() if key not in left_out}
    return [strip(item) for item in schema] if isinstance(schema, list) else schema


def test_what_crosses_a_socket_does_not_change_without_the_number() -> None:
    schemas = [m.MESSAGE.json_schema(), Report.model_json_schema(), Order.model_json_schema()]
    digest = hashlib.blake2b(json.dumps(strip(schemas), sort_keys=True).encode(), digest_size=16).hexdigest()
    assert DIGESTS.get(SCHEMA_VERSION) == digest, (
        "a message has changed: raise SCHEMA_VERSION in common/message_parts.py, say there what has changed, and add "
        f'to DIGESTS here: {max(DIGESTS) + 1}: "{digest}"'
    )


@pytest.mark.parametrize(("theirs", "age"), [*AGES, ("2", "older")])
def test_a_version_is_read_before_anything_else(theirs: Any, age: str) -> None:
    hello = m.Hello(role="actor", name="a", incarnation="i")
    with pytest.raises(SchemaMismatch) as raised:
        decode(of_version(theirs, hello, region="eu", role="cook"))
    assert str(raised.value) == line(theirs if isinstance(theirs, int) else None, age)


# ------------------------------------------------------------------ broker


def ask(endpoint: str, frames: list[bytes]) -> dict[str, Any]:
    """Send a message; the header of what comes back, as it is."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send_multipart(frames)
        assert socket.poll(10_000), "no answer"
        return dict(msgpack.unpackb(socket.recv_multipart()[0]))


@pytest.mark.parametrize(("theirs", "age"), AGES)
def test_a_broker_refuses_another_version(
    server: Server, theirs: int | None, age: str, caplog: pytest.LogCaptureFixture
) -> None:
    hello = m.Hello(role="actor", name="a", incarnation="i", request_id=7)
    reply = ask(server.endpoints["actor"], of_version(theirs, hello, region="eu"))
    assert (reply["type"], reply["request_id"], reply["code"]) == ("refused", 7, "invalid")
    assert reply["detail"] == line(theirs, age)
    assert server.num_undecodable == 1
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"message on the actor socket refused: {line(theirs, age)}"
    ]


@pytest.mark.parametrize("theirs", [OLDER, NEWER])
def test_a_peer_that_does_not_compare_is_answered_in_its_own_version(server: Server, theirs: int) -> None:
    """It would not be able to read why it was refused. All others learn from the answer's version."""
    reply = ask(server.endpoints["actor"], of_version(theirs, m.Hello(role="actor", name="a", incarnation="i")))
    assert reply["v"] == (theirs if theirs == DOES_NOT_COMPARE else SCHEMA_VERSION)


@pytest.mark.parametrize(("theirs", "age"), [(OLDER, "older"), (NEWER, "newer")])
def test_a_process_ends_at_a_broker_of_another_version(broker: FakeBroker, theirs: int, age: str) -> None:
    broker.answer = lambda fake, envelope: m.Refused(code="invalid", detail="?").model_copy(update={"v": theirs})
    with BrokerClient(broker.endpoint, "actor", "actor-0") as client:
        with pytest.raises(UserError) as raised:
            client.hello(10)
        assert str(raised.value) == f"{broker.endpoint}: {line(theirs, age)}"


def test_whoever_looks_at_a_run_of_another_version_is_told(broker: FakeBroker, tmp_path: Path) -> None:
    broker.answer = lambda fake, envelope: m.Ack().model_copy(update={"v": OLDER})
    paths = RunPaths(tmp_path)
    paths.endpoints.write_text(json.dumps({"monitor": broker.endpoint}))
    plaintext = make_config().model_copy(update={"security": SecuritySection(mode="off")})

    def watch(monitor: RunMonitor) -> None:
        for _ in range(200):
            monitor.poll()
            time.sleep(0.05)

    with RunMonitor(paths, plaintext) as monitor, pytest.raises(UserError, match=line(OLDER, "older")):
        watch(monitor)


@pytest.mark.parametrize(
    ("cause", "effect"), [(NotLetIn("another version"), UserError), (BrokerUnavailable("away"), RunFailure)]
)
def test_a_learner_in_the_middle_of_its_run_ends_like_all_others(
    cause: Exception, effect: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Mock(**{"return_value.run.side_effect": cause})
    monkeypatch.setattr(learner_loop, "Learner", learner)
    monkeypatch.setattr(learner_loop, "Ranks", lambda *_: contextlib.nullcontext())
    with pytest.raises(effect, match=f"^{cause}$"):
        learner_loop.run(Mock())
    learner.return_value.close.assert_called_once()


# ------------------------------------------------------------------ weights


def test_a_learner_answers_an_actor_of_another_version(caplog: pytest.LogCaptureFixture) -> None:
    publisher = WeightPublisher(weights_config(), host="127.0.0.1")
    try:
        for _ in range(2):
            reply = ask(publisher.endpoint, of_version(NEWER, m.Join(name="a", incarnation="i"), region="eu"))
    finally:
        publisher.close()
    assert (reply["v"], reply["type"], reply["detail"]) == (SCHEMA_VERSION, "refused", line(NEWER, "newer"))
    assert caplog.messages.count(f"weights: message refused: {line(NEWER, 'newer')}") == 1


def test_an_actor_ends_at_a_learner_of_another_version() -> None:
    async def refuse(socket: Any) -> None:
        peer, *_ = await socket.recv_multipart()
        await socket.send_multipart([peer, *of_version(NEWER, m.Refused(code="invalid", detail="?"))])
        await asyncio.Event().wait()

    async def follow() -> None:
        async with beside(refuse) as actor:
            await asyncio.wait_for(actor.running, 20)

    with pytest.raises(UserError, match=line(NEWER, "newer")):
        asyncio.run(follow())


def test_an_actor_without_a_model_ends_at_a_learner_of_another_version(tmp_path: Path) -> None:
    learner = Learner(lambda request: (m.NoWork().model_copy(update={"v": NEWER}), b""))
    try:
        with pytest.raises(UserError, match=f"^{learner.endpoint}: {line(NEWER, 'newer')}"):
            wait_for_model(lambda: learner.endpoint, None, tmp_path / "model", StopFlag())
    finally:
        learner.close()


# ------------------------------------------------------------------ ranks


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")


class Foreign:
    """A report or order of another version, with a field that nobody here knows."""

    def __init__(self, version: int) -> None:
        self.version = version

    def model_dump_json(self, **_: Any) -> str:
        return json.dumps({"v": self.version, "region": "eu"})


@pytest.fixture
def gang() -> Iterator[tuple[Gang, GangClient]]:
    gang = Gang(1, pick_port=lambda: 1)
    server = GangServer(gang, "127.0.0.1", port := free_port(), None)
    client = GangClient(f"tcp://127.0.0.1:{port}", None)
    yield gang, client
    client.close()
    server.close()


def report(client: GangClient, what: Any) -> Order:
    for _ in range(20):
        if (order := client.report(what, 0.5)) is not None:
            return order
    raise AssertionError("no order")


def test_nodes_of_one_version_agree(gang: tuple[Gang, GangClient]) -> None:
    assert report(gang[1], Report(node=0, incarnation="i")).gang == gang[0].name


def test_a_gang_answers_a_node_of_another_version(
    gang: tuple[Gang, GangClient], caplog: pytest.LogCaptureFixture
) -> None:
    """A node that states no version knows no field of that name, and is told why it does not run."""
    endpoint = gang[1]._endpoint
    reply = raw(endpoint, {"node": 0, "incarnation": "i", "region": "eu"})
    assert "v" not in reply
    assert (reply["go"], reply["reason"]) == (False, line(None, "older"))
    assert raw(endpoint, {"v": NEWER, "node": 0, "region": "eu"})["v"] == SCHEMA_VERSION
    assert raw(endpoint, {"node": 0})["reason"] == reply["reason"]
    assert caplog.messages == [f"report refused: {line(None, 'older')}"]
    assert not gang[0].running


def test_a_report_that_is_none_is_one_line_in_the_log(
    gang: tuple[Gang, GangClient], caplog: pytest.LogCaptureFixture
) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(gang[1]._endpoint)
        socket.send(json.dumps({"v": SCHEMA_VERSION, "node": -1}).encode())
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [(message[:15], "\n" in message) for message in caplog.messages] == [("report refused:", False)]


def test_a_version_of_any_length_is_refused_like_others(gang: tuple[Gang, GangClient]) -> None:
    """JSON has integers without a bound; the answer's reason has one."""
    assert raw(gang[1]._endpoint, {"v": 10**3000})["reason"].startswith("schema version 1000")
    assert report(gang[1], Report(node=0, incarnation="i")).gang == gang[0].name


def test_a_node_that_reports_without_end_keeps_nothing_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report that is heard is followed by two more. Handshakes, the clock and a stop have their turn."""
    gang, num_heard = Gang(1, pick_port=lambda: 1), 0
    server = GangServer(gang, "127.0.0.1", port := free_port(), None)
    with zmq.Context() as context, context.socket(zmq.DEALER) as node:
        node.linger = 0
        node.connect(f"tcp://127.0.0.1:{port}")
        message = Report(node=0, incarnation="i").model_dump_json().encode()

        def hear(report: Report, now: float) -> Order:
            nonlocal num_heard
            num_heard += 1
            time.sleep(0.001)
            with contextlib.suppress(zmq.Again):
                node.send(message, zmq.NOBLOCK)
                node.send(message, zmq.NOBLOCK)
            raise ValueError("another one")

        monkeypatch.setattr(gang, "hear", hear)
        node.send(message)
        deadline = time.monotonic() + 20
        while num_heard < 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.close()
        assert num_heard >= 500
        assert not server._thread.is_alive()


def test_reports_without_end_wait_on_their_own_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gang that is busy meanwhile takes in no more than its bound, and what the two kernels hold."""
    gang, go_on = Gang(1, pick_port=lambda: 1), threading.Event()
    monkeypatch.setattr(gang, "tick", lambda now: go_on.wait(20))
    server = GangServer(gang, "127.0.0.1", port := free_port(), None)
    with zmq.Context() as context, context.socket(zmq.DEALER) as node:
        node.linger, node.sndhwm = 0, 1
        node.connect(f"tcp://127.0.0.1:{port}")
        num_sent = 0
        while num_sent < 50_000 and node.poll(300, zmq.POLLOUT):
            node.send(bytes(4000))
            num_sent += 1
        go_on.set()
        server.close()
    assert 100 <= num_sent < 20_000


def test_a_node_ends_at_a_gang_of_another_version(
    gang: tuple[Gang, GangClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang[0], "hear", lambda report, now: Foreign(NEWER))
    with pytest.raises(UserError, match=line(NEWER, "newer")):
        report(gang[1], Report(node=0, incarnation="i"))


def raw(endpoint: str, fields: dict[str, Any]) -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send(json.dumps(fields).encode())
        assert socket.poll(10_000), "no answer"
        return dict(json.loads(socket.recv()))

"""The receiver against a hand-made publisher: an answer that comes late or twice starts nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import vllm.distributed.weight_transfer.base  # noqa: F401  the loader imports it; here, it is outside of any deadline
import zmq
import zmq.asyncio

from actor import chunks
from actor.weights import WeightReceiver
from actor.weights import receiver as receiver_module
from common.client import configure_socket
from common.messages import Join, NoWork, ParameterMeta, Pull, Snapshot
from common.weights import Layout, digest_of
from common.wire import decode, encode
from learner.weights.gloo import HostStaged
from learner.weights.pulls import Pulls, message_of
from learner.weights.transport import snapshot_of
from tests.integration.weights_fakes import FakeLLM, weights_config
from tests.slow_link import slow_link

DEADLINE_S = 20.0
LAYOUT = Layout([ParameterMeta(name="w", dtype="float32", shape=[16])])
DATA_B = np.arange(LAYOUT.total_bytes, dtype=np.int64).astype(np.uint8)


def _snapshot(request_id: int, version: int, offset: int = 0) -> Snapshot:
    return Snapshot(
        request_id=request_id, version=version, offset=offset, total_bytes=len(DATA_B), digest=digest_of(DATA_B)
    )


@dataclass
class Beside:
    """A receiver at work on a stand-in engine."""

    llm: FakeLLM
    receiver: WeightReceiver
    versions: list[int]
    running: asyncio.Task[None]


@contextlib.asynccontextmanager
async def beside(
    serve: Callable[[zmq.asyncio.Socket], Coroutine[Any, Any, None]], bytes_per_s: float | None = None
) -> AsyncIterator[Beside]:
    """A receiver whose publisher is `serve`, which gets the socket; the link between carries `bytes_per_s`."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    configure_socket(socket)  # type: ignore[arg-type]
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    link = contextlib.nullcontext(port) if bytes_per_s is None else slow_link(port, bytes_per_s)
    async with link as near:
        llm, versions = FakeLLM(), []
        receiver = WeightReceiver(
            llm,
            weights_config(),
            endpoint=f"tcp://127.0.0.1:{near}",
            name="a",
            incarnation="1",
            on_version=versions.append,
            on_pause=lambda: llm.calls.append("on_pause"),
        )
        tasks = [asyncio.create_task(receiver.run()), asyncio.create_task(serve(socket))]
        try:
            yield Beside(llm, receiver, versions, tasks[0])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            socket.close(linger=0)
            context.term()


async def _serve(socket: zmq.asyncio.Socket, settled: asyncio.Event) -> None:
    """Answer each Pull twice; `settled` once the actor has asked again three times with version 0 in its hands."""
    asked_with_version = 0
    while True:
        peer, *frames = await socket.recv_multipart()
        header = decode(frames).header
        if not isinstance(header, Pull):
            continue
        if header.have is not None:
            asked_with_version += 1
            if asked_with_version == 3:
                settled.set()
            reply, payload = NoWork(request_id=header.request_id), {}
        else:
            payload = {"chunk": DATA_B[header.offset : header.offset + 64]}
            if header.offset == 0:
                payload["manifest"] = LAYOUT.manifest()
            reply = _snapshot(header.request_id, 0, header.offset)
        for _ in range(2):
            await socket.send_multipart([peer, *encode(reply, payload)])


async def _loads_of_version_0() -> tuple[list[str], int | None]:
    settled = asyncio.Event()
    async with beside(lambda socket: _serve(socket, settled)) as actor:
        await asyncio.wait_for(settled.wait(), DEADLINE_S)
        return actor.llm.calls, actor.receiver.version


async def _serve_until_deaf(socket: zmq.asyncio.Socket, peers: list[bytes]) -> None:
    """Version 0 for the first identity, which is never answered again; version 1 for the next."""
    while True:
        peer, *frames = await socket.recv_multipart()
        header = decode(frames).header
        if isinstance(header, Join) and peer not in peers:
            peers.append(peer)
        if not isinstance(header, Pull) or peer != peers[-1] or (header.have == 0 and len(peers) == 1):
            continue
        version = len(peers) - 1
        if header.have == version:
            reply, payload = NoWork(request_id=header.request_id), {}
        else:
            payload = {"chunk": DATA_B, "manifest": LAYOUT.manifest()}
            reply = _snapshot(header.request_id, version)
        await socket.send_multipart([peer, *encode(reply, payload)])


async def _versions_beside_a_deaf_publisher() -> tuple[list[int], int]:
    peers: list[bytes] = []
    async with beside(lambda socket: _serve_until_deaf(socket, peers)) as actor:
        deadline = time.monotonic() + DEADLINE_S
        while len(actor.versions) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return actor.versions, len(peers)


@pytest.mark.usefixtures("no_leaked_processes")
def test_an_actor_that_is_not_heard_any_more_joins_under_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "SILENCE_S", 1.0)
    assert asyncio.run(_versions_beside_a_deaf_publisher()) == ([0, 1], 2)


@pytest.mark.usefixtures("no_leaked_processes")
def test_answers_that_come_twice_load_once() -> None:
    calls, version = asyncio.run(_loads_of_version_0())
    assert (calls.count("update"), version) == (1, 0)
    assert calls[:4] == ["on_pause", "pause", "on_pause", "start"]


SLOW_BYTES_PER_S = 1024 * 1024


@dataclass
class Asked:
    """What a receiver asked for: by which connection, where in the weights, how much."""

    peer: bytes
    offset: int
    max_bytes: int


async def _pull_in_parts(
    staged: Callable[[list[Asked]], HostStaged | None],
    done: Callable[[Beside], bool],
    bytes_per_s: float | None = None,
    within_s: float = DEADLINE_S,
) -> tuple[list[Asked], list[int]]:
    """Pulls as the learner answers them, of what `staged` says is published; None: silence. Until `done`."""
    asked: list[Asked] = []
    pulls = Pulls()

    async def serve(socket: zmq.asyncio.Socket) -> None:
        while True:
            peer, *frames = await socket.recv_multipart()
            pull = decode(frames).header
            if not isinstance(pull, Pull):
                continue
            asked.append(Asked(peer, pull.offset, pull.max_bytes))
            if pull.have is not None:
                await socket.send_multipart([peer, *encode(NoWork(request_id=pull.request_id))])
                continue
            published = staged(asked)
            answer = None if published is None else pulls.chunk(peer, pull, published, 0.0)
            if answer is not None:
                await socket.send_multipart([peer, *encode(*message_of(*answer, request_id=pull.request_id))])

    async with beside(serve, bytes_per_s) as actor:
        deadline = time.monotonic() + within_s
        while not done(actor) and not actor.running.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return asked, actor.versions


def _staged(version: int, fill: int, num_floats: int = 4096) -> HostStaged:
    layout = Layout([ParameterMeta(name="w", dtype="float32", shape=[num_floats])])
    return HostStaged(snapshot_of(version, layout, np.full(layout.total_bytes, fill, dtype=np.uint8)))


@pytest.mark.usefixtures("no_leaked_processes")
def test_weights_come_over_a_link_that_carries_no_chunk_of_the_largest_size() -> None:
    """Whatever takes longer than a heartbeat's time to come in one piece ends the connection, and never comes."""
    published = _staged(0, 1, num_floats=SLOW_BYTES_PER_S)
    begin = time.monotonic()
    asked, versions = asyncio.run(
        _pull_in_parts(lambda _: published, lambda actor: bool(actor.versions), SLOW_BYTES_PER_S, 6 * DEADLINE_S)
    )
    assert versions == [0], f"asked for: {asked}"
    assert time.monotonic() - begin >= 0.9 * published.layout.total_bytes / SLOW_BYTES_PER_S  # it was slow
    assert max(ask.max_bytes for ask in asked) <= 1.5 * SLOW_BYTES_PER_S


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 16 KiB come in chunks of 1 to 4 KiB."""
    for name, num_bytes in (("SMALLEST_BYTES", 1024), ("FIRST_BYTES", 2048), ("LARGEST_BYTES", 4096)):
        monkeypatch.setattr(chunks, name, num_bytes)


@pytest.mark.usefixtures("no_leaked_processes", "parts")
def test_a_pull_goes_on_over_another_connection_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that becomes slow loses its chunk, and then the connection; not what has come."""
    monkeypatch.setattr(receiver_module, "SILENCE_S", 0.6)
    published = _staged(0, 1)

    def silent_after_two(asked: list[Asked]) -> HostStaged | None:
        return published if len(asked) <= 2 or asked[-1].peer != asked[0].peer else None

    asked, versions = asyncio.run(_pull_in_parts(silent_after_two, lambda actor: bool(actor.versions)))
    assert versions == [0]
    before = [ask for ask in asked if ask.peer == asked[0].peer]
    after = [ask for ask in asked if ask.peer != asked[0].peer]
    assert [(ask.offset, ask.max_bytes) for ask in before] == [(0, 2048), (2048, 4096), (6144, 4096)]
    # The learner does not know this connection, and answers with the beginning; then it goes on.
    assert [(ask.offset, ask.max_bytes) for ask in after[:2]] == [(6144, 1024), (6144, 4096)]
    assert after[-1].offset + after[-1].max_bytes >= 16_384 or after[-1].offset == 0


@pytest.mark.usefixtures("no_leaked_processes", "parts")
def test_an_answer_that_never_comes_makes_the_next_chunk_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "ANSWER_S", 0.3)
    monkeypatch.setattr(receiver_module, "ASK_EVERY_S", 0.05)
    published = _staged(0, 1)

    def too_large(asked: list[Asked]) -> HostStaged | None:
        return published if asked[-1].max_bytes <= 1024 or len(asked) == 1 else None

    asked, versions = asyncio.run(_pull_in_parts(too_large, lambda actor: bool(actor.versions)))
    assert versions == [0]
    assert [ask.max_bytes for ask in asked[:3]] == [2048, 4096, 1024]


@pytest.mark.usefixtures("no_leaked_processes", "parts")
def test_the_same_version_of_another_learner_is_pulled_from_its_beginning() -> None:
    """One that was restarted in the middle of a pull: half of each would be neither."""
    one, other = _staged(0, 1), _staged(0, 2)
    restarted = False

    def restart_after_two(asked: list[Asked]) -> HostStaged | None:
        nonlocal restarted
        if len(asked) == 3 and not restarted:
            restarted = True
            pulls_of_the_dead.clear()
        return other if restarted else one

    pulls_of_the_dead: dict[bytes, Any] = {}
    init = Pulls.__init__

    def remember(self: Pulls) -> None:
        init(self)
        self._peers = pulls_of_the_dead

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pulls, "__init__", remember)
        asked, versions = asyncio.run(_pull_in_parts(restart_after_two, lambda actor: bool(actor.versions)))
    assert versions == [0]
    assert [ask.offset for ask in asked[:5]] == [0, 2048, 6144, 4096, 8192]


async def _offer_version_3_to_an_actor_at_5(wait_s: float) -> tuple[list[int], int, BaseException | None]:
    """Versions loaded, offers of the earlier one, and what the receiver raised within `wait_s`."""
    offered: list[int] = []

    async def serve(socket: zmq.asyncio.Socket) -> None:
        while True:
            peer, *frames = await socket.recv_multipart()
            header = decode(frames).header
            if isinstance(header, Pull):
                offered.append(3 if actor.versions else 5)
                payload = {"chunk": DATA_B, "manifest": LAYOUT.manifest()}
                await socket.send_multipart([peer, *encode(_snapshot(header.request_id, offered[-1]), payload)])

    async with beside(serve) as actor:
        deadline = time.monotonic() + DEADLINE_S
        while offered.count(3) < 3 and not actor.running.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.wait({actor.running}, timeout=wait_s)
        return actor.versions, offered.count(3), actor.running.exception() if actor.running.done() else None


@pytest.mark.usefixtures("no_leaked_processes")
def test_an_earlier_version_is_not_loaded_and_leaves_time_to_hear_of_the_other_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A learner that went back to its checkpoint used to end all actors, which found its weights before its name."""
    versions, offers, error = asyncio.run(_offer_version_3_to_an_actor_at_5(0.0))
    assert (versions, error) == ([5], None)
    assert offers >= 3
    monkeypatch.setattr(receiver_module, "BACKWARDS_S", 0.6)
    versions, _, error = asyncio.run(_offer_version_3_to_an_actor_at_5(5.0))
    assert versions == [5]
    assert "serves version 3, this actor has sampled from 5: versions do not go back" in str(error)

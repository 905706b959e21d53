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

from actor.weights import WeightReceiver
from actor.weights import receiver as receiver_module
from common.client import configure_socket
from common.messages import Join, NoWork, ParameterMeta, Pull, Snapshot
from common.weights import Layout, digest_of
from common.wire import decode, encode
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
BIG_LAYOUT = Layout([ParameterMeta(name="w", dtype="float32", shape=[SLOW_BYTES_PER_S])])
BIG_DATA_B = np.arange(BIG_LAYOUT.total_bytes, dtype=np.int64).astype(np.uint8)


async def _serve_big(socket: zmq.asyncio.Socket, asked: list[int]) -> None:
    """Version 0 in chunks as large as they are asked for, noted in `asked`."""
    header = Snapshot(version=0, offset=0, total_bytes=len(BIG_DATA_B), digest=digest_of(BIG_DATA_B))
    while True:
        peer, *frames = await socket.recv_multipart()
        pull = decode(frames).header
        if isinstance(pull, Pull) and pull.have is None:
            asked.append(pull.max_bytes)
            payload = {"chunk": BIG_DATA_B[pull.offset : pull.offset + pull.max_bytes]}
            if pull.offset == 0:
                payload["manifest"] = BIG_LAYOUT.manifest()
            answer = header.model_copy(update={"request_id": pull.request_id, "offset": pull.offset})
            await socket.send_multipart([peer, *encode(answer, payload)])
        elif isinstance(pull, Pull):
            await socket.send_multipart([peer, *encode(NoWork(request_id=pull.request_id))])


async def _seconds_to_pull_over_a_slow_link(asked: list[int]) -> float:
    begin = time.monotonic()
    async with beside(lambda socket: _serve_big(socket, asked), bytes_per_s=SLOW_BYTES_PER_S) as actor:
        while not actor.versions and time.monotonic() < begin + 6 * DEADLINE_S:
            await asyncio.sleep(0.05)
        assert actor.versions == [0], f"chunks asked for: {asked}"
    return time.monotonic() - begin


@pytest.mark.usefixtures("no_leaked_processes")
def test_weights_come_over_a_link_that_carries_no_chunk_of_the_largest_size() -> None:
    """Whatever takes longer than a heartbeat's time to come in one piece ends the connection, and never comes."""
    asked: list[int] = []
    seconds = asyncio.run(_seconds_to_pull_over_a_slow_link(asked))
    assert seconds >= 0.9 * len(BIG_DATA_B) / SLOW_BYTES_PER_S  # it was slow
    assert max(asked) <= 1.5 * SLOW_BYTES_PER_S


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

"""Actors and publishers that die, stall, lie or come back: real sockets and gloo, stand-ins for the engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch
import vllm.distributed.weight_transfer.base  # noqa: F401  the loader imports it; here, it is outside of any deadline

from actor.weights import WeightReceiver, receiver
from common.errors import RunFailure
from common.messages import Begin
from common.metrics import REGISTRY
from learner.weights import PublishReport, WeightPublisher
from learner.weights import gloo as learner_gloo
from tests.integration.weights_fakes import FakeLLM, checksum, weights_config
from tests.integration.weights_rig import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def make_weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(f"layer.{i}.weight", torch.randn(64, 37, generator=generator)) for i in range(8)]


def checksum_of(weights: list[tuple[str, torch.Tensor]]) -> float:
    return checksum({name: tensor.numpy() for name, tensor in weights})


class ReceiverProcess:
    """A receiving process and the versions it has told of."""

    def __init__(self, endpoint: str, name: str, signum: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.weights_fakes", endpoint, name, str(signum)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self.process.stdout.close()

    def next_version(self, timeout_s: float = 30) -> tuple[int, float]:
        version, total = self._lines.get(timeout=timeout_s).split()
        return int(version), float(total)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


@pytest.fixture
def publisher() -> Iterator[WeightPublisher]:
    publisher = WeightPublisher(weights_config(), host="127.0.0.1")
    yield publisher
    publisher.close()


@pytest.fixture
def spawn(publisher: WeightPublisher) -> Iterator[Callable[..., ReceiverProcess]]:
    started: list[ReceiverProcess] = []

    def start(name: str, signum: int = 0) -> ReceiverProcess:
        started.append(ReceiverProcess(publisher.endpoint, name, signum))
        return started[-1]

    yield start
    for process in started:
        process.close()


def wait_for_members(publisher: WeightPublisher, count: int, timeout_s: float = 60) -> None:
    """Until so many actors would take part in a publish."""
    deadline = time.monotonic() + timeout_s
    waiting = threading.Event()
    while sum(peer.eligible for peer in list(publisher._control._epochs.peers.values())) < count:
        assert time.monotonic() < deadline, f"{count} actors did not join within {timeout_s} s"
        waiting.wait(0.02)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_one_of_two_lost_in_mid_broadcast(
    publisher: WeightPublisher, spawn: Callable[..., ReceiverProcess], signum: int
) -> None:
    survivor, victim = spawn("survivor"), spawn("victim", signum)
    wait_for_members(publisher, 2)
    weights = make_weights(0)
    began = time.monotonic()
    report = publisher.publish(0, weights)
    assert time.monotonic() - began < 10, "shorter than one transfer time-out"
    assert (report.num_actors, report.num_excluded) == (1, 1)
    assert survivor.next_version() == (0, pytest.approx(checksum_of(weights)))
    newer = make_weights(1)
    assert publisher.publish(1, newer).num_actors == 1
    assert survivor.next_version() == (1, pytest.approx(checksum_of(newer)))
    if signum == signal.SIGSTOP:  # it comes back, finds itself left out, and pulls
        victim.process.send_signal(signal.SIGCONT)
        assert victim.process.poll() is None
        assert victim.next_version() == (1, pytest.approx(checksum_of(newer)))


def test_actor_killed_between_publishes_delays_nobody(
    publisher: WeightPublisher, spawn: Callable[..., ReceiverProcess]
) -> None:
    survivor, victim = spawn("survivor"), spawn("victim")
    wait_for_members(publisher, 2)
    assert publisher.publish(0, make_weights(0)).num_actors == 2
    victim.process.kill()
    victim.process.wait()
    began = time.monotonic()
    assert publisher.publish(1, make_weights(1)).num_actors == 1
    assert time.monotonic() - began < 3, "shorter than the ready time-out"
    assert [survivor.next_version()[0] for _ in range(2)] == [0, 1]


class Actor:
    """A receiver in this process."""

    def __init__(self, endpoint: str, name: str = "actor") -> None:
        self.llm = FakeLLM()
        self.versions: list[int] = []
        self.receiver = WeightReceiver(
            self.llm,
            weights_config(),
            endpoint=endpoint,
            name=name,
            incarnation=os.urandom(4).hex(),
            on_version=self.versions.append,
            on_pause=lambda: None,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.receiver.run())
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def publish(publisher: WeightPublisher, version: int, seed: int, members: int) -> PublishReport:
    await asyncio.to_thread(wait_for_members, publisher, members)
    return await asyncio.to_thread(publisher.publish, version, make_weights(seed))


def test_epochs_and_late_joiner(publisher: WeightPublisher) -> None:
    async def flow() -> None:
        first, late = Actor(publisher.endpoint, "first"), Actor(publisher.endpoint, "late")
        async with first.running():
            for version in range(3):
                assert (await publish(publisher, version, version, 1)).num_actors == 1
            assert first.llm.weight_version == "2"
            assert first.llm.calls == ["pause", "start", "update", "finish", "resume"] * 3
            async with late.running():
                await until(lambda: late.receiver.version == 2)
                assert checksum(late.llm.weights) == pytest.approx(checksum_of(make_weights(2)))
                assert (await publish(publisher, 3, 3, 2)).num_actors == 2
        assert first.versions == [0, 1, 2, 3]
        assert late.versions == [2, 3]

    asyncio.run(flow())


def test_corrupted_broadcast_is_refused_and_the_actor_pulls_instead(
    publisher: WeightPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = learner_gloo._broadcast

    def corrupt(group: Any, bucket_B: torch.Tensor, deadline: float) -> None:
        send(group, bucket_B ^ 1, deadline)

    async def flow() -> None:
        actor = Actor(publisher.endpoint)
        async with actor.running():
            await publish(publisher, 0, 0, 1)
            monkeypatch.setattr(learner_gloo, "_broadcast", corrupt)
            report = await publish(publisher, 1, 1, 1)
            assert (report.num_actors, report.num_excluded) == (0, 1)
            await until(lambda: actor.receiver.version == 1)  # by a pull, whose bytes were right
        assert checksum(actor.llm.weights) == pytest.approx(checksum_of(make_weights(1)))
        assert actor.llm.calls.count("update") == 2

    asyncio.run(flow())


def test_stale_digest_in_begin_is_not_loaded(publisher: WeightPublisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor's own check: even a publisher that would commit anything gets nothing loaded. It may pull it later."""

    async def flow() -> None:
        actor = Actor(publisher.endpoint)
        async with actor.running():
            await publish(publisher, 0, 0, 1)
            before = num_loaded("broadcast")
            monkeypatch.setattr(publisher._control._epochs, "_on_received", commit_anyway(publisher))
            monkeypatch.setattr(publisher._control, "_send", with_digest(publisher, "0" * 64))
            report = await publish(publisher, 1, 1, 1)
            assert report.num_actors == 0
            assert num_loaded("broadcast") == before

    asyncio.run(flow())


def num_loaded(way: str) -> float | None:
    return REGISTRY.get_sample_value("zeroq_weights_updates_total", {"way": way})


def with_digest(publisher: WeightPublisher, digest: str) -> Callable[..., bool]:
    send = publisher._control._send

    def altered(peer: bytes, message: Any, frames: Any) -> bool:
        if isinstance(message, Begin):
            message = message.model_copy(update={"digest": digest})
        return send(peer, message, frames)

    return altered


def commit_anyway(publisher: WeightPublisher) -> Callable[..., Any]:
    epochs = publisher._control._epochs

    def on_received(event: Any, now: float) -> Any:
        epochs._waiting.discard(event.peer)
        epochs._held.add(event.peer)
        return epochs._advance(now)

    return on_received


def test_restarted_publisher_at_the_same_address_is_joined_and_pulled_from() -> None:
    async def flow() -> None:
        first = WeightPublisher(weights_config(), host="127.0.0.1")
        port = int(first.endpoint.rsplit(":", 1)[1])
        actor = Actor(first.endpoint)
        async with actor.running():
            await publish(first, 4, 0, 1)
            await until(lambda: actor.receiver.version == 4)
            first.close()
            second = WeightPublisher(weights_config(), host="127.0.0.1", port=port)
            try:
                await asyncio.to_thread(second.publish, 5, make_weights(5))
                await until(lambda: actor.receiver.version == 5)
                assert (await publish(second, 6, 6, 1)).num_actors == 1
            finally:
                second.close()
        assert actor.versions == [4, 5, 6]

    asyncio.run(flow())


def test_versions_that_go_back_end_an_actor_that_hears_of_no_other_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "BACKWARDS_S", 0.5)

    async def flow() -> None:
        first = WeightPublisher(weights_config(), host="127.0.0.1")
        await asyncio.to_thread(first.publish, 7, make_weights(0))
        actor = Actor(first.endpoint)
        task = asyncio.create_task(actor.receiver.run())
        await until(lambda: actor.receiver.version == 7)
        port = int(first.endpoint.rsplit(":", 1)[1])
        first.close()
        second = WeightPublisher(weights_config(), host="127.0.0.1", port=port)
        try:
            await asyncio.to_thread(second.publish, 3, make_weights(1))
            with pytest.raises(RunFailure, match="version 3, this actor has sampled from 7"):
                await asyncio.wait_for(task, 20)
        finally:
            second.close()

    asyncio.run(flow())


def test_static_endpoint_serves_version_0_for_ever() -> None:
    async def flow() -> None:
        actor = Actor("static")
        async with actor.running():
            await until(lambda: actor.receiver.version == 0)
            assert actor.llm.weight_version == "0"
        assert actor.versions == [0]

    asyncio.run(flow())


def test_publisher_refuses_versions_that_do_not_grow_and_parameters_that_change(publisher: WeightPublisher) -> None:
    publisher.publish(2, make_weights(0))
    with pytest.raises(ValueError, match="versions grow"):
        publisher.publish(2, make_weights(0))
    with pytest.raises(ValueError, match="changed between publishes"):
        publisher.publish(3, make_weights(0)[:-1])
    with pytest.raises(ValueError, match="changed between publishes"):
        publisher.publish(3, [*make_weights(0)[:-1], ("other", torch.zeros(1))])
    publisher.publish(3, make_weights(1))


def test_threads_and_sockets_end_with_the_publisher() -> None:
    before = set(threading.enumerate())
    publisher = WeightPublisher(weights_config(), host="127.0.0.1")
    publisher.publish(0, make_weights(0))
    publisher.close()
    publisher.close()
    left = {thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("weights")}
    assert not left

"""An actor that was started for one model never samples from the weights of another, nor from none."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zmq
import zmq.asyncio

from actor.follow import STATIC, WeightFollower
from actor.weights import WeightReceiver
from common.errors import RunFailure
from common.lifecycle import StopFlag
from common.messages import (
    Header,
    Join,
    Leave,
    NoWork,
    ParameterMeta,
    Propose,
    Pull,
    Snapshot,
    Welcome,
)
from common.weights import Layout, digest_of
from common.wire import Envelope, decode, encode
from launcher.sampling import Sampler
from learner.weights import WeightPublisher
from learner.weights.files import ServedFiles
from tests.integration.weights_fakes import FakeLLM, weights_config
from tests.unit.model_files_rig import config_of, make_model

DEADLINE_S = 20.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", "one")


LAYOUT = Layout([ParameterMeta(name="w", dtype="float32", shape=[16])])
DATA_B = np.arange(LAYOUT.total_bytes, dtype=np.int64).astype(np.uint8)


def snapshot(pull: Pull, model: str | None) -> Snapshot:
    return Snapshot(
        request_id=pull.request_id,
        version=0,
        offset=0,
        total_bytes=len(DATA_B),
        digest=digest_of(DATA_B),
        model=model,
    )


def proposal(model: str | None) -> Propose:
    return Propose(
        epoch=1,
        version=1,
        backend="gloo",
        rank=1,
        world_size=2,
        store_host="127.0.0.1",
        store_port=1,
        prefix="p",
        timeout_s=1.0,
        bucket_bytes=4096,
        model=model,
    )


async def follow(expected: str | None, offered: str | None, *, propose: bool) -> FakeLLM:
    """Run a receiver that was started for the model `expected` against a publisher of `offered`."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    llm, loaded = FakeLLM(), asyncio.Event()
    receiver = WeightReceiver(
        llm,
        weights_config(),
        endpoint=f"tcp://127.0.0.1:{port}",
        name="a",
        incarnation="1",
        on_version=lambda version: loaded.set(),
        on_pause=lambda: None,
        model=expected,
    )

    async def publish() -> None:
        while True:
            peer, *frames = await socket.recv_multipart()
            header = decode(frames).header
            if not isinstance(header, Pull):
                continue
            if propose:
                reply, payload = proposal(offered), {"manifest": LAYOUT.manifest()}
            elif header.have == 0:
                reply, payload = NoWork(request_id=header.request_id), {}
            else:
                reply, payload = snapshot(header, offered), {"chunk": DATA_B, "manifest": LAYOUT.manifest()}
            await socket.send_multipart([peer, *encode(reply, payload)])

    publishing, receiving = asyncio.create_task(publish()), asyncio.create_task(receiver.run())
    waiting = asyncio.create_task(loaded.wait())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait({receiving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            receiving.result()
    finally:
        for task in (publishing, receiving, waiting):
            task.cancel()
        await asyncio.gather(publishing, receiving, waiting, return_exceptions=True)
        socket.close(linger=0)
        context.term()
    return llm


@pytest.mark.parametrize("propose", [False, True], ids=["pulled", "broadcast"])
@pytest.mark.parametrize("offered", ["b" * 64, None])
def test_weights_of_another_model_end_the_actor_before_they_are_loaded(offered: str | None, propose: bool) -> None:
    with pytest.raises(RunFailure, match=r"learner trains another model .*must be restarted"):
        asyncio.run(follow("a" * 64, offered, propose=propose))


@pytest.mark.parametrize("expected", ["a" * 64, None])
def test_weights_of_the_same_model_are_loaded(expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # vLLM's request class is a plain holder; importing vLLM for it takes ten seconds.
    holder = SimpleNamespace(WeightTransferUpdateRequest=lambda info: SimpleNamespace(update_info=info))
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.base", holder)
    assert "update" in asyncio.run(follow(expected, "a" * 64, propose=False)).calls


def test_a_publisher_names_the_model_with_its_weights(model: Path) -> None:
    publisher = WeightPublisher(config_of(model, "learner"), host="127.0.0.1")
    try:
        digest = ServedFiles.of(str(model)).digest
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.connect(publisher.endpoint)
            publisher.publish(0, [("w", torch.zeros(4))])
            for header in (Join(name="a", incarnation="1"), Pull(request_id=1)):
                socket.send_multipart(encode(header))
            assert socket.poll(5000)
            pulled = decode(socket.recv_multipart()).header
            assert isinstance(pulled, Snapshot)
            assert pulled.model == digest
            publishing = threading.Thread(target=publisher.publish, args=(1, [("w", torch.ones(4))]))
            publishing.start()
            assert socket.poll(5000)
            proposed = decode(socket.recv_multipart()).header
            assert isinstance(proposed, Propose)
            assert proposed.model == digest
            socket.send_multipart(encode(Leave(incarnation="1")))
            publishing.join(10)
            assert not publishing.is_alive()
    finally:
        publisher.close()


def test_an_engine_without_weights_never_counts_as_loaded() -> None:
    async def run() -> None:
        broker = SimpleNamespace(ask=_welcome)
        follower = WeightFollower(
            broker,
            name="a",
            incarnation="1",
            make_receiver=lambda endpoint, loaded: pytest.fail("no receiver here"),
            on_version=lambda version: pytest.fail("nothing is loaded"),
            has_weights=False,
        )
        with pytest.raises(RunFailure, match="without weights"):
            await asyncio.wait_for(follower.run(), DEADLINE_S)

    asyncio.run(run())


async def _welcome(header: Header) -> Envelope:
    return Envelope(Welcome(broker_incarnation="b", version=0, weights_endpoint=STATIC), {})


def test_a_sampler_gives_its_actors_the_model_itself(model: Path) -> None:
    assert Sampler(config_of(model, "learner"), stop=StopFlag()).config.actor.model_from == "disk"

"""The whole weight path with real vLLM on a CPU: publisher, epochs, gloo, staging, layerwise reload.

The judge of "the weights are right" is greedy sampling against an engine freshly loaded from the same checkpoint:
vLLM's CPU kernels keep packed copies of weights, so comparing parameters would prove little.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.weights import WeightReceiver
from actor.weights.loader import Loader, LoadFailed
from actor.weights.staging import StagingFile
from actor.weights.update import Update
from common.errors import RunFailure
from common.weights import digest_of
from learner.weights import WeightPublisher, gather_full_tensors
from tests.integration.weights_rig import EngineRig, load_model, make_config, make_model, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.timeout(600),
]


class Case:
    """Two models of one shape (the engine starts on the first) and what a fresh engine says of the second."""

    def __init__(self, root: Path, *, tied: bool) -> None:
        self.tied = tied
        self.old = make_model(root / "old", seed=0, tied=tied)
        self.new = make_model(root / "new", seed=1, tied=tied)
        fresh = EngineRig(make_config(self.new))
        self.expected_new = fresh.greedy()
        fresh.close()
        self.rig = EngineRig(make_config(self.old))
        self.expected_old = self.rig.greedy()
        self.models: dict[str, Any] = {"old": load_model(self.old), "new": load_model(self.new)}

    def weights(self, which: str) -> list[tuple[str, torch.Tensor]]:
        return list(gather_full_tensors(self.models[which]))


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    case = Case(tmp_path_factory.mktemp("models"), tied=request.param)
    yield case
    case.rig.close()


@pytest.fixture
def publisher(case: Case) -> Iterator[WeightPublisher]:
    publisher = WeightPublisher(case.rig.config, host="127.0.0.1")
    yield publisher
    publisher.close()


@contextlib.asynccontextmanager
async def receiving(receiver: WeightReceiver) -> AsyncIterator[asyncio.Task[None]]:
    """The receiver's loop in the background; its errors surface here."""
    task = asyncio.create_task(receiver.run())
    try:
        yield task
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def joined(publisher: WeightPublisher, receiver: WeightReceiver) -> bool:
    """Whether the publisher knows this very receiver, and that it is heard by it."""
    peers = list(publisher._control._epochs.peers.values())
    return any(peer.eligible and peer.incarnation == receiver._incarnation for peer in peers)


def test_greedy_outputs_after_updates_equal_a_freshly_loaded_engine(case: Case, publisher: WeightPublisher) -> None:
    versions: list[int] = []
    receiver = case.rig.receiver(publisher.endpoint, on_version=versions.append)

    async def publish(version: int, which: str) -> None:
        async with receiving(receiver):
            await until(lambda: joined(publisher, receiver))  # not the one before, which may not have left yet
            report = await asyncio.to_thread(publisher.publish, version, case.weights(which))
            assert (report.num_actors, report.num_excluded) == (1, 0)
            await until(lambda: receiver.version == version)

    case.rig.run(lambda: publish(0, "new"))
    assert case.rig.greedy() == case.expected_new
    receiver = case.rig.receiver(publisher.endpoint, on_version=versions.append)
    case.rig.run(lambda: publish(1, "old"))
    assert case.rig.greedy() == case.expected_old
    assert case.expected_old != case.expected_new
    assert versions[-1] == 1


def test_update_in_flight_drops_no_request_and_labels_every_token(case: Case, publisher: WeightPublisher) -> None:
    async def flow() -> list[Any]:
        receiver = case.rig.receiver(publisher.endpoint)
        async with receiving(receiver):
            await asyncio.to_thread(publisher.publish, 0, case.weights("old"))
            await until(lambda: receiver.version == 0)
            requests = [asyncio.create_task(case.rig.generate([i, i + 1, i + 2], 400)) for i in range(12)]
            for version in (1, 2):
                await asyncio.sleep(0.15)
                which = "new" if version == 1 else "old"
                report = await asyncio.to_thread(publisher.publish, version, case.weights(which))
                assert (report.num_actors, report.num_excluded) == (1, 0)
            return await asyncio.gather(*requests)

    outputs = case.rig.run(flow)
    assert len(outputs) == 12
    for output in outputs:
        assert len(output.token_ids) == 400
        spans = [(span.start, span.end, int(span.version)) for span in output.weight_versions]
        assert spans[0][0] == 0
        assert spans[-1][1] == 400
        assert all(a[1] == b[0] and a[2] < b[2] for a, b in itertools.pairwise(spans)), spans
    assert max(len(output.weight_versions) for output in outputs) >= 2, "no update fell into a running request"


def test_publisher_killed_in_mid_broadcast_leaves_the_old_weights_and_a_new_one_works(case: Case) -> None:
    async def flow() -> None:
        with publisher_process(case, stall_at_bucket=1) as process:
            endpoint = await asyncio.to_thread(read_line, process)
            receiver = case.rig.receiver(endpoint)
            async with receiving(receiver):
                assert await asyncio.to_thread(read_line, process) == "stalled"
                assert receiver.version == 0
                busy = asyncio.create_task(case.rig.generate([3, 4, 5], 200))
                process.send_signal(signal.SIGKILL)
                process.wait()
                output = await busy
                assert {span.version for span in output.weight_versions} == {"0"}
                await until(lambda: receiver._receiving is None or receiver._receiving.done())
                assert receiver.version == 0
        publisher = WeightPublisher(case.rig.config, host="127.0.0.1")
        try:
            await asyncio.to_thread(publisher.publish, 1, case.weights("old"))
            receiver = case.rig.receiver(publisher.endpoint)
            async with receiving(receiver):
                await until(lambda: receiver.version == 1)  # by a pull
                await until(lambda: joined(publisher, receiver))
                report = await asyncio.to_thread(publisher.publish, 2, case.weights("new"))
                assert report.num_actors == 1
        finally:
            publisher.close()

    case.rig.run(flow)
    assert case.rig.greedy() == case.expected_new


def test_late_joiner_pulls_and_takes_part_in_the_next_epoch(case: Case, publisher: WeightPublisher) -> None:
    assert publisher.publish(0, case.weights("new")).num_actors == 0
    receiver = case.rig.receiver(publisher.endpoint)

    async def join() -> None:
        async with receiving(receiver):
            await until(lambda: receiver.version == 0)

    case.rig.run(join)
    assert case.rig.greedy() == case.expected_new


def test_missing_parameter_is_an_error_and_the_next_update_repairs_it(case: Case) -> None:
    """Also shows that an update which broke off does not block the following ones."""
    loader = Loader(case.rig.llm, timeout_s=60)

    async def load(version: int, which: str, *, drop: str | None) -> None:
        update, staged = staged_update(case, version, which, drop=drop)
        try:
            await loader.load(version, update)
        finally:
            staged.close()

    with pytest.raises(LoadFailed, match=r"1 of .* parameters did not come"):
        case.rig.run(lambda: load(1, "new", drop="model.norm.weight"))
    assert loader.paused
    case.rig.run(lambda: load(2, "new", drop=None))
    assert not loader.paused
    assert case.rig.greedy() == case.expected_new
    case.rig.run(lambda: load(3, "old", drop=None))
    assert case.rig.greedy() == case.expected_old


def test_weights_whose_digest_does_not_match_are_refused(case: Case, publisher: WeightPublisher) -> None:
    case.rig.run(lambda: Loader(case.rig.llm, 60).label(0))
    before = case.rig.greedy()
    publisher.publish(0, case.weights("new"))
    published = publisher._control._published
    assert published is not None
    snapshot = published.snapshot()
    assert snapshot is not None
    snapshot.data_B[100] ^= 1  # after the digest was taken
    receiver = case.rig.receiver(publisher.endpoint)

    async def join() -> None:
        with pytest.raises(RunFailure, match="digest"):
            await receiver.run()

    case.rig.run(join)
    assert receiver.version is None
    assert case.rig.greedy() == before


def staged_update(case: Case, version: int, which: str, *, drop: str | None) -> tuple[Update, StagingFile]:
    """A staging file written by hand, without one parameter if asked."""
    from learner.weights.transport import fill

    tensors = [(name, tensor) for name, tensor in case.weights(which) if name != drop]
    layout, flat_B = fill(tensors, torch.bfloat16, None, lambda size: torch.zeros(size, dtype=torch.uint8))
    staged = StagingFile(layout.total_bytes)
    staged.buffer[:] = flat_B.numpy().tobytes()
    assert digest_of(staged.buffer) == digest_of(flat_B.numpy())
    return Update("staged", version, layout.manifest().decode(), path=staged.path), staged


@contextlib.contextmanager
def publisher_process(case: Case, *, stall_at_bucket: int) -> Iterator[subprocess.Popen[str]]:
    """A learner-like process: publishes version 0, then stalls in the middle of version 1."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.weights_stalling_publisher", str(case.old), str(stall_at_bucket)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

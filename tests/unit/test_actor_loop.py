"""The actor's loop against a scripted broker and an engine whose tokens come when the test says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from actor import loop as loop_module
from actor.engine import EngineDied, PromptRefused
from actor.group import GeneratedGroup, GenerationAborted
from actor.loop import Actor
from common.errors import RunFailure
from common.lifecycle import StopFlag
from common.messages import (
    Ack,
    Header,
    Lease,
    LeaseWork,
    NoWork,
    Refused,
    Renew,
    ReturnLease,
    Sampling,
    SubmitGroup,
)
from common.wire import Array, Envelope


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_POLL_S", 0.02)
    monkeypatch.setattr(loop_module, "_STOP_CHECK_S", 0.005)
    monkeypatch.setattr(loop_module, "_DRAIN_S", 1.0)


class FakeBroker:
    """Hands out `leases`, records every request, and answers renewals and submits as told."""

    def __init__(self, num_leases: int = 1, *, deadline_s: float = 0.03) -> None:
        self.leases = [make_lease(f"task{i}", deadline_s) for i in range(num_leases)]
        self.requests: list[Header] = []
        self.frames: list[Mapping[str, Array | bytes]] = []
        self.renewal: Header = Ack(deadline_s=deadline_s)
        self.submit: Header = Ack()
        self.no_work: Callable[[LeaseWork], Header] = lambda _: NoWork()
        self.gone = False

    async def ask(self, header: Header, payload: Mapping[str, Array | bytes] | None = None) -> Envelope:
        self.requests.append(header)
        self.frames.append(payload or {})
        await asyncio.sleep(0.001)
        if self.gone:
            raise RunFailure("the broker is gone")
        match header:
            case LeaseWork() if isinstance(self.no_work(header), Refused):
                return Envelope(self.no_work(header), {})
            case LeaseWork() if self.leases:
                return Envelope(self.leases.pop(0), {"prompt_ids": np.array([1, 2, 3], np.int32)})
            case LeaseWork():
                return Envelope(NoWork(), {})
            case Renew():
                return Envelope(self.renewal, {})
            case SubmitGroup():
                return Envelope(self.submit, {})
            case _:
                return Envelope(Ack(), {})

    def of(self, kind: type[Any]) -> list[Any]:
        return [r for r in self.requests if isinstance(r, kind)]


class FakeEngine:
    """Generates when `go` is set; `aborted` lists requests that were cancelled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.died = asyncio.Event()
        self.error = error
        self.calls: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.tokens = 0

    async def generate_group(
        self, prompt_ids: list[int], sampling: Sampling, group_size: int, *, request_id: str
    ) -> GeneratedGroup:
        self.calls.append({"prompt_ids": prompt_ids, "group_size": group_size, "id": request_id})
        try:
            if self.error is not None:
                raise self.error
            await self.go.wait()
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        return make_group(group_size)

    def progress(self, request_id: str) -> int:
        self.tokens += 1
        return self.tokens

    async def watch(self) -> None:
        await self.died.wait()
        raise EngineDied("vLLM's engine process died")


class FakeWeights:
    def __init__(self, version: int | None = 3) -> None:
        self.version = version
        self.error: Exception | None = None
        self.waits = 0

    async def run(self) -> None:
        while self.error is None:
            await asyncio.sleep(0.002)
        raise self.error

    async def changed(self, version: int | None, timeout_s: float) -> None:
        self.waits += 1
        await asyncio.sleep(0.002)


def make_lease(task_id: str, deadline_s: float) -> Lease:
    return Lease(
        kind="generate",
        lease_id=f"lease-{task_id}",
        token=7,
        task_id=task_id,
        purpose="train",
        deadline_s=deadline_s,
        group_size=2,
        attempt=0,
        sampling=Sampling(max_tokens=4),
    )


def make_group(size: int) -> GeneratedGroup:
    return GeneratedGroup(
        token_ids=np.arange(2 * size, dtype=np.int32),
        logprobs=np.full(2 * size, -0.5, np.float32),
        versions=np.full(2 * size, 3, np.int32),
        num_tokens=[2] * size,
        texts=["ä"] * size,
        finish_reasons=["length"] * size,
    )


class Scene:
    """An actor with its fakes, running."""

    def __init__(self, broker: FakeBroker, engine: FakeEngine, weights: FakeWeights, max_groups: int) -> None:
        self.broker, self.engine, self.weights = broker, engine, weights
        self.stop = StopFlag()
        self.actor = Actor(broker, engine, weights, self.stop, name="actor-0", max_groups=max_groups)
        self.running = asyncio.create_task(self.actor.run())

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}; requests: {self.broker.requests}"
            await asyncio.sleep(0.001)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.running, 5)


def play(
    test: Callable[[Scene], Awaitable[None]],
    *,
    broker: FakeBroker | None = None,
    error: Exception | None = None,
    version: int | None = 3,
    max_groups: int = 4,
) -> None:
    async def scene() -> None:
        await test(Scene(broker or FakeBroker(), FakeEngine(error), FakeWeights(version), max_groups))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(scene())


def test_leases_are_generated_and_submitted() -> None:
    async def test(scene: Scene) -> None:
        scene.engine.go.set()
        await scene.until(lambda: len(scene.broker.of(SubmitGroup)) == 3, "three submits")
        await scene.end()
        submit = scene.broker.of(SubmitGroup)[0]
        assert (submit.lease_id, submit.token, submit.task_id) == ("lease-task0", 7, "task0")
        assert [(m.num_tokens, m.text_bytes) for m in submit.rollouts] == [(2, 2), (2, 2)]
        assert scene.broker.frames[scene.broker.requests.index(submit)]["texts"] == "ää".encode()
        assert scene.engine.calls[0] == {
            "prompt_ids": [1, 2, 3],
            "group_size": 2,
            "id": "lease-task0.7",
        }
        assert not scene.broker.of(ReturnLease)

    play(test, broker=FakeBroker(3))


def test_no_more_leases_than_slots() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.engine.calls) == 2, "two groups running")
        await asyncio.sleep(0.05)
        assert len(scene.engine.calls) == 2
        assert len(scene.broker.leases) == 3
        scene.engine.go.set()
        await scene.until(lambda: len(scene.broker.of(SubmitGroup)) == 5, "all five")
        await scene.end()

    play(test, broker=FakeBroker(5), max_groups=2)


def test_renewals_carry_growing_progress() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.broker.of(Renew)) >= 3, "three renewals")
        assert [r.progress for r in scene.broker.of(Renew)][:3] == [1, 2, 3]
        scene.engine.go.set()
        await scene.until(lambda: bool(scene.broker.of(SubmitGroup)), "the submit")
        renewals = len(scene.broker.of(Renew))
        await asyncio.sleep(0.05)
        assert len(scene.broker.of(Renew)) == renewals, "renewing went on after the submit"
        await scene.end()

    play(test)


def test_no_progress_does_not_end_the_lease() -> None:
    async def test(scene: Scene) -> None:
        scene.broker.renewal = Refused(code="no_progress", detail="still 0")
        await scene.until(lambda: len(scene.broker.of(Renew)) >= 2, "two renewals")
        scene.engine.go.set()
        await scene.until(lambda: bool(scene.broker.of(SubmitGroup)), "the submit")
        await scene.end()

    play(test)


@pytest.mark.parametrize("code", ["cancelled", "lease_lost"])
def test_a_lease_taken_away_aborts_its_request(code: Any) -> None:
    async def test(scene: Scene) -> None:
        scene.broker.renewal = Refused(code=code, detail="too old")
        await scene.until(lambda: scene.engine.aborted == ["lease-task0.7"], "the abort")
        await scene.end()
        assert not scene.broker.of(SubmitGroup)
        assert not scene.broker.of(ReturnLease), "a lease that is lost cannot be returned"

    play(test)


def test_stop_returns_leases_unfailed() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.engine.calls) == 3, "three groups running")
        began = time.monotonic()
        await scene.end()
        assert time.monotonic() - began < 2
        returned = scene.broker.of(ReturnLease)
        assert sorted(r.lease_id for r in returned) == ["lease-task0", "lease-task1", "lease-task2"]
        assert not any(r.failed for r in returned)
        assert len(scene.engine.aborted) == 3

    play(test, broker=FakeBroker(3))


def test_without_weights_nothing_is_asked_for() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: scene.weights.waits > 3, "waiting for weights")
        assert not scene.broker.of(LeaseWork)
        scene.weights.version = 0
        await scene.until(lambda: bool(scene.broker.of(LeaseWork)), "a lease request")
        assert scene.broker.of(LeaseWork)[0].version == 0
        await scene.end()

    play(test, version=None)


def test_a_stale_actor_waits_for_new_weights() -> None:
    broker = FakeBroker(1)
    broker.no_work = lambda ask: Refused(code="version", detail="too old") if ask.version == 3 else NoWork()

    async def test(scene: Scene) -> None:
        scene.engine.go.set()
        await scene.until(lambda: scene.weights.waits > 2, "waiting for weights")
        assert not scene.engine.calls
        scene.weights.version = 4
        await scene.until(lambda: bool(broker.of(SubmitGroup)), "the submit")
        await scene.end()

    play(test, broker=broker)


@pytest.mark.parametrize("error", [PromptRefused("prompt of 9000 tokens"), GenerationAborted("2 of 2 aborted")])
def test_work_that_cannot_be_done_is_returned_as_failed(error: Exception) -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.broker.of(ReturnLease)) == 2, "both returned")
        assert all(r.failed for r in scene.broker.of(ReturnLease))
        assert scene.broker.of(ReturnLease)[0].reason == str(error)
        assert not scene.running.done(), "the actor goes on"
        await scene.end()

    play(test, broker=FakeBroker(2), error=error)


def test_a_refused_submit_is_not_the_end() -> None:
    async def test(scene: Scene) -> None:
        scene.broker.submit = Refused(code="invalid", detail="logprobs above 0")
        scene.engine.go.set()
        await scene.until(lambda: len(scene.broker.of(SubmitGroup)) == 2, "both submits")
        await scene.end()
        assert not scene.broker.of(ReturnLease)

    play(test, broker=FakeBroker(2))


def test_engine_death_returns_leases_as_failed_and_ends_the_actor() -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises(RunFailure, match=r"actor-0: .*died"):
            await asyncio.wait_for(scene.running, 5)
        assert [r.failed for r in scene.broker.of(ReturnLease)] == [True]

    play(test, error=EngineDied("vLLM's engine process died"))


def test_death_of_an_idle_engine_ends_the_actor() -> None:
    async def test(scene: Scene) -> None:
        scene.engine.died.set()
        with pytest.raises(RunFailure, match="died"):
            await asyncio.wait_for(scene.running, 5)

    play(test, broker=FakeBroker(0))


def test_engine_death_after_a_stop_is_no_failure() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.engine.calls) == 1, "a group running")
        scene.stop.set()
        scene.engine.died.set()
        await asyncio.wait_for(scene.running, 5)
        assert [r.failed for r in scene.broker.of(ReturnLease)] == [False]

    play(test)


def test_a_failed_receiver_ends_the_actor() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.engine.calls) == 1, "a group running")
        scene.weights.error = RunFailure("digest differs")
        with pytest.raises(RunFailure, match="digest differs"):
            await asyncio.wait_for(scene.running, 5)
        assert [r.failed for r in scene.broker.of(ReturnLease)] == [False]

    play(test)


def test_a_broker_that_is_gone_ends_the_actor() -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: len(scene.engine.calls) == 1, "a group running")
        scene.broker.gone = True
        with pytest.raises(RunFailure, match="broker is gone"):
            await asyncio.wait_for(scene.running, 5)

    play(test)


def test_every_finished_group_frees_its_slot() -> None:
    async def test(scene: Scene) -> None:
        scene.engine.go.set()
        await scene.until(lambda: len(scene.broker.of(SubmitGroup)) == 100, "100 submits")
        await scene.end()

    play(test, broker=FakeBroker(100), max_groups=3)

"""Following the learner's weights endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from actor.follow import STATIC, WeightFollower
from common.errors import RunFailure
from common.messages import Header, Hello, Refused, Welcome
from common.wire import Array, Envelope


class FakeBroker:
    def __init__(self, *endpoints: str | None) -> None:
        self.endpoints = list(endpoints)
        self.learner = "first"
        self.hellos: list[Hello] = []
        self.refuse = False

    async def ask(self, header: Header, payload: Mapping[str, Array | bytes] | None = None) -> Envelope:
        assert isinstance(header, Hello)
        self.hellos.append(header)
        if self.refuse:
            return Envelope(Refused(code="wrong_role", detail="not you"), {})
        endpoint = self.endpoints.pop(0) if len(self.endpoints) > 1 else self.endpoints[0]
        return Envelope(Welcome(broker_incarnation="b", version=0, weights_endpoint=endpoint, learner=self.learner), {})


class FakeReceiver:
    def __init__(self, endpoint: str, on_version: Callable[[int], None], *, ends: bool = False) -> None:
        self.endpoint, self.on_version, self.ends = endpoint, on_version, ends
        self.left = False

    async def run(self) -> None:
        if self.ends:
            return
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True


def make_follower(
    broker: FakeBroker, made: list[FakeReceiver], versions: list[int], *, ends: bool = False
) -> WeightFollower:
    def make(endpoint: str, on_version: Callable[[int], None]) -> FakeReceiver:
        made.append(FakeReceiver(endpoint, on_version, ends=ends))
        return made[-1]

    return WeightFollower(
        broker,
        name="actor-0",
        incarnation="i",
        make_receiver=make,
        on_version=versions.append,
        hello_every_s=0.001,
        follow_every_s=0.002,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_hello_is_repeated_until_the_learner_is_there() -> None:
    async def test() -> None:
        broker, made, versions = FakeBroker(None, None, None, "tcp://h:1"), list[FakeReceiver](), list[int]()
        follower = make_follower(broker, made, versions)
        task = asyncio.create_task(follower.run())
        await until(lambda: bool(made))
        assert len(broker.hellos) == 4
        assert made[0].endpoint == "tcp://h:1"
        assert follower.version is None
        made[0].on_version(5)
        assert (follower.version, versions) == (5, [5])
        await until(lambda: broker.hellos[-1].version == 5)
        task.cancel()
        await asyncio.wait({task})
        assert made[0].left, "the receiver takes leave"

    asyncio.run(test())


def test_static_weights_are_version_zero() -> None:
    async def test() -> None:
        made, versions = list[FakeReceiver](), list[int]()
        follower = make_follower(FakeBroker(STATIC), made, versions)
        task = asyncio.create_task(follower.run())
        await follower.changed(None, 5)
        assert (follower.version, versions, made) == (0, [0], [])
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(test())


def test_a_learner_that_comes_back_elsewhere_is_followed() -> None:
    async def test() -> None:
        broker, made, versions = FakeBroker("tcp://h:1"), list[FakeReceiver](), list[int]()
        follower = make_follower(broker, made, versions)
        task = asyncio.create_task(follower.run())
        await until(lambda: len(made) == 1)
        made[0].on_version(5)
        broker.endpoints = ["tcp://h:2"]
        await until(lambda: len(made) == 2)
        assert made[0].left
        assert made[1].endpoint == "tcp://h:2"
        assert follower.version is None, "until the new learner's weights are loaded"
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(test())


@pytest.mark.parametrize("refuse", [False, True])
def test_an_ended_receiver_or_a_refused_hello_is_a_failure(refuse: bool) -> None:
    async def test() -> None:
        broker = FakeBroker("tcp://h:1")
        broker.refuse = refuse
        with pytest.raises(RunFailure, match="welcome" if refuse else "ended by itself"):
            await make_follower(broker, [], [], ends=True).run()

    asyncio.run(test())


def test_changed_gives_up_in_time() -> None:
    async def test() -> None:
        follower = make_follower(FakeBroker(None), [], [])
        await asyncio.wait_for(follower.changed(None, 0.01), 5)
        await asyncio.wait_for(follower.changed(3, 60), 5)  # other weights are here already

    asyncio.run(test())


def test_a_learner_that_comes_back_to_the_same_address_is_followed_anew() -> None:
    async def test() -> None:
        broker, made = FakeBroker("tcp://l:1"), []
        follower = make_follower(broker, made, [])
        task = asyncio.create_task(follower.run())
        await until(lambda: len(made) == 1)
        made[0].on_version(5)
        assert follower.version == 5
        broker.learner = "second"
        await until(lambda: len(made) == 2)
        assert made[0].left
        assert follower.version is None  # version 5 of the second learner will be another
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())

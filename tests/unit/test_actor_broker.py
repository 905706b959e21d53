"""The broker client seen from asyncio."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, cast

import pytest

from actor.broker import Broker
from common.client import BrokerClient
from common.errors import BrokerUnavailable, RunFailure
from common.messages import Ack, LeaseWork
from common.wire import Envelope

ASK = LeaseWork(kind="generate", version=0)


class FakeClient:
    def __init__(self) -> None:
        self.future: Future[Envelope] = Future()

    def call(self, *_: Any) -> Future[Envelope]:
        return self.future


def test_the_reply_is_awaited() -> None:
    async def test() -> None:
        client = FakeClient()
        asking = asyncio.create_task(Broker(cast(BrokerClient, client)).ask(ASK))
        await asyncio.sleep(0)
        client.future.set_result(Envelope(Ack(), {}))
        assert (await asking).header == Ack()

    asyncio.run(test())


def test_a_broker_that_is_gone_fails_the_run() -> None:
    async def test() -> None:
        client = FakeClient()
        client.future.set_exception(BrokerUnavailable("no reply after 60 s"))
        with pytest.raises(RunFailure, match="no reply after 60 s"):
            await Broker(cast(BrokerClient, client)).ask(ASK)

    asyncio.run(test())


def test_a_cancelled_caller_leaves_the_clients_future_alone() -> None:
    """The client's thread would die of setting a future that was cancelled under its hands."""

    async def test() -> None:
        client = FakeClient()
        asking = asyncio.create_task(Broker(cast(BrokerClient, client)).ask(ASK))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not client.future.cancelled()
        client.future.set_exception(BrokerUnavailable("closed"))  # nor does anybody complain of it
        await asyncio.sleep(0.01)

    asyncio.run(test())

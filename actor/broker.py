"""The broker client seen from asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from common.client import BrokerClient
from common.errors import BrokerUnavailable, NotLetIn, RunFailure, UserError
from common.messages import Header
from common.wire import Array, Envelope


class Broker:
    """`ask` a request, await its one reply."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client

    async def ask(self, header: Header, payload: Mapping[str, Array | bytes] | None = None) -> Envelope:
        """The reply; RunFailure when the broker has not answered for so long that the client gave up, UserError when it
        does not let this process in.

        Cancelling the caller leaves the request on its way: the client's thread must never find a future that was
        cancelled between its look and its answer.
        """
        try:
            future = asyncio.wrap_future(self._client.call(header, payload))
            future.add_done_callback(_retrieve)
            return await asyncio.shield(future)
        except NotLetIn as error:
            raise UserError(str(error)) from None
        except BrokerUnavailable as error:
            raise RunFailure(f"the broker is gone: {error}") from error


def _retrieve(future: asyncio.Future[Envelope]) -> None:
    """Mark the outcome as seen, also when nobody waits for it any more."""
    if not future.cancelled():
        future.exception()

"""A broker with its sockets, for tests of what peers can do to it: the fixture `server`, in plaintext."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from broker.server import Server
from common.lifecycle import StopFlag
from tests.unit.broker_harness import make_config


@pytest.fixture
def server() -> Iterator[Server]:
    """A broker in plaintext, at work."""
    stop = StopFlag()
    with Server(make_config()) as made:
        thread = threading.Thread(target=made.serve, args=[stop])
        thread.start()
        yield made
        stop.set()
        thread.join(10)

"""Pulls under way: each goes on with the version that it began with, and what is held for them goes when it can."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from common.messages import Join, Pull, Snapshot
from common.messages import ParameterMeta as Meta
from common.weights import Layout
from common.wire import decode, encode
from learner.weights import WeightPublisher
from learner.weights import pulls as pulls_module
from learner.weights.gloo import HostStaged
from learner.weights.pulls import FORGOTTEN_AFTER_S, Pulls
from learner.weights.transport import Snapshot as Held
from learner.weights.transport import snapshot_of
from tests.integration.weights_fakes import weights_config
from tests.learner_rig import wait_until

LAYOUT = Layout([Meta(name="w", dtype="float32", shape=[64])])
CHUNK = 64


def staged(version: int) -> HostStaged:
    return HostStaged(snapshot_of(version, LAYOUT, np.full(LAYOUT.total_bytes, version, dtype=np.uint8)))


def ask(pulls: Pulls, peer: bytes, published: HostStaged, version: int | None, offset: int, now: float = 0.0) -> int:
    """Version of the answer; checks that it is the chunk that was asked for, or the first of the published version."""
    answer = pulls.chunk(peer, Pull(version=version, offset=offset, max_bytes=CHUNK), published, now)
    assert answer is not None
    snapshot, start, chunk = answer
    assert start == (offset if snapshot.version == version else 0)
    assert chunk.tolist() == [snapshot.version] * CHUNK
    return snapshot.version


def test_a_pull_goes_on_with_the_version_that_it_began_with() -> None:
    pulls, old, new = Pulls(), staged(1), staged(2)
    assert ask(pulls, b"a", old, None, 0) == 1
    for offset in range(CHUNK, LAYOUT.total_bytes, CHUNK):
        assert pulls.versions == {1}
        assert ask(pulls, b"a", new, 1, offset) == 1
    assert pulls.versions == set()  # it has all of it
    assert ask(pulls, b"a", new, 1, CHUNK) == 2  # its last chunk was lost: it begins anew


def test_who_does_not_ask_any_more_holds_nothing() -> None:
    pulls, published = Pulls(), staged(1)
    for peer, now in ((b"silent", 0.0), (b"gone", FORGOTTEN_AFTER_S), (b"overtaken", FORGOTTEN_AFTER_S), (b"b", 30.0)):
        ask(pulls, peer, published, None, 0, now=now)
    pulls.overtaken(b"overtaken")
    pulls.forget_gone([b"silent", b"b", b"overtaken"], FORGOTTEN_AFTER_S + 1)
    new = staged(2)
    for peer, version in ((b"silent", 2), (b"gone", 2), (b"overtaken", 2), (b"b", 1)):
        assert ask(pulls, peer, new, 1, CHUNK, now=FORGOTTEN_AFTER_S + 1) == version, peer


def test_a_version_that_is_being_overwritten_is_not_begun() -> None:
    class Moved(HostStaged):
        def snapshot(self) -> Held | None:
            return None

    pulls = Pulls()
    assert pulls.chunk(b"a", Pull(), Moved(staged(1).data), 0.0) is None
    assert pulls.versions == set()


@pytest.mark.parametrize("reads", [True, False])
def test_one_version_is_left_of_those_that_were_pulled_in_part(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is all of the weights in the learner's memory. An answer of a mebibyte is sent without a copy: unread, it
    would keep the whole version that it is a part of."""
    config = weights_config()
    impatient = config.weights.model_copy(update={"ready_timeout_s": 0.3})  # the peer here takes part in no publish
    config = config.model_copy(update={"weights": impatient})
    publisher = WeightPublisher(config, host="127.0.0.1")
    weights: list[weakref.ref[Any]] = []
    served: list[int] = []
    chunk = pulls_module.Pulls.chunk

    def spy(self: Pulls, *arguments: Any) -> Any:
        answer = chunk(self, *arguments)
        served.append(answer[0].version)
        return answer

    monkeypatch.setattr(pulls_module.Pulls, "chunk", spy)
    with zmq.Context() as context, contextlib.closing(publisher), context.socket(zmq.DEALER) as socket:
        socket.linger, socket.rcvhwm = 0, 1
        socket.setsockopt(zmq.RCVBUF, 4096)
        socket.connect(publisher.endpoint)
        for version in range(4):
            publisher.publish(version, [("w", torch.full((1 << 20,), float(version)))])
            published = publisher._control._published
            assert isinstance(published, HostStaged)
            weights.append(weakref.ref(published.data.data_B))
            del published
            socket.send_multipart(encode(Join(name="a", incarnation=f"i{version}")))
            socket.send_multipart(encode(Pull(max_bytes=1 << 21)))
            wait_until(lambda: version in served, "the pull is answered", 20)  # noqa: B023
            while reads and not isinstance(decode(socket.recv_multipart()).header, Snapshot):
                pass
        wait_until(lambda: [w() is not None for w in weights] == [False] * 3 + [True], "the others are let go", 20)

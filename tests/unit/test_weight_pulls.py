"""Pulls under way: each goes on with the version that it began with, and few versions are held for all of them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from common.messages import ParameterMeta, Pull
from common.weights import Layout
from learner.weights import pulls as pulls_module
from learner.weights.gloo import HostStaged
from learner.weights.pulls import FORGOTTEN_AFTER_S, MAX_EARLIER, Pulls
from learner.weights.transport import Snapshot, snapshot_of

LAYOUT = Layout([ParameterMeta(name="w", dtype="float32", shape=[64])])
CHUNK = 64


def staged(version: int) -> HostStaged:
    return HostStaged(snapshot_of(version, LAYOUT, np.full(LAYOUT.total_bytes, version, dtype=np.uint8)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls_module, "MAX_CHUNK_BYTES", CHUNK)


def ask(pulls: Pulls, peer: bytes, published: HostStaged, version: int | None, offset: int, now: float = 0.0) -> int:
    """Version of the answer; checks that it is the chunk that was asked for, or the first of the published version."""
    answer = pulls.chunk(peer, Pull(version=version, offset=offset), published, now)
    assert answer is not None
    snapshot, start, chunk = answer
    assert start == (offset if snapshot.version == version else 0)
    assert chunk.tolist() == [snapshot.version] * CHUNK
    return snapshot.version


def test_a_pull_goes_on_with_the_version_that_it_began_with() -> None:
    pulls, old, new = Pulls(), staged(1), staged(2)
    assert ask(pulls, b"a", old, None, 0) == 1
    assert pulls.published(2) == []
    for offset in range(CHUNK, LAYOUT.total_bytes, CHUNK):
        assert pulls.versions == {1}
        assert ask(pulls, b"a", new, 1, offset) == 1
    assert pulls.versions == set()  # it has all of it
    assert ask(pulls, b"a", new, 1, CHUNK) == 2  # its last chunk was lost: it begins anew


def test_few_versions_are_held_however_many_pulls_there_are() -> None:
    """Each is all of the weights in the learner's memory."""
    pulls, notes = Pulls(), []
    held: list[weakref.ref[Snapshot]] = []
    for version in range(8):
        published = staged(version)
        held.append(weakref.ref(published.data))
        notes += pulls.published(version)
        for peer in (b"a%d" % version, b"b%d" % version):
            assert ask(pulls, peer, published, None, 0) == version
    gc.collect()
    newest = set(range(8 - 1 - MAX_EARLIER, 8))
    assert {version for version, there in enumerate(held) if there() is not None} == pulls.versions == newest
    assert ask(pulls, b"a0", published, 0, CHUNK) == 7
    for version in newest:
        assert ask(pulls, b"a%d" % version, published, version, CHUNK) == version
    assert notes[0] == "2 pull(s) of version 0 take too long and begin anew with 3"
    assert len(notes) == 5


def test_who_does_not_ask_any_more_holds_nothing() -> None:
    pulls, published = Pulls(), staged(1)
    ask(pulls, b"a", published, None, 0, now=0.0)
    ask(pulls, b"b", published, None, 0, now=FORGOTTEN_AFTER_S / 2)
    pulls.forget_silent(FORGOTTEN_AFTER_S + 1)
    assert ask(pulls, b"b", staged(2), 1, CHUNK, now=FORGOTTEN_AFTER_S + 1) == 1
    pulls.forget_silent(3 * FORGOTTEN_AFTER_S)
    assert pulls.versions == set()


def test_a_version_that_is_being_overwritten_is_not_begun() -> None:
    class Moved(HostStaged):
        def snapshot(self) -> Snapshot | None:
            return None

    pulls = Pulls()
    assert pulls.chunk(b"a", Pull(), Moved(staged(1).data), 0.0) is None
    assert pulls.versions == set()

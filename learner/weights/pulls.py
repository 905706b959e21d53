"""Pulls under way: which version each peer began with, and what of it comes next.

A version that somebody pulls stays in host memory, all of it, until they have it, are gone, or are offered a newer one
by a publish, which every peer that has asked takes part in. So no more than two are held: the published one, and the
one before for those who came in the middle of a publish.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from common.messages import Pull
from common.messages import Snapshot as SnapshotMessage
from common.wire import Array
from learner.weights.transport import Snapshot, Staged

MAX_CHUNK_BYTES = 16 * 1024 * 1024
FORGOTTEN_AFTER_S = 60.0


@dataclass
class _Pulling:
    snapshot: Snapshot
    last_asked: float


class Pulls:
    """Peers in the middle of a pull. Used by the control thread alone."""

    def __init__(self) -> None:
        self._peers: dict[bytes, _Pulling] = {}

    @property
    def versions(self) -> set[int]:
        """Those that are held for somebody."""
        return {pulling.snapshot.version for pulling in self._peers.values()}

    def chunk(self, peer: bytes, pull: Pull, published: Staged, now: float) -> tuple[Snapshot, int, Array] | None:
        """What to answer with: the version, where in it, and bytes uint8. From the beginning of the published version,
        unless this peer has begun with another that is still held. None while the buffer is being overwritten.

        The bytes are copied: an answer that a peer does not read would else keep all of that version alive.
        """
        pulling = self._peers.get(peer)
        start = pull.offset
        if pulling is None or pull.offset == 0 or pull.version != pulling.snapshot.version:
            snapshot = published.snapshot()
            if snapshot is None:
                return None
            pulling, start = _Pulling(snapshot, now), 0
            self._peers[peer] = pulling
        pulling.last_asked = now
        snapshot = pulling.snapshot
        start = min(start, snapshot.layout.total_bytes)
        chunk = snapshot.data_B[start : start + min(pull.max_bytes, MAX_CHUNK_BYTES)]
        if start + len(chunk) >= snapshot.layout.total_bytes:
            del self._peers[peer]
        return snapshot, start, chunk.copy()

    def overtaken(self, peer: bytes) -> None:
        """A publish is proposed to it, for which it drops what it has pulled (actor/weights/receiver.py)."""
        self._peers.pop(peer, None)

    def forget_gone(self, known: Collection[bytes], now: float) -> None:
        """Forget peers that are not `known` any more, or have not asked for a minute."""
        oldest = now - FORGOTTEN_AFTER_S
        for peer in [p for p, pulling in self._peers.items() if p not in known or pulling.last_asked < oldest]:
            del self._peers[peer]


def message_of(
    snapshot: Snapshot, start: int, chunk: Array, *, request_id: int, model: str | None = None
) -> tuple[SnapshotMessage, dict[str, Array | bytes]]:
    """A chunk as the message that carries it, and its frames. `model`: see SnapshotMessage."""
    header = SnapshotMessage(
        version=snapshot.version,
        offset=start,
        total_bytes=snapshot.layout.total_bytes,
        digest=snapshot.digest,
        model=model,
        request_id=request_id,
    )
    frames: dict[str, Array | bytes] = {"chunk": chunk}
    if start == 0:
        frames["manifest"] = snapshot.layout.manifest()
    return header, frames

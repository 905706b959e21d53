"""Pulls under way: which version each peer began with, and what of it comes next.

A version that somebody pulls stays in host memory, all of it, until they have it. So that many slow pulls of different
versions do not fill that, the oldest ones begin anew with the newest version once there are more than a few: who takes
longer for one version than the learner does for several would be too old to sample with it anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.messages import Pull
from common.wire import Array
from learner.weights.transport import Snapshot, Staged

MAX_EARLIER = 2
"""Versions that are kept besides the published one."""
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
        unless this peer has begun with another that is still held. None while the buffer is being overwritten."""
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
        return snapshot, start, chunk

    def published(self, version: int) -> list[str]:
        """A version has been published: let go of the earliest that are too many. Returns what to log."""
        earlier = sorted(self.versions - {version})
        dropped = earlier[: max(0, len(earlier) - MAX_EARLIER)]
        notes = []
        for old in dropped:
            peers = [peer for peer, pulling in self._peers.items() if pulling.snapshot.version == old]
            for peer in peers:
                del self._peers[peer]
            notes.append(f"{len(peers)} pull(s) of version {old} take too long and begin anew with {version}")
        return notes

    def forget_silent(self, now: float) -> None:
        """Peers that have not asked for a minute are gone."""
        oldest = now - FORGOTTEN_AFTER_S
        for peer in [peer for peer, pulling in self._peers.items() if pulling.last_asked < oldest]:
            del self._peers[peer]

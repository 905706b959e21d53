"""Who is connected: process incarnations, the socket identities they speak over, and which learner is the learner.

A client that lost its connection comes back over a fresh socket identity and says Hello again; the old identity then
no longer counts, so that requests still queued from it cannot act behind its owner's back. A new incarnation of the
learner replaces the old one for good.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from broker.records import Peer, Refusal, Request
from common.messages import Hello, Role

MAX_PEERS = 4096  # of each role, so that nobody can have those of another forgotten
MAX_RETIRED = 1024


class Peers:
    """Introduced peers by socket identity, least recently seen first; the most idle of a role go when it has too many.

    A connection speaks for one incarnation (of its last hello), and an incarnation speaks over one connection.
    """

    def __init__(self) -> None:
        self._peers: OrderedDict[tuple[Role, bytes], Peer] = OrderedDict()
        self._identity: dict[tuple[Role, str], bytes] = {}
        self._number: Counter[Role] = Counter()
        self._retired: OrderedDict[str, None] = OrderedDict()
        self.learner: str | None = None
        self.history = 0
        """How often a learner has started. What an actor holds may be of an earlier one's history, in which the same
        version was something else: one that was sent to actors just before the end, or, if the broker is new, any."""

    def __len__(self) -> int:
        return len(self._peers)

    def recent(self) -> Iterable[Peer]:
        """All peers, most recently seen first."""
        return reversed(self._peers.values())

    def knows(self, role: Role, incarnation: str) -> bool:
        """Whether this incarnation has said hello before."""
        return (role, incarnation) in self._identity

    def seen(self, role: Role, peer: bytes, now: float) -> Peer | None:
        """The peer behind an identity, if it was introduced."""
        known = self._peers.get((role, peer))
        if known is not None:
            known.last_seen = now
            self._peers.move_to_end((role, peer))
        return known

    def in_history(self, role: Role, peer: bytes) -> bool:
        """Has this peer said hello, and so heard of the learner, since that started?"""
        known = self._peers.get((role, peer))
        return known is not None and known.history == self.history

    def note_version(self, request: Request, version: int) -> None:
        """Remember which weights an actor says it holds."""
        self._peers[request.role, request.peer].version = version

    def introduce(self, role: Role, peer: bytes, hello: Hello, now: float) -> bool:
        """Register a Hello; True if a learner has (re)started with it. Refusal("stale") for a replaced learner."""
        if hello.incarnation in self._retired:
            raise Refusal(
                "stale", f"learner {hello.name} ({hello.incarnation}) was replaced by a newer incarnation; stop it"
            )
        self._forget(role, self._identity.get((role, hello.incarnation)))
        self._forget(role, peer)
        self._peers[(role, peer)] = Peer(
            role, hello.name, hello.incarnation, now, hello.version if role == "actor" else None, self.history
        )
        self._identity[(role, hello.incarnation)] = peer
        self._number[role] += 1
        if self._number[role] > MAX_PEERS:
            self._forget(role, next(identity for other, identity in self._peers if other == role))
        if role != "learner" or self.learner == hello.incarnation:
            return False
        if self.learner is not None:
            self._retire(self.learner)
        self.learner = hello.incarnation
        return True

    def _retire(self, incarnation: str) -> None:
        self._forget("learner", self._identity.get(("learner", incarnation)))
        self._retired[incarnation] = None
        if len(self._retired) > MAX_RETIRED:
            self._retired.popitem(last=False)

    def _forget(self, role: Role, identity: bytes | None) -> None:
        known = None if identity is None else self._peers.pop((role, identity), None)
        if known is not None:
            del self._identity[role, known.incarnation]
            self._number[role] -= 1

"""Who takes part in a publish, and when may they load it: a state machine without sockets, clock or tensors.

    requested -> PROPOSING --all ready--> TRANSFERRING --all received, digests match--> COMMITTING --all applied--> done
                  | deadline, loss: leave those out     | loss, failure, deadline            | deadline, loss:
                  | and propose anew to the rest        | abort for all; once more with      | leave those out
                  |                                     | the survivors, then give up        |

Membership is an epoch: its number changes when the members do or when its channel (communicator) broke, and only
between publishes' attempts. Peers left out are forgotten; they join again by pulling the whole of the weights. A peer
that has joined and asked takes part from the next publish on, in the middle of its pull too: were it to finish first,
publishes faster than a pull would keep it outside for ever.

`handle(event, now)` returns actions for the shell (control.py). Every phase has a deadline, so `Tick` alone ends a
publish, at the latest `longest_publish_s` after it was requested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from common.config.processes import PUBLISH_ATTEMPTS
from common.messages import Abort, Begin, Commit, NoWork, Propose, Pull, Refused
from learner.weights.chronicle import AbortCause, Chronicle
from learner.weights.events import (
    Action,
    AppliedCame,
    Asked,
    Broadcast,
    BroadcastEnded,
    CloseChannel,
    Event,
    Finished,
    Joined,
    Lost,
    ReadyCame,
    ReceivedCame,
    Requested,
    Serve,
    Tell,
    Tick,
)

Backend = Literal["gloo", "ipc", "nccl"]
PROBE_S = 0.5
"""Unanswered messages are sent again this often: a lost one arrives, and a dead peer turns out to be unreachable."""
MAX_NOTES = 100


class Phase(Enum):
    """Where a publish stands."""

    IDLE = auto()
    PROPOSING = auto()
    TRANSFERRING = auto()
    COMMITTING = auto()


@dataclass
class Peer:
    """What the publisher knows of one actor. `eligible`: it has asked, so it hears us."""

    name: str
    incarnation: str
    eligible: bool = False
    version: int | None = None


@dataclass
class _Attempt:
    """One publish in progress."""

    version: int
    digest: str
    total_bytes: int
    number: int = 1
    first_epoch: int = 0
    excluded: set[bytes] = field(default_factory=set)
    aborted: int = 0


class Epochs:
    """State machine of the publisher."""

    def __init__(
        self,
        *,
        backend: Backend,
        ready_timeout_s: float,
        transfer_timeout_s: float,
        bucket_bytes: int,
        store_host: str = "",
        store_port: int = 0,
        prefix: str = "epoch",
        model: str | None = None,
    ) -> None:
        self.latest: int | None = None
        self.phase = Phase.IDLE
        self.peers: dict[bytes, Peer] = {}
        self.epoch = 0
        self.members: tuple[bytes, ...] = ()
        self._channel_open = False
        self._backend: Backend = backend
        self._ready_timeout_s = ready_timeout_s
        self._transfer_timeout_s = transfer_timeout_s
        self._bucket_bytes = bucket_bytes
        self._store = (store_host, store_port, prefix)
        self._model = model
        self._attempt: _Attempt | None = None
        self._waiting: set[bytes] = set()
        self._held: set[bytes] = set()  # members that hold the bytes, digest checked
        self._broadcast_ended = False
        self._chronicle = Chronicle()
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)  # who was left out and what was aborted, for the log
        self._deadline = 0.0
        self._next_probe = 0.0

    @property
    def longest_publish_s(self) -> float:
        """Upper bound of the time from Requested to Finished, given ticks: that of WeightsSection."""
        return PUBLISH_ATTEMPTS * (self._ready_timeout_s + self._transfer_timeout_s) + self._transfer_timeout_s

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at time `now` (seconds, monotonic); returns what is to be done, in order."""
        match event:
            case Joined():
                return self._on_joined(event, now)
            case Asked(peer, pull):
                return self._on_asked(peer, pull)
            case Lost(peer):
                return self._exclude({peer}, "lost", now, tell=False)
            case Requested():
                return self._on_requested(event, now)
            case ReadyCame():
                return self._on_ready(event, now)
            case BroadcastEnded(epoch, error):
                return self._on_broadcast_ended(epoch, error, now)
            case ReceivedCame():
                return self._on_received(event, now)
            case AppliedCame(peer, version):
                if peer in self.peers:
                    self.peers[peer].version = version
                if self.phase is Phase.COMMITTING and self._attempt is not None and version == self._attempt.version:
                    self._waiting.discard(peer)
                return self._advance(now)
            case Tick():
                return self._on_tick(now)

    def check(self) -> None:
        """Assert the invariants; tests call it after each event."""
        assert (self._attempt is None) == (self.phase is Phase.IDLE)
        assert self._waiting <= set(self.members), "waiting for somebody who is no member"
        assert self._held <= set(self.members)
        if self.phase in (Phase.TRANSFERRING, Phase.COMMITTING):
            assert self._channel_open
        if self._attempt is not None:
            assert self.latest is None or self.latest < self._attempt.version

    # -------------------------------------------------------------- peers

    def _on_joined(self, event: Joined, now: float) -> list[Action]:
        """Enter a peer; a former incarnation of the same actor, or its former membership, ends."""
        former = {peer for peer, known in self.peers.items() if peer == event.peer or known.name == event.name}
        actions = self._exclude(former, "joined anew", now, tell=False)
        self.peers[event.peer] = Peer(event.name, event.incarnation)
        return actions

    def _on_asked(self, peer: bytes, pull: Pull) -> list[Action]:
        known = self.peers.get(peer)
        if known is None:
            detail = "join first: unknown here, or left out of an epoch"
            return [Tell(peer, Refused(code="stale", detail=detail, request_id=pull.request_id))]
        nothing = NoWork(request_id=pull.request_id)
        if self.latest is None or (pull.offset == 0 and pull.have is not None and pull.have >= self.latest):
            known.eligible = True
            known.version = pull.have
            return [Tell(peer, nothing)]
        if self._attempt is not None and peer in self.members:
            return [Tell(peer, nothing)]  # this epoch brings what it asks for
        known.eligible = True  # a publish brings everything, so it may overtake the pull
        return [Serve(peer, pull)]

    def _exclude(self, peers: Iterable[bytes], reason: str, now: float, *, tell: bool = True) -> list[Action]:
        """Forget peers. A publish in progress goes on without them, or is aborted if they held up the broadcast."""
        names = {peer: known.name for peer in peers if (known := self.peers.pop(peer, None)) is not None}
        actions: list[Action] = [Tell(peer, Abort(epoch=self.epoch, reason=reason)) for peer in names if tell]
        gone = set(names) & set(self.members)
        if not gone:
            return actions
        self.notes += [f"actor {names[peer]} is left out: {reason}" for peer in gone]
        if self._attempt is None:
            return actions + self._close_channel()
        self._attempt.excluded |= gone
        if self.phase is Phase.PROPOSING:
            return actions + self._propose([m for m in self.members if m in self.peers], now)
        if self.phase is Phase.TRANSFERRING and not self._broadcast_ended and gone & self._waiting:
            return actions + self._abort(f"a member is gone: {reason}", "member_lost", now)
        self._waiting -= gone
        self._held -= gone
        return actions + self._advance(now)

    # -------------------------------------------------------------- a publish

    def _on_requested(self, event: Requested, now: float) -> list[Action]:
        assert self._attempt is None, "one publish at a time"
        assert self.latest is None or event.version > self.latest, f"version {event.version} after {self.latest}"
        self._attempt = _Attempt(event.version, event.digest, event.total_bytes)
        return self._start_attempt([peer for peer, known in self.peers.items() if known.eligible], now)

    def _start_attempt(self, members: list[bytes], now: float) -> list[Action]:
        assert self._attempt is not None
        self._chronicle.enter("propose", now)
        self.phase = Phase.PROPOSING
        self._waiting = set(members)
        self._held = set()
        self._broadcast_ended = False
        self._deadline = now + self._ready_timeout_s
        same = tuple(members) == self.members and self._channel_open
        self._attempt.first_epoch = self.epoch if same else self.epoch + 1
        return self._propose(members, now)

    def _propose(self, members: list[bytes], now: float) -> list[Action]:
        """Propose an epoch of `members`. Who was ready for an earlier proposal of this attempt still is."""
        actions: list[Action] = []
        if tuple(members) != self.members or not self._channel_open:
            actions += self._close_channel()
            self.epoch += 1
            self.members = tuple(members)
            assert self._attempt is not None
            self._chronicle.begin_epoch(set(members), repeated=self._attempt.number > 1)
        self._waiting &= set(members)
        self._next_probe = now + PROBE_S
        if not members:
            return actions + self._finish(now)
        return actions + self._proposals(self.members) + self._advance(now)

    def _proposals(self, peers: Iterable[bytes]) -> list[Action]:
        assert self._attempt is not None
        host, port, prefix = self._store
        return [
            Tell(
                peer,
                Propose(
                    epoch=self.epoch,
                    version=self._attempt.version,
                    backend=self._backend,
                    rank=1 + self.members.index(peer),
                    world_size=1 + len(self.members),
                    store_host=host,
                    store_port=port,
                    prefix=f"{prefix}/{self.epoch}",
                    timeout_s=self._transfer_timeout_s,
                    bucket_bytes=self._bucket_bytes,
                    model=self._model,
                ),
            )
            for peer in peers
        ]

    def _on_ready(self, event: ReadyCame, now: float) -> list[Action]:
        attempt = self._attempt
        if attempt is None or self.phase is not Phase.PROPOSING:
            return []
        if event.version != attempt.version or event.epoch < attempt.first_epoch:
            return []  # an answer to an attempt that was given up
        self._waiting.discard(event.peer)
        return self._advance(now)

    def _on_broadcast_ended(self, epoch: int, error: str, now: float) -> list[Action]:
        if self.phase is not Phase.TRANSFERRING or epoch != self.epoch:
            return []  # of an attempt that was given up
        if error:
            return self._abort(error, "transfer_failed", now)
        self._broadcast_ended = True
        return self._advance(now)

    def _on_received(self, event: ReceivedCame, now: float) -> list[Action]:
        if self.phase is not Phase.TRANSFERRING or event.epoch != self.epoch or event.peer not in self._waiting:
            return []
        assert self._attempt is not None
        if not event.ok:
            return self._abort(f"{self.peers[event.peer].name}: {event.reason}", "transfer_failed", now)
        self._waiting.discard(event.peer)
        if (event.version, event.digest) != (self._attempt.version, self._attempt.digest):
            return self._exclude({event.peer}, f"digest of version {self._attempt.version} does not match", now)
        self._held.add(event.peer)
        return self._advance(now)

    def _advance(self, now: float) -> list[Action]:
        """Go to the next phase if nobody is waited for."""
        if self._attempt is None or self._waiting:
            return []
        if self.phase is Phase.PROPOSING:
            fresh, self._channel_open = not self._channel_open, True
            self._enter(Phase.TRANSFERRING, self.members, now)
            return [*self._begins(), Broadcast(self.epoch, 1 + len(self.members), fresh)]
        if self.phase is Phase.TRANSFERRING and not self._broadcast_ended:
            return []
        if self.phase is Phase.TRANSFERRING and self._held:
            self._enter(Phase.COMMITTING, self._held, now)
            return self._commits()
        return self._finish(now)

    def _enter(self, phase: Phase, waiting: Iterable[bytes], now: float) -> None:
        self._chronicle.enter("transfer" if phase is Phase.TRANSFERRING else "commit", now)
        self.phase = phase
        self._waiting = set(waiting)
        self._deadline = now + self._transfer_timeout_s
        self._next_probe = now + PROBE_S

    def _begins(self) -> list[Action]:
        assert self._attempt is not None
        message = Begin(
            epoch=self.epoch,
            version=self._attempt.version,
            total_bytes=self._attempt.total_bytes,
            digest=self._attempt.digest,
        )
        return [Tell(peer, message) for peer in self.members if peer in self._waiting]

    def _commits(self) -> list[Action]:
        assert self._attempt is not None
        message = Commit(epoch=self.epoch, version=self._attempt.version)
        return [Tell(peer, message) for peer in self.members if peer in self._waiting]

    def _on_tick(self, now: float) -> list[Action]:
        if self._attempt is None:
            return []
        if now >= self._deadline:
            if self.phase is Phase.TRANSFERRING and not (self._broadcast_ended and self._held):
                reason = f"no end of the broadcast after {self._transfer_timeout_s:g} s"
                return self._abort(reason, "timeout", now)
            return self._exclude(set(self._waiting), f"no answer while {self.phase.name.lower()}", now)
        if now < self._next_probe:
            return []
        self._next_probe = now + PROBE_S
        if self.phase is Phase.PROPOSING:
            return self._proposals([peer for peer in self.members if peer in self._waiting])
        return self._begins() if self.phase is Phase.TRANSFERRING else self._commits()

    def _abort(self, reason: str, cause: AbortCause, now: float) -> list[Action]:
        """End the epoch for everybody; try once more with those who are left."""
        assert self._attempt is not None
        attempt = self._attempt
        attempt.aborted += 1
        self._chronicle.story.aborts[cause] += 1
        self.notes.append(f"broadcast of version {attempt.version} aborted, attempt {attempt.number}: {reason}")
        attempt.number += 1
        survivors = [peer for peer in self.members if peer in self.peers]
        actions: list[Action] = [Tell(peer, Abort(epoch=self.epoch, reason=reason[:500])) for peer in survivors]
        actions += self._close_channel()
        if attempt.number <= PUBLISH_ATTEMPTS:
            return actions + self._start_attempt(survivors, now)
        attempt.excluded |= set(survivors)
        for peer in survivors:
            del self.peers[peer]
        self._held = set()
        return actions + self._finish(now)

    def _finish(self, now: float) -> list[Action]:
        assert self._attempt is not None
        attempt, self._attempt = self._attempt, None
        story = self._chronicle.end(now)
        finished = Finished(attempt.version, len(self._held), len(attempt.excluded), attempt.aborted, story)
        self.latest = attempt.version
        self.phase = Phase.IDLE
        self._waiting, self._held = set(), set()
        incomplete = any(peer not in self.peers for peer in self.members)
        return [*(self._close_channel() if incomplete else []), finished]

    def _close_channel(self) -> list[Action]:
        """The members' communicator, if there is one, is not to be used again."""
        self.members = ()
        if not self._channel_open:
            return []
        self._channel_open = False
        return [CloseChannel(self.epoch)]

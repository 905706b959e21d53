"""The publisher's state machine: scripted runs, then random ones against simulated actors."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from common.config import WeightsSection
from common.messages import Abort, Begin, Commit, NoWork, Propose, Pull, Refused
from learner.weights.control import ControlServer
from learner.weights.epochs import Epochs, Phase
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
from learner.weights.pulls import Pulls

READY_S, TRANSFER_S = 10.0, 60.0
A, B, C = b"a", b"b", b"c"


class Machine:
    """Epochs with a clock; checks the invariants after each event."""

    def __init__(self) -> None:
        self.epochs = Epochs(backend="gloo", ready_timeout_s=READY_S, transfer_timeout_s=TRANSFER_S, bucket_bytes=1024)
        self.now = 0.0

    def do(self, event: Event) -> list[Action]:
        actions = self.epochs.handle(event, self.now)
        self.epochs.check()
        return actions

    def join(self, *peers: bytes) -> None:
        """Peers that are current (or wait for the first version)."""
        for peer in peers:
            assert self.do(Joined(peer, peer.decode(), peer.decode())) == []
            assert [type(a.message) for a in self.do(ask(peer, self.epochs.latest)) if isinstance(a, Tell)] == [NoWork]

    def request(self, version: int) -> list[Action]:
        return self.do(Requested(version, f"digest-{version}", 100))

    def publish(self, version: int) -> list[Action]:
        """A publish in which nothing goes wrong."""
        actions = self.request(version)
        members, epoch = self.epochs.members, self.epochs.epoch
        for peer in members:
            actions += self.do(ReadyCame(peer, epoch, version))
        for peer in members:
            actions += self.do(ReceivedCame(peer, epoch, version, True, f"digest-{version}"))
        actions += self.do(BroadcastEnded(epoch))
        for peer in members:
            actions += self.do(AppliedCame(peer, version))
        return actions

    def to_transfer(self, version: int) -> int:
        self.request(version)
        for peer in self.epochs.members:
            self.do(ReadyCame(peer, self.epochs.epoch, version))
        assert self.epochs.phase is Phase.TRANSFERRING
        return self.epochs.epoch


def ask(peer: bytes, have: int | None, offset: int = 0) -> Asked:
    return Asked(peer, Pull(have=have, offset=offset))


def told(actions: list[Action], kind: type) -> list[bytes]:
    return [a.peer for a in actions if isinstance(a, Tell) and isinstance(a.message, kind)]


def finished(actions: list[Action]) -> list[Finished]:
    return [a for a in actions if isinstance(a, Finished)]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_configuration_knows_how_long_a_publish_may_take() -> None:
    section = WeightsSection(ready_timeout_s=READY_S, transfer_timeout_s=TRANSFER_S)
    assert section.longest_publish_s == Machine().epochs.longest_publish_s == 2 * READY_S + 3 * TRANSFER_S


def test_publish_without_actors_ends_at_once_and_serves_those_who_come(machine: Machine) -> None:
    assert machine.request(0) == [Finished(0, 0, 0, 0)]
    machine.do(Joined(A, "a", "1"))
    assert machine.do(ask(A, None)) == [Serve(A, Pull(have=None))]
    machine.do(AppliedCame(A, 0))
    assert told(machine.do(ask(A, 0)), NoWork) == [A]
    assert told(machine.request(1), Propose) == [A]


def test_undisturbed_publish_in_order(machine: Machine) -> None:
    machine.join(A, B)
    actions = machine.request(5)
    assert told(actions, Propose) == [A, B]
    proposals = [a.message for a in actions if isinstance(a, Tell)]
    assert [(p.rank, p.world_size, p.epoch) for p in proposals if isinstance(p, Propose)] == [(1, 3, 1), (2, 3, 1)]
    assert machine.do(ReadyCame(A, 1, 5)) == []
    actions = machine.do(ReadyCame(B, 1, 5))
    assert told(actions, Begin) == [A, B]
    assert actions[-1] == Broadcast(1, 3, fresh=True)
    assert machine.do(ReceivedCame(A, 1, 5, True, "digest-5")) == []
    assert machine.do(BroadcastEnded(1)) == []
    assert told(machine.do(ReceivedCame(B, 1, 5, True, "digest-5")), Commit) == [A, B]
    assert machine.do(AppliedCame(B, 5)) == []
    assert machine.do(AppliedCame(A, 5)) == [Finished(5, 2, 0, 0)]


def test_communicator_is_kept_while_the_members_are_the_same_and_rebuilt_when_not(machine: Machine) -> None:
    machine.join(A, B)
    machine.publish(1)
    second = machine.publish(2)
    assert [a for a in second if isinstance(a, Broadcast)] == [Broadcast(1, 3, fresh=False)]
    assert not [a for a in second if isinstance(a, CloseChannel)]
    machine.join(C)
    third = machine.publish(3)
    assert [a for a in third if isinstance(a, CloseChannel | Broadcast)] == [CloseChannel(1), Broadcast(2, 4, True)]
    assert machine.do(Lost(C)) == [CloseChannel(2)]
    fourth = machine.publish(4)
    assert [a for a in fourth if isinstance(a, Broadcast)] == [Broadcast(3, 3, fresh=True)]


def test_who_does_not_answer_the_proposal_is_left_out(machine: Machine) -> None:
    machine.join(A, B)
    machine.request(1)
    machine.do(ReadyCame(A, 1, 1))
    machine.now = READY_S - 0.01
    assert told(machine.do(Tick()), Propose) == [B]  # asked again
    machine.now = READY_S
    actions = machine.do(Tick())
    assert told(actions, Abort) == [B]
    assert told(actions, Propose) == [A]  # its rank may have changed; it need not answer again
    assert told(actions, Begin) == [A]
    assert machine.epochs.epoch == 2
    assert told(machine.do(ask(B, None)), Refused) == [B]
    assert list(machine.epochs.notes) == ["actor b is left out: no answer while proposing"]


def test_unreachable_members_are_left_out_without_waiting(machine: Machine) -> None:
    machine.join(A, B, C)
    machine.request(1)
    machine.do(ReadyCame(C, 1, 1))
    assert told(machine.do(Lost(A)), Propose) == [B, C]
    assert told(machine.do(Lost(B)), Begin) == [C]


def test_death_in_mid_broadcast_aborts_for_all_and_is_repeated_with_the_survivors(machine: Machine) -> None:
    machine.join(A, B)
    machine.to_transfer(1)
    machine.do(ReceivedCame(A, 1, 1, True, "digest-1"))  # even one who holds everything may not load it
    actions = machine.do(Lost(B))
    assert told(actions, Abort) == [A]
    assert CloseChannel(1) in actions
    assert told(actions, Propose) == [A]
    assert machine.do(BroadcastEnded(1, "closed by peer")) == [], "late news of the epoch given up"
    actions = machine.do(ReadyCame(A, 2, 1))
    assert actions[-1] == Broadcast(2, 2, fresh=True)
    machine.do(BroadcastEnded(2))
    machine.do(ReceivedCame(A, 2, 1, True, "digest-1"))
    assert finished(machine.do(AppliedCame(A, 1))) == [Finished(1, 1, 1, 1)]
    assert list(machine.epochs.notes) == [
        "actor b is left out: lost",
        "broadcast of version 1 aborted, attempt 1: a member is gone: lost",
    ]


def test_the_learners_log_says_who_is_left_out_and_why(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """The runbook of a stalled publish sends people there."""
    server = object.__new__(ControlServer)
    vars(server).update(_epochs=machine.epochs, _send=lambda *_: False, _frames=lambda *_: {}, _finish=lambda _: None)
    vars(server).update(_pulls=Pulls())
    machine.publish(1)
    machine.join(A)
    assert not machine.epochs.notes
    with caplog.at_level("WARNING"):
        server._handle(Requested(2, "digest-2", 100))
    assert [record.getMessage() for record in caplog.records] == ["weights: actor a is left out: lost"]


def test_second_failure_gives_up_and_everybody_pulls(machine: Machine) -> None:
    machine.join(A)
    machine.to_transfer(1)
    assert told(machine.do(BroadcastEnded(1, "broken")), Propose) == [A]
    machine.do(ReadyCame(A, 2, 1))
    actions = machine.do(ReceivedCame(A, 2, 1, False, "", "broken"))
    assert told(actions, Abort) == [A]
    assert finished(actions) == [Finished(1, 0, 1, 2)]
    assert told(machine.do(ask(A, None)), Refused) == [A]
    machine.do(Joined(A, "a", "1"))
    assert machine.do(ask(A, None)) == [Serve(A, Pull(have=None))]


def test_ready_of_an_attempt_given_up_does_not_count(machine: Machine) -> None:
    machine.join(A)
    machine.to_transfer(1)
    machine.do(BroadcastEnded(1, "broken"))
    assert machine.do(ReadyCame(A, 1, 1)) == []
    assert machine.epochs.phase is Phase.PROPOSING


def test_wrong_digest_is_left_out_and_the_others_commit(machine: Machine) -> None:
    machine.join(A, B)
    machine.to_transfer(1)
    actions = machine.do(ReceivedCame(A, 1, 1, True, "something else"))
    assert told(actions, Abort) == [A]
    machine.do(BroadcastEnded(1))
    actions = machine.do(ReceivedCame(B, 1, 1, True, "digest-1"))
    assert told(actions, Commit) == [B]
    assert finished(machine.do(AppliedCame(B, 1))) == [Finished(1, 1, 1, 0)]


def test_stalled_broadcast_ends_at_its_deadline(machine: Machine) -> None:
    machine.join(A)
    machine.to_transfer(1)
    machine.now = TRANSFER_S - 0.01
    assert told(machine.do(Tick()), Begin) == [A]
    machine.now = TRANSFER_S
    assert told(machine.do(Tick()), Abort) == [A]


def test_silence_after_commit_leaves_out(machine: Machine) -> None:
    machine.join(A, B)
    machine.to_transfer(1)
    machine.do(BroadcastEnded(1))
    for peer in (A, B):
        machine.do(ReceivedCame(peer, 1, 1, True, "digest-1"))
    machine.do(AppliedCame(A, 1))
    machine.now = TRANSFER_S
    actions = machine.do(Tick())
    assert told(actions, Abort) == [B]
    assert finished(actions) == [Finished(1, 1, 1, 0)]
    assert CloseChannel(1) in actions


def test_a_publish_overtakes_a_pull(machine: Machine) -> None:
    """Else publishes that come faster than a pull would keep an actor outside for ever."""
    machine.request(1)
    machine.do(Joined(A, "a", "1"))
    assert [type(action) for action in machine.do(ask(A, None))] == [Serve]
    proposals = machine.request(2)
    assert [(action.peer, type(action.message)) for action in proposals] == [(A, Propose)]


def test_a_new_incarnation_replaces_the_former(machine: Machine) -> None:
    machine.join(A)
    machine.to_transfer(1)
    actions = machine.do(Joined(B, "a", "2"))
    assert [a for a in actions if isinstance(a, Finished)] == [Finished(1, 0, 1, 1)]
    assert list(machine.epochs.peers) == [B]


def test_versions_must_grow(machine: Machine) -> None:
    machine.publish(3)
    with pytest.raises(AssertionError, match="version 3 after 3"):
        machine.request(3)


# ------------------------------------------------------------------ simulation


@dataclass
class Actor:
    """A simulated actor: follows the protocol with its own quirks until it dies."""

    name: str
    quirks: random.Random
    dead: bool = False
    version: int | None = None
    begun: tuple[int, int] | None = None
    held: tuple[int, int] | None = None
    committed: list[int] = field(default_factory=list)


class Simulation:
    """Actors that lose messages, answer late, corrupt and die, around one machine."""

    def __init__(self, seed: int, loss: float, death: float, corruption: float) -> None:
        self.random = random.Random(seed)
        self.machine = Machine()
        self.loss, self.death, self.corruption = loss, death, corruption
        self.actors: dict[bytes, Actor] = {}
        self.queue: list[tuple[float, Event]] = []
        self.finished: list[tuple[float, Finished]] = []
        self.last_of: dict[bytes, float] = {}
        self.version = -1
        self.count = 0

    def spawn(self) -> None:
        self.count += 1
        peer = f"peer-{self.count}".encode()
        self.actors[peer] = Actor(f"actor-{self.count}", random.Random(self.random.random()))
        self.later(Joined(peer, f"actor-{self.count}", peer.decode()))
        self.later(ask(peer, None))

    def later(self, event: Event, reliable: bool = False) -> None:
        """Arrives after a while; messages of one peer keep their order, as they do on its connection."""
        if reliable or self.random.random() >= self.loss:
            peer = getattr(event, "peer", b"")
            at = max(self.machine.now + self.random.choice([0.0, 0.01, 0.3, 5.0]), self.last_of.get(peer, 0.0))
            self.last_of[peer] = at
            self.queue.append((at, event))

    def feed(self, event: Event) -> None:
        pending = [event]
        while pending:
            for action in self.machine.do(pending.pop(0)):
                if isinstance(action, Tell):
                    if self.actors[action.peer].dead:
                        pending.append(Lost(action.peer))
                    elif self.random.random() >= self.loss:
                        self.deliver(action.peer, action)
                elif isinstance(action, Broadcast):
                    error = "broken" if any(self.actors[m].dead for m in self.machine.epochs.members) else ""
                    if self.random.random() < 0.9:
                        self.later(BroadcastEnded(action.epoch, error), reliable=True)
                elif isinstance(action, Serve):
                    self.pull(action.peer)
                elif isinstance(action, Finished):
                    self.finished.append((self.machine.now, action))

    def pull(self, peer: bytes) -> None:
        actor = self.actors[peer]
        if not actor.dead:
            assert self.machine.epochs.latest is not None
            self.apply(peer, self.machine.epochs.latest)

    def apply(self, peer: bytes, version: int) -> None:
        actor = self.actors[peer]
        assert actor.version is None or version >= actor.version, f"{actor.name} went back"
        actor.version = version
        actor.committed.append(version)
        self.later(AppliedCame(peer, version))

    def deliver(self, peer: bytes, action: Tell) -> None:
        actor, message = self.actors[peer], action.message
        if actor.quirks.random() < self.death:
            actor.dead = True
            return
        match message:
            case Propose():
                if actor.version is None or message.version > actor.version:
                    self.later(ReadyCame(peer, message.epoch, message.version))
            case Begin():
                key = (message.epoch, message.version)
                if actor.begun != key:
                    actor.begun = key
                    actor.held = key if actor.quirks.random() >= self.corruption else None
                digest = message.digest if actor.held == key else "torn"
                self.later(ReceivedCame(peer, message.epoch, message.version, True, digest))
            case Commit():
                assert actor.held == (message.epoch, message.version), f"{actor.name} told to load torn weights"
                if actor.version != message.version:
                    self.apply(peer, message.version)
                else:
                    self.later(AppliedCame(peer, message.version))
            case Abort():
                actor.held = None
            case Refused():
                self.later(Joined(peer, actor.name, peer.decode()))
                self.later(ask(peer, None))

    def run_publish(self) -> None:
        self.version += 1
        began = self.machine.now
        self.feed(Requested(self.version, f"digest-{self.version}", 100))
        while not self.finished or self.finished[-1][1].version != self.version:
            self.step()
            assert self.machine.now - began <= self.machine.epochs.longest_publish_s + 1, "a wait without an end"

    def step(self) -> None:
        self.machine.now += 0.1
        due = [arriving for at, arriving in self.queue if at <= self.machine.now]
        self.queue = [item for item in self.queue if item[0] > self.machine.now]
        for arriving in due:
            self.feed(arriving)
        if round(self.machine.now * 10) % 10 == 0:  # actors ask once a second
            for peer, actor in self.actors.items():
                if not actor.dead:
                    self.later(ask(peer, actor.version))
        self.feed(Tick())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    death=st.sampled_from([0.0, 0.05, 0.3]),
    corruption=st.sampled_from([0.0, 0.2]),
)
def test_random_runs_end_in_time_with_growing_versions_and_nothing_torn(
    seed: int, loss: float, death: float, corruption: float
) -> None:
    simulation = Simulation(seed, loss, death, corruption)
    for _ in range(5):
        for _ in range(simulation.random.randrange(3)):
            simulation.spawn()
        for _ in range(simulation.random.randrange(100)):
            simulation.step()
        simulation.run_publish()
    assert [f.version for _, f in simulation.finished] == list(range(5))
    event(f"publishes that reached actors: {sum(f.num_actors > 0 for _, f in simulation.finished)}")
    event(f"aborted epochs: {sum(f.num_aborted for _, f in simulation.finished)}")
    for actor in simulation.actors.values():
        assert actor.committed == sorted(actor.committed)


def test_without_faults_everybody_is_at_the_newest_version() -> None:
    simulation = Simulation(1, 0.0, 0.0, 0.0)
    for _ in range(3):
        simulation.spawn()
    for _ in range(100):
        simulation.step()
    for _ in range(4):
        simulation.run_publish()
    for _, result in simulation.finished:
        assert (result.num_actors, result.num_excluded) == (3, 0)
    assert all(actor.version == 3 for actor in simulation.actors.values())

"""What the epoch state machine (epochs.py) is told and what it asks for: plain values, compared in tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.messages import Header, Pull
from learner.weights.chronicle import Story


@dataclass(frozen=True)
class Joined:
    """A peer (socket identity) introduced itself."""

    peer: bytes
    name: str
    incarnation: str


@dataclass(frozen=True)
class Asked:
    """A peer wants weights, or to know that it has the newest."""

    peer: bytes
    pull: Pull


@dataclass(frozen=True)
class Lost:
    """A peer said goodbye or cannot be reached."""

    peer: bytes


@dataclass(frozen=True)
class Requested:
    """The learner wants `version` published; its bytes are staged."""

    version: int
    digest: str
    total_bytes: int


@dataclass(frozen=True)
class ReadyCame:
    """A peer accepts the proposal."""

    peer: bytes
    epoch: int
    version: int


@dataclass(frozen=True)
class BroadcastEnded:
    """Our own side of the broadcast of `epoch` returned; `error` empty when it went well."""

    epoch: int
    error: str = ""


@dataclass(frozen=True)
class ReceivedCame:
    """A peer holds the bytes (`ok`), or says why not."""

    peer: bytes
    epoch: int
    version: int
    ok: bool
    digest: str = ""
    reason: str = ""


@dataclass(frozen=True)
class AppliedCame:
    """A peer samples from `version` now."""

    peer: bytes
    version: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Joined | Asked | Lost | Requested | ReadyCame | BroadcastEnded | ReceivedCame | AppliedCame | Tick


@dataclass(frozen=True)
class Tell:
    """Send a message. The shell adds frames: `manifest` to Propose, `handles` to Begin."""

    peer: bytes
    message: Header


@dataclass(frozen=True)
class Serve:
    """Answer the peer's Pull from the snapshot of the last published version."""

    peer: bytes
    pull: Pull


@dataclass(frozen=True)
class Broadcast:
    """Start our side of the broadcast in the background and report BroadcastEnded. `fresh`: connect first."""

    epoch: int
    world_size: int
    fresh: bool


@dataclass(frozen=True)
class CloseChannel:
    """The communicator of `epoch` is of no use any more."""

    epoch: int


@dataclass(frozen=True)
class Finished:
    """The publish is over. `version` is the one to serve to those who pull."""

    version: int
    num_actors: int
    num_excluded: int
    num_aborted: int
    story: Story = field(default_factory=Story, compare=False)


Action = Tell | Serve | Broadcast | CloseChannel | Finished

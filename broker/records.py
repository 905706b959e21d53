"""What the broker remembers: tasks, generated groups, leases, peers, waiting requests, and the replies it owes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from common.errors import ZeroqError
from common.messages import Header, LeaseKind, Purpose, RefusalCode, Role, RolloutMeta, Sampling, Verdict
from common.wire import Payload

LeaseOutcome = Literal["submitted", "returned", "expired", "cancelled", "invalid", "stale", "undelivered"]
MAX_DETAIL = 512

RequestKey = tuple[str, int]
"""(role and incarnation, request_id): names one request of one process, however often and over whichever of its
role's sockets it is sent."""


class Refusal(ZeroqError):
    """A request that is not done. Becomes a Refused reply; raised before anything has been changed."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RefusalCode = code
        self.detail = detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 3] + "..."


@dataclass(slots=True, frozen=True)
class Reply:
    """An action: send `header` and `payload` to `peer` on the socket of `role`."""

    peer: bytes
    role: Role
    header: Header
    payload: Payload = field(default_factory=dict)


class Place(StrEnum):
    """Where a task is; always exactly one of these until it is finished."""

    GENERATE_QUEUE = "generate queue"
    GENERATING = "generating"
    GRADE_QUEUE = "grade queue"
    GRADING = "grading"
    READY = "ready"
    TAKEN = "taken"


@dataclass(slots=True)
class Generated:
    """A submitted group. `payload` holds the frames as received; oldest and newest are token versions."""

    rollouts: list[RolloutMeta]
    payload: Payload
    oldest: int
    newest: int
    num_tokens: int
    verdicts: list[Verdict] = field(default_factory=list)
    ready_at: float = 0.0


@dataclass(slots=True)
class Task:
    """A prompt with its specification, from admission to its end.

    `attempts` counts failed attempts of the current phase (generation or grading) and starts anew with each phase.
    `start` is the version a train task's oldest token has or can have; None while nothing of it has been generated.
    `queued_at` is when it came into the queue where it waits; `size_bytes` that of its frames and its group's.
    """

    task_id: str
    purpose: Purpose
    group_size: int
    sampling: Sampling
    payload: Payload
    place: Place = Place.GENERATE_QUEUE
    attempts: int = 0
    lease_id: str | None = None
    group: Generated | None = None
    start: int | None = None
    taken_version: int = 0
    taken_by: RequestKey | None = None
    queued_at: float = 0.0
    size_bytes: int = 0


@dataclass(slots=True)
class Lease:
    """A right to work on one task until `deadline`; `token` grows with every lease of the broker."""

    lease_id: str
    token: int
    kind: LeaseKind
    task_id: str
    holder: str
    request: RequestKey
    duration_s: float
    deadline: float
    granted_at: float
    version: int
    progress: int = 0
    renewed_by: RequestKey | None = None


@dataclass(slots=True, frozen=True)
class EndedLease:
    """What became of a lease, so that late and repeated messages get the right answer."""

    kind: LeaseKind
    token: int
    task_id: str
    holder: str
    outcome: LeaseOutcome
    at: float
    detail: str


@dataclass(slots=True)
class Peer:
    """A process incarnation that said Hello, reachable at one socket identity."""

    role: Role
    name: str
    incarnation: str
    last_seen: float
    version: int | None = None
    history: int = 0
    """`Peers.history` when it last said hello."""


@dataclass(slots=True)
class Waiter:
    """A LeaseWork or Take that waits for work until `deadline`."""

    key: RequestKey
    peer: bytes
    role: Role
    name: str
    request_id: int
    deadline: float
    version: int = 0


@dataclass(slots=True, frozen=True)
class DeadLetter:
    """A task given up after `attempts` failed attempts of one phase: the `number`th, from 1."""

    number: int
    task_id: str
    attempts: int
    reason: str


def payload_bytes(payload: Payload) -> int:
    """Size of all frames."""
    return sum(len(frame) if isinstance(frame, bytes) else frame.nbytes for frame in payload.values())


@dataclass(slots=True, frozen=True)
class Request:
    """One decoded request on its way through the state machine."""

    peer: bytes
    role: Role
    name: str
    incarnation: str
    request_id: int
    payload: Payload
    now: float

    @property
    def key(self) -> RequestKey:
        """What identifies this request when it is sent again. With the role: who names another role's incarnation as
        its own must not be given what that one holds."""
        return (f"{self.role} {self.incarnation}", self.request_id)

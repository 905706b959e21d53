"""Every message that crosses a socket, as one strict pydantic union.

A message is a header (this module) plus named payload frames (arrays or bytes; see common/wire.py). Headers are small:
long text, token ids and grading specifications travel as frames. Requests carry a `request_id`; each gets exactly
one reply with the same id. Everything is idempotent: a request may be sent again after a lost reply. What is changed
here is changed for all processes at once: see SCHEMA_VERSION in common/message_parts.py.

Sockets, one per role, so that a peer cannot speak another role's part:

    learner    -> broker   Hello AddTask Take Release Publish
    actor      -> broker   Hello LeaseWork(generate) Renew SubmitGroup ReturnLease
    evaluator  -> broker   Hello LeaseWork(grade) Renew SubmitVerdicts ReturnLease
    monitor    -> broker   Hello GetStatus Drain
    actor      -> learner  PullFiles Join Pull Ready Received Applied Leave     (the weights control socket)
    learner    -> actor    ModelFiles Snapshot Propose Begin Commit Abort, NoWork Refused (replies to Pull)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from common.message_parts import Count, FrameRef, Header, Name, Part, ProcessName, Text, Version
from common.weight_messages import (
    MAX_MODEL_FILE_BYTES,
    Abort,
    Applied,
    Begin,
    Commit,
    Join,
    Leave,
    ModelFile,
    ModelFileName,
    ModelFiles,
    ParameterMeta,
    Propose,
    Pull,
    PullFiles,
    Ready,
    Received,
    Snapshot,
)

__all__ = [
    "MAX_MODEL_FILE_BYTES",
    "Abort",
    "Applied",
    "Begin",
    "Commit",
    "FrameRef",
    "Header",
    "Join",
    "Leave",
    "ModelFile",
    "ModelFileName",
    "ModelFiles",
    "ParameterMeta",
    "Propose",
    "Pull",
    "PullFiles",
    "Ready",
    "Received",
    "Snapshot",
]
"""What other modules import from here although it is defined beside."""

Role = Literal["learner", "actor", "evaluator", "monitor"]
WorkRole = Literal["actor", "evaluator"]
Purpose = Literal["train", "eval"]
LeaseKind = Literal["generate", "grade"]
RefusalCode = Literal[
    "no_credit",
    "lease_lost",
    "cancelled",
    "no_progress",
    "invalid",
    "unknown_task",
    "unknown_peer",
    "wrong_role",
    "stale",
    "version",
]

WeightsEndpoint = Annotated[str, Field(max_length=256, pattern=r"^(static|tcp://[^/\s;]+:[0-9]{1,5})$")]
"""Where actors get weights: an address that they connect to, so never a path (ipc://)."""


class Sampling(Part):
    """How one task's completions are sampled."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Count = 0
    seed: Count | None = None


class RolloutMeta(Part):
    """One rollout inside a group; tokens are a slice of the group's packed arrays, text of the `texts` frame."""

    num_tokens: Annotated[int, Field(ge=1)]
    text_bytes: Count
    finish_reason: Literal["stop", "length"]


class Verdict(Part):
    """An evaluator's outcome for one rollout."""

    outcome: Literal["pass", "fail", "timeout", "error"]
    reward: Annotated[float, Field(allow_inf_nan=False)]
    rewards: dict[str, Annotated[float, Field(allow_inf_nan=False)] | None]
    detail: Annotated[str, Field(max_length=256)] = ""
    wall_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


# ------------------------------------------------------------------ requests to the broker


class Hello(Header):
    """First message of an incarnation. The learner adds what the broker must know of the policy."""

    type: Literal["hello"] = "hello"
    role: Role
    name: ProcessName
    incarnation: ProcessName
    vocab_size: Annotated[int, Field(ge=1)] | None = None
    version: Version | None = None
    weights_endpoint: WeightsEndpoint | None = None


class AddTask(Header):
    """Admit a task. Frames: prompt_ids int32[P], prompt bytes (UTF-8 text), spec bytes (JSON; evaluators only)."""

    type: Literal["add_task"] = "add_task"
    task_id: Name
    purpose: Purpose
    group_size: Annotated[int, Field(ge=1, le=1024)]
    sampling: Sampling


class LeaseWork(Header):
    """Ask for one lease; the reply (Lease or NoWork) comes within `wait_s`. `version`: the weights an actor holds."""

    type: Literal["lease_work"] = "lease_work"
    kind: LeaseKind
    wait_s: Annotated[float, Field(ge=0, le=300)] = 0.0
    version: Version | None = None


class Renew(Header):
    """Extend a lease. `progress` (tokens generated, rollouts graded) must have grown since the last renewal."""

    type: Literal["renew"] = "renew"
    lease_id: Name
    token: Count
    progress: Count


class SubmitGroup(Header):
    """A generated group. Frames: token_ids int32[T], logprobs float32[T], versions int32[T], texts bytes."""

    type: Literal["submit_group"] = "submit_group"
    lease_id: Name
    token: Count
    task_id: Name
    rollouts: list[RolloutMeta] = Field(min_length=1, max_length=1024)


class SubmitVerdicts(Header):
    """Verdicts for all rollouts of a group, in order."""

    type: Literal["submit_verdicts"] = "submit_verdicts"
    lease_id: Name
    token: Count
    task_id: Name
    verdicts: list[Verdict] = Field(min_length=1, max_length=1024)


class ReturnLease(Header):
    """Give work back. `failed` counts an attempt (crash of a grader); a polite drain does not."""

    type: Literal["return_lease"] = "return_lease"
    lease_id: Name
    token: Count
    failed: bool
    reason: Text


class Take(Header):
    """The learner asks for one complete group; the reply (Group or NoWork) comes within `wait_s`."""

    type: Literal["take"] = "take"
    purpose: Purpose
    wait_s: Annotated[float, Field(ge=0, le=300)] = 0.0


class Release(Header):
    """The learner is done with groups it took: `trained` releases credit, `retry` puts the tasks back."""

    type: Literal["release"] = "release"
    task_ids: list[Name] = Field(min_length=1, max_length=1024)
    outcome: Literal["trained", "retry"]


class Publish(Header):
    """The policy version just made usable by actors; the broker sweeps what became too old."""

    type: Literal["publish"] = "publish"
    version: Version


class GetStatus(Header):
    """Ask for a StatusReport. `dead_after`: list the dead letters after this one, earliest first, not the latest."""

    type: Literal["get_status"] = "get_status"
    dead_after: Annotated[int, Field(ge=0)] | None = None


class Drain(Header):
    """No new leases for these processes of a role for so many seconds (0: leases again): they are about to go."""

    type: Literal["drain"] = "drain"
    role: WorkRole
    names: list[Name] = Field(min_length=1, max_length=128)
    for_s: Annotated[float, Field(ge=0, le=3600)]


# ------------------------------------------------------------------ replies of the broker


class Welcome(Header):
    """Reply to Hello. `learner`: its incarnation, so that one that came back to the same address is told apart."""

    type: Literal["welcome"] = "welcome"
    broker_incarnation: Name
    version: Version
    weights_endpoint: WeightsEndpoint | None = None
    learner: Name | None = None


class Ack(Header):
    """Done. `duplicate`: this had been done before (a repeated request)."""

    type: Literal["ack"] = "ack"
    duplicate: bool = False
    deadline_s: float | None = None


class Refused(Header):
    """Not done, and why. `code` is for programs, `detail` for people."""

    type: Literal["refused"] = "refused"
    code: RefusalCode
    detail: Text

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class NoWork(Header):
    """Nothing within the time asked for."""

    type: Literal["no_work"] = "no_work"


class Lease(Header):
    """A right to work until `deadline_s` from now.

    generate: frames prompt_ids. grade: frames prompt, texts, spec; `text_bytes` cuts `texts` into rollouts.
    """

    type: Literal["lease"] = "lease"
    kind: LeaseKind
    lease_id: Name
    token: Count
    task_id: Name
    purpose: Purpose
    deadline_s: float
    group_size: Annotated[int, Field(ge=1)]
    attempt: Count
    sampling: Sampling | None = None
    text_bytes: list[Count] = Field(default_factory=list)


class Group(Header):
    """A complete group for the learner. Frames: prompt_ids, token_ids, logprobs, versions, texts, prompt."""

    type: Literal["group"] = "group"
    task_id: Name
    purpose: Purpose
    rollouts: list[RolloutMeta]
    verdicts: list[Verdict]
    queued_s: float = 0.0


class StatusReport(Header):
    """Counters and gauges of the broker, JSON-able."""

    type: Literal["status_report"] = "status_report"
    status: dict[str, Any]


Message = Annotated[
    Hello
    | AddTask
    | LeaseWork
    | Renew
    | SubmitGroup
    | SubmitVerdicts
    | ReturnLease
    | Take
    | Release
    | Publish
    | GetStatus
    | Drain
    | Welcome
    | Ack
    | Refused
    | NoWork
    | Lease
    | Group
    | StatusReport
    | PullFiles
    | ModelFiles
    | Join
    | Pull
    | Snapshot
    | Propose
    | Ready
    | Begin
    | Received
    | Commit
    | Applied
    | Abort
    | Leave,
    Field(discriminator="type"),
]
MESSAGE: TypeAdapter[Header] = TypeAdapter(Message)

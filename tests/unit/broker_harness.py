"""A broker state machine with a clock of its own, a validator after every event, and peers that speak the protocol."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from broker.invariants import check
from broker.records import Reply
from broker.state import State
from common import messages as m
from common.config import RunConfig
from common.messages import Header, Role
from common.wire import Envelope, Payload

VOCAB = 100


def make_config(**learner: Any) -> RunConfig:
    """Two groups per publish, group size 2; leases of 10 s; three attempts."""
    broker = learner.pop("broker", {})
    return RunConfig.model_validate(
        {
            "model": "tiny",
            "data": {"train": "x.jsonl"},
            "rollout": {"group_size": 2},
            "learner": {"groups_per_step": 2, "max_staleness": 1, **learner},
            "broker": {"generate_lease_s": 10.0, "grade_lease_s": 10.0, "max_attempts": 3, **broker},
        }
    )


def group_frames(lengths: list[int], versions: list[int] | int, texts: bytes = b"") -> Payload:
    """Frames of a valid group; `versions` per token, or one for all."""
    num = sum(lengths)
    return {
        "token_ids": np.arange(num, dtype=np.int32) % VOCAB,
        "logprobs": np.full(num, -0.5, dtype=np.float32),
        "versions": np.full(num, versions, dtype=np.int32)
        if isinstance(versions, int)
        else np.asarray(versions, dtype=np.int32),
        "texts": texts,
    }


class Harness:
    """One broker, one learner, and any number of actors and evaluators; `replies` holds what came unasked."""

    def __init__(self, config: RunConfig | None = None, *, hello: bool = True, validate: bool = True) -> None:
        self.now = 1000.0
        self.state = State(config or make_config(), incarnation="broker0000", now=self.now, history=True)
        self.validate = validate
        self.ids = itertools.count(1)
        self.mail: list[Reply] = []
        self.learner = b"learner"
        if hello:
            self.hello("learner", version=0, vocab_size=VOCAB)

    # -- plumbing

    def send(
        self, peer: bytes, role: Role, header: Header, payload: Payload | None = None, request_id: int | None = None
    ) -> Reply | None:
        """Send a request; its reply if it came at once. Other replies go to `mail`."""
        request_id = next(self.ids) if request_id is None else request_id
        header = header.model_copy(update={"request_id": request_id})
        replies = self.state.handle(peer, role, Envelope(header, payload or {}), self.now)
        self._check()
        own = [r for r in replies if r.peer == peer and r.header.request_id == request_id]
        assert len(own) <= 1, own
        self.mail += [r for r in replies if r not in own]
        return own[0] if own else None

    def ask(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request that must be answered at once; the reply's header."""
        reply = self.send(*args, **kwargs)
        assert reply is not None, "no reply"
        return reply.header

    def advance(self, seconds: float) -> list[Reply]:
        """Let time pass, then tick."""
        self.now += seconds
        replies = self.state.tick(self.now)
        self._check()
        self.mail += replies
        return replies

    def _check(self) -> None:
        if self.validate:
            check(self.state.core)

    @property
    def counters(self) -> dict[str, int]:
        return self.state.core.ledger.counters

    def status(self) -> dict[str, Any]:
        return self.state.status(self.now)

    # -- peers

    def hello(self, name: str, role: Role | None = None, *, incarnation: str | None = None, **fields: Any) -> Any:
        """Introduce `name`; its role is its name without trailing digits, its identity its name."""
        role = role or name.rstrip("0123456789")  # type: ignore[assignment]
        assert role is not None
        header = m.Hello(role=role, name=name, incarnation=incarnation or f"{name}-inc", **fields)
        return self.ask(name.encode(), role, header)

    def add(self, task_id: str, purpose: m.Purpose = "train", group_size: int = 2, **kwargs: Any) -> Any:
        header = m.AddTask(task_id=task_id, purpose=purpose, group_size=group_size, sampling=m.Sampling(max_tokens=64))
        payload = {"prompt_ids": np.array([1, 2, 3], dtype=np.int32), "prompt": b"1+1=", "spec": b'{"answer": "2"}'}
        return self.ask(self.learner, "learner", header, payload, **kwargs)

    def lease(self, name: str, version: int = 0, wait_s: float = 0.0, **kwargs: Any) -> Any:
        """Ask for a lease as `name` (actor* or evaluator*), saying hello first; the reply's header, None if parked."""
        role: Role = "actor" if name.startswith("actor") else "evaluator"
        if self.state.core.peers.seen(role, name.encode(), self.now) is None:
            self.hello(name, role)
        header = m.LeaseWork(
            kind="generate" if role == "actor" else "grade",
            wait_s=wait_s,
            version=version if role == "actor" else None,
        )
        reply = self.send(name.encode(), role, header, **kwargs)
        return None if reply is None else reply.header

    def submit(self, name: str, lease: m.Lease, versions: list[int] | int = 0, **changes: Any) -> Any:
        """Submit a group of rollouts of 3 tokens each under `lease`."""
        lengths = changes.pop("lengths", [3] * lease.group_size)
        frames = changes.pop("frames", None) or group_frames(lengths, versions, b"ab" * len(lengths))
        rollouts = changes.pop("rollouts", None) or [
            m.RolloutMeta(num_tokens=n, text_bytes=2, finish_reason="stop") for n in lengths
        ]
        fields = {"lease_id": lease.lease_id, "token": lease.token, "task_id": lease.task_id, **changes}
        return self.ask(name.encode(), "actor", m.SubmitGroup(rollouts=rollouts, **fields), frames)

    def grade(self, name: str, lease: m.Lease, num: int | None = None, **changes: Any) -> Any:
        """Submit passing verdicts under `lease`."""
        verdict = m.Verdict(outcome="pass", reward=1.0, rewards={"accuracy": 1.0})
        verdicts = changes.pop("verdicts", [verdict] * (lease.group_size if num is None else num))
        fields = {"lease_id": lease.lease_id, "token": lease.token, "task_id": lease.task_id, **changes}
        return self.ask(name.encode(), "evaluator", m.SubmitVerdicts(verdicts=verdicts, **fields))

    def renew(self, name: str, lease: m.Lease, progress: int, **kwargs: Any) -> Any:
        role: Role = "actor" if name.startswith("actor") else "evaluator"
        header = m.Renew(lease_id=lease.lease_id, token=lease.token, progress=progress)
        return self.ask(name.encode(), role, header, **kwargs)

    def give_back(self, name: str, lease: m.Lease, *, failed: bool, reason: str = "because") -> Any:
        role: Role = "actor" if name.startswith("actor") else "evaluator"
        header = m.ReturnLease(lease_id=lease.lease_id, token=lease.token, failed=failed, reason=reason)
        return self.ask(name.encode(), role, header)

    def take(self, purpose: m.Purpose = "train", wait_s: float = 0.0, **kwargs: Any) -> Reply | None:
        return self.send(self.learner, "learner", m.Take(purpose=purpose, wait_s=wait_s), **kwargs)

    def taken_id(self, purpose: m.Purpose = "train") -> str | None:
        """Take a group; its task id, None if there was none."""
        reply = self.take(purpose)
        assert reply is not None
        return reply.header.task_id if isinstance(reply.header, m.Group) else None

    def release(self, *task_ids: str, outcome: Any = "trained", **kwargs: Any) -> Any:
        return self.ask(self.learner, "learner", m.Release(task_ids=list(task_ids), outcome=outcome), **kwargs)

    def publish(self, version: int) -> Any:
        return self.ask(self.learner, "learner", m.Publish(version=version))

    # -- whole ways

    def generate(self, versions: list[int] | int = 0, name: str = "actor1", lease_version: int | None = None) -> str:
        """Lease one task and submit its group."""
        version = lease_version if lease_version is not None else (versions if isinstance(versions, int) else 0)
        lease = self.lease(name, version)
        assert isinstance(lease, m.Lease), lease
        answer = self.submit(name, lease, versions)
        assert isinstance(answer, m.Ack), answer
        return lease.task_id

    def complete(self, versions: list[int] | int = 0, **kwargs: Any) -> str:
        """Lease one task, submit its group and have it graded."""
        task_id = self.generate(versions, **kwargs)
        lease = self.lease("evaluator1")
        assert isinstance(lease, m.Lease), lease
        assert isinstance(self.grade("evaluator1", lease), m.Ack)
        return task_id

"""One lease of a group to grade: what it holds, and keeping it alive while it is worked on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from common.client import BrokerClient
from common.errors import BrokerUnavailable, LeaseLost, WireError
from common.messages import Ack, Lease, Refused, Renew
from common.wire import Envelope

RENEW_FRACTION = 1 / 3  # of the time that a lease has left when it is granted or renewed


class Task:
    """A decoded lease: `prompt`, one text per rollout, and the grading specification. WireError if it is malformed."""

    def __init__(self, envelope: Envelope) -> None:
        assert isinstance(envelope.header, Lease)
        self.lease = envelope.header
        self.prompt = envelope.text("prompt")
        self.texts = _cut(envelope.blob("texts"), self.lease.text_bytes)
        if len(self.texts) != self.lease.group_size:
            raise WireError(f"task {self.lease.task_id}: {len(self.texts)} texts for {self.lease.group_size} rollouts")
        try:
            spec = json.loads(envelope.blob("spec"))
        except ValueError as error:
            raise WireError(f"task {self.lease.task_id}: its specification is not JSON: {error}") from None
        if not isinstance(spec, dict):
            raise WireError(f"task {self.lease.task_id}: its specification is {type(spec).__name__}, not a mapping")
        self.spec: dict[str, Any] = spec


class LeaseKeeper:
    """Renews a lease as its work gets on. Never blocks: a renewal is sent, and its reply is looked at later.

    Without progress nothing is sent: a wedged evaluator must lose its lease.
    """

    def __init__(
        self,
        client: BrokerClient,
        lease: Lease,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_progress` is called at the start and whenever more of the work is done."""
        self._client, self._lease, self._clock = client, lease, clock
        self._due = clock() + lease.deadline_s * RENEW_FRACTION
        self._reported = 0
        self._seen = 0
        self._on_progress = on_progress
        on_progress()
        self._reply: Future[Envelope] | None = None

    def tick(self, progress: int) -> None:
        """Call often, with the work done so far; LeaseLost once the broker has given the work to somebody else."""
        if progress > self._seen:
            self._seen = progress
            self._on_progress()
        if self._reply is not None and self._reply.done():
            self._read(self._reply)
            self._reply = None
        if self._reply is None and progress > self._reported and self._clock() >= self._due:
            self._reported = progress
            self._reply = self._client.call(
                Renew(lease_id=self._lease.lease_id, token=self._lease.token, progress=progress)
            )

    def _read(self, reply: Future[Envelope]) -> None:
        try:
            header = reply.result().header
        except BrokerUnavailable:
            return  # the lease runs out if this goes on; the submit will tell
        if isinstance(header, Ack):
            self._due = self._clock() + (header.deadline_s or self._lease.deadline_s) * RENEW_FRACTION
        elif isinstance(header, Refused) and header.code in ("cancelled", "lease_lost"):
            raise LeaseLost(
                f"lease {self._lease.lease_id} of task {self._lease.task_id}: {header.code}: {header.detail}"
            )


def _cut(texts: bytes, lengths: list[int]) -> list[str]:
    if sum(lengths) != len(texts):
        raise WireError(f"text_bytes sum to {sum(lengths)}, the texts frame has {len(texts)} bytes")
    pieces, position = [], 0
    for length in lengths:
        pieces.append(texts[position : position + length].decode("utf-8", "replace"))
        position += length
    return pieces

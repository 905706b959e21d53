"""The actor's loop: lease -> generate -> submit, for many leases at once.

    broker --Lease(prompt ids)--> Actor --SubmitGroup--> broker
                                   | ^
                    generate_group v | version
                                 Engine <--weights-- WeightFollower <-- learner

Stateless: whatever happens to this process, its leases expire and their tasks are leased to others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from actor import metrics
from actor.engine import EngineDied, PromptRefused
from actor.group import GeneratedGroup, GenerationAborted
from common.errors import LeaseLost, RunFailure, WireError
from common.lifecycle import StopFlag
from common.messages import Ack, Header, Lease, LeaseWork, NoWork, Refused, Renew, ReturnLease, Sampling, SubmitGroup
from common.wire import Array, Envelope

log = logging.getLogger(__name__)

_POLL_S = 1.0  # long-poll of a lease request, hence the most that a stop waits for it
_STOP_CHECK_S = 0.1
_DRAIN_S = 5.0


class Broker(Protocol):
    """actor.broker.Broker."""

    async def ask(self, header: Header, payload: Mapping[str, Array | bytes] | None = None) -> Envelope: ...


class Sampler(Protocol):
    """actor.engine.Engine."""

    async def generate_group(
        self, prompt_ids: list[int], sampling: Sampling, group_size: int, *, request_id: str
    ) -> GeneratedGroup: ...

    def progress(self, request_id: str) -> int: ...

    async def watch(self) -> None: ...


class Weights(Protocol):
    """actor.follow.WeightFollower."""

    version: int | None

    async def run(self) -> None: ...

    async def changed(self, version: int | None, timeout_s: float) -> None: ...


class Stopping(Exception):
    """The process was asked to stop; work in hand goes back."""


class Actor:
    """Serves leases until `stop`; at most `max_groups` at once."""

    def __init__(
        self, broker: Broker, engine: Sampler, weights: Weights, stop: StopFlag, *, name: str, max_groups: int
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._weights = weights
        self._stop = stop
        self._name = name
        self._slots = asyncio.Semaphore(max_groups)
        metrics.SLOTS.set(max_groups)
        self._stopping = asyncio.Event()
        self._works: set[asyncio.Task[None]] = set()
        self._work_failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused_version: int | None = None
        """The version that the broker last found too old to sample from."""

    async def run(self) -> None:
        """Serve until asked to stop, then give all leases back within seconds.

        Raises RunFailure when the engine dies, the weight receiver fails or the broker is gone.
        """
        serving = asyncio.create_task(self._serve())
        following = asyncio.create_task(self._weights.run())
        watching = asyncio.create_task(self._engine.watch())
        stop = asyncio.create_task(self._wait_for_stop())
        parts: list[asyncio.Future[None]] = [serving, following, watching, stop, self._work_failed]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if stop not in done:
                done.pop().result()
        except EngineDied as error:
            if not self._stop:  # a Ctrl-C reaches the engine's process as well
                raise RunFailure(f"{self._name}: {error}; its leases go back and the process ends") from error
        finally:
            await self._drain(serving)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _serve(self) -> None:
        """Consumes leases; waits for a free slot, for weights, for work; is unblocked by each; produces groups."""
        while True:
            await self._slots.acquire()
            if self._stopping.is_set():
                return
            lease = await self._lease()
            if lease is None:
                self._slots.release()
                continue
            work = asyncio.create_task(self._work(lease))
            self._works.add(work)
            work.add_done_callback(self._finished)
            metrics.RUNNING.inc()

    async def _lease(self) -> Envelope | None:
        """One lease, or None after a while without. Never asks without usable weights."""
        version = self._weights.version
        if self._stop.draining:  # what is in hand is finished
            await asyncio.sleep(_STOP_CHECK_S)
            return None
        if version is None:
            await self._weights.changed(None, _POLL_S)
            return None
        reply = await self._broker.ask(LeaseWork(kind="generate", version=version, wait_s=_POLL_S))
        match reply.header:
            case Lease():
                return reply
            case NoWork():
                return None
            case Refused(code="version", detail=detail):
                log.info("waiting for weights newer than version %d: %s", version, detail)
                self.refused_version = version
                await self._weights.changed(version, _POLL_S)
                return None
            case other:
                raise RunFailure(f"{self._name}: the broker answers a request for work with {other!r}")

    async def _work(self, envelope: Envelope) -> None:
        """Generate and submit under one lease, or give it back."""
        lease = envelope.header
        assert isinstance(lease, Lease)
        try:
            group = await self._generate(lease, envelope)
            await self._submit(lease, group)
        except LeaseLost as error:
            log.info("%s; what was generated is dropped", error)
            metrics.GROUPS.labels("lost").inc()
        except Stopping:
            await self._give_back(lease, failed=False, reason=f"{self._name} stops")
        except (PromptRefused, GenerationAborted, WireError) as error:
            await self._give_back(lease, failed=True, reason=str(error))
        except EngineDied as error:
            await self._give_back(lease, failed=not self._stop, reason=str(error))
            raise

    async def _generate(self, lease: Lease, envelope: Envelope) -> GeneratedGroup:
        """Sample the lease's group while renewing the lease; LeaseLost or Stopping end it early."""
        if lease.sampling is None:
            raise WireError(f"lease {lease.lease_id} carries no sampling parameters")
        began = time.monotonic()
        request_id = f"{lease.lease_id}.{lease.token}"
        generating = asyncio.create_task(
            self._engine.generate_group(
                envelope.array("prompt_ids", "int32").tolist(),
                lease.sampling,
                lease.group_size,
                request_id=request_id,
            )
        )
        renewing = asyncio.create_task(self._renew(lease, request_id))
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = (generating, renewing, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not generating.done():
                if renewing.done():
                    renewing.result()
                raise Stopping
            group = generating.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        metrics.GENERATION_SECONDS.observe(time.monotonic() - began)
        metrics.TOKENS.inc(len(group.token_ids))
        metrics.METER.add(len(group.token_ids))
        for num_tokens in group.num_tokens:
            metrics.LENGTH.add(num_tokens)
        return group

    async def _renew(self, lease: Lease, request_id: str) -> None:
        """Extend the lease three times per deadline, with the progress made; LeaseLost when there is nothing left."""
        deadline_s = lease.deadline_s
        while True:
            await asyncio.sleep(deadline_s / 3)
            progress = self._engine.progress(request_id)
            reply = await self._broker.ask(Renew(lease_id=lease.lease_id, token=lease.token, progress=progress))
            match reply.header:
                case Ack(deadline_s=new_deadline_s):
                    deadline_s = new_deadline_s or deadline_s
                case Refused(code="no_progress"):
                    log.warning(
                        "lease %s of task %s: no progress at %d tokens", lease.lease_id, lease.task_id, progress
                    )
                case Refused(code=code, detail=detail):
                    raise LeaseLost(f"lease {lease.lease_id} of task {lease.task_id}: {code}: {detail}")
                case other:
                    raise RunFailure(f"{self._name}: the broker answers a renewal with {other!r}")

    async def _submit(self, lease: Lease, group: GeneratedGroup) -> None:
        """Hand the group in; the client keeps it until the broker has answered."""
        header = SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, rollouts=group.metas())
        reply = (await self._broker.ask(header, group.frames())).header
        if isinstance(reply, Refused):
            log.warning("group of task %s refused: %s: %s", lease.task_id, reply.code, reply.detail)
            metrics.GROUPS.labels("refused").inc()
        else:
            metrics.GROUPS.labels("submitted").inc()

    async def _give_back(self, lease: Lease, *, failed: bool, reason: str) -> None:
        if failed:
            log.warning("task %s failed here (attempt %d): %s", lease.task_id, lease.attempt, reason)
        metrics.GROUPS.labels("failed" if failed else "returned").inc()
        await self._broker.ask(
            ReturnLease(lease_id=lease.lease_id, token=lease.token, failed=failed, reason=reason[:512])
        )

    def _finished(self, work: asyncio.Task[None]) -> None:
        self._works.discard(work)
        self._slots.release()
        metrics.RUNNING.dec()
        error = None if work.cancelled() else work.exception()
        if error is not None and not self._work_failed.done():
            self._work_failed.set_exception(error)

    async def _wait_for_stop(self) -> None:
        """A signal handler sets the flag, which cannot wake an event loop: look at it often."""
        while not self._stop:
            await asyncio.sleep(_STOP_CHECK_S)

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        """Stop leasing, give back what is in hand, let submits finish; what takes too long expires at the broker."""
        self._stopping.set()
        metrics.enter("draining")
        deadline = time.monotonic() + _DRAIN_S
        await asyncio.wait({serving}, timeout=_DRAIN_S)
        left = set(self._works)
        if left:
            _, left = await asyncio.wait(left, timeout=max(0.0, deadline - time.monotonic()))
        for work in left:
            work.cancel()
        if left:
            log.warning("%d leases could not be given back in %.0f s; they will expire", len(left), _DRAIN_S)
            await asyncio.gather(*left, return_exceptions=True)

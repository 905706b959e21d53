"""The evaluator's loop, once per desk: lease -> grade -> submit.

Consumes grade leases from the broker; waits for one (long poll), then for the workers; is unblocked by a lease, by
verdicts, by a lost lease or by a stop; produces SubmitVerdicts, or ReturnLease when the group could not be graded.

`evaluator.max_concurrent_groups` desks (threads) share one broker client and one pool of worker processes. A grader
that breaks returns its lease as failed and the desk pauses, longer each time; after MAX_FAILURES_IN_A_ROW the whole
process gives up, since by then it is the evaluator that is broken, and it would burn the attempts of every task.

A reward that is at fault itself (a user's function, components of which none applies) ends the run as a user's error
that names run, task and function: at once if the same task would fail again, else at the task's last attempt. Groups
would go to the dead letters one by one otherwise, and nobody would know.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from common.cli import Process
from common.client import BrokerClient
from common.config import RunConfig
from common.errors import BrokerUnavailable, LeaseLost, NotLetIn, RunFailure, UserError, WireError, ZeroqError
from common.introduction import connect, introduce
from common.keys import Keys
from common.lifecycle import StopFlag
from common.messages import Header, Lease, LeaseWork, Refused, ReturnLease, SubmitVerdicts, Verdict
from common.reward_model import read_reward_model
from common.wire import Envelope
from evaluator import metrics
from evaluator.compose import TICK_S, RewardFault, check_reward, grade_group
from evaluator.graders import CODE
from evaluator.lease import LeaseKeeper, Task
from evaluator.pool import GRADER_MEMORY_BYTES, Call, CallFailed, WorkerPool
from evaluator.sandbox import InfraError
from evaluator.scoring.client import ScoringClient, ScoringSettings

if TYPE_CHECKING:
    from evaluator.sandbox.grader import CodeGrader

POLL_S = 1.0
SUBMIT_GIVE_UP_S = 600.0
STOP_GRACE_S = 3.0
MAX_FAILURES_IN_A_ROW = 8
MAX_PAUSE_S = 30.0
STUCK_S = 120.0  # a desk that neither waits nor grades for so long is stuck
STUCK_GRADING_S = 300.0  # at least; no rollout of a group is graded for so long, or for STUCK_LEASES leases
STUCK_LEASES = 5
START_LIMIT_S = 900.0  # reward models load meanwhile
FUNCTION_SHARE_OF_LEASE = 0.75  # a function makes no progress while it runs, so it must end before its lease does

log = logging.getLogger(__name__)


class Stopping(Exception):
    """The process was asked to stop while a group was being graded."""


class Graders:
    """The workers of a process: a pool for our graders, one for the user's functions, one worker for reward models."""

    def __init__(self, config: RunConfig) -> None:
        self.reward = config.reward
        self.function_limit_s = config.broker.grade_lease_s * FUNCTION_SHARE_OF_LEASE
        check_reward(self.reward)
        self.scoring = _start_scoring(config)  # it loads while the pools start
        size = min(len(os.sched_getaffinity(0)), config.evaluator.max_concurrent_groups)
        warm = ["evaluator.graders.math_answer:self_test", "evaluator.graders.reasoning_gym_answer:self_test"]
        if any(component.kind == "language" for component in self.reward.components):
            warm.append("evaluator.graders.language:self_test")
        self.pool: WorkerPool | None = None
        self.functions: WorkerPool | None = None
        self._section = config.evaluator
        self._sandbox: CodeGrader | None = None
        self._sandbox_lock = threading.Lock()
        try:
            self.pool = _start(size, warm)
            if config.evaluator.code == "on":
                self.sandbox()
            if any(component.kind == "function" for component in self.reward.components):
                self.functions = _start(size, [], memory_bytes=None)
                self._check_functions(self.functions)
            if self.scoring is not None:
                self._await_scoring(self.scoring)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all workers."""
        if self.scoring is not None:
            self.scoring.close()
        if self.pool is not None:
            self.pool.close()
        if self._sandbox is not None:
            self._sandbox.close()
        if self.functions is not None:
            self.functions.close()

    def sandbox(self) -> CodeGrader:
        """The sandbox, started when first asked for; RunFailure with the missing layers below its floor."""
        with self._sandbox_lock:
            if self._sandbox is None:
                from evaluator.sandbox.grader import CodeGrader

                size = min(len(os.sched_getaffinity(0)), self._section.max_concurrent_groups)
                try:
                    self._sandbox = CodeGrader(size, tier=self._section.sandbox_tier)
                except InfraError as error:
                    raise RunFailure(str(error)) from None
                log.info("sandbox: %s", self._sandbox.capabilities.summary())
            return self._sandbox

    def grade(self, task: Task, keeper: LeaseKeeper, stop: StopFlag) -> list[Verdict]:
        """Verdicts of a task; CallFailed, LeaseLost or Stopping."""

        def tick(progress: int) -> None:
            if stop:
                raise Stopping
            keeper.tick(progress)

        return grade_group(
            task.prompt,
            task.texts,
            task.spec,
            self.reward,
            self.pool,
            functions=self.functions,
            function_limit_s=self.function_limit_s,
            group=task.lease.lease_id,
            sandbox=self.sandbox() if task.spec.get("kind") == CODE and self._section.code != "off" else None,
            scorer=self.scoring,
            on_tick=tick,
        )

    def _await_scoring(self, scoring: ScoringClient) -> None:
        try:
            scoring.await_start()
        except UserError as error:
            raise UserError(f"reward.components: {error}") from None
        except CallFailed as error:
            raise RunFailure(str(error)) from None

    def _check_functions(self, functions: WorkerPool) -> None:
        for index, component in enumerate(self.reward.components):
            if component.function is None:
                continue
            call = Call("evaluator.graders.user_function:check", {"path": component.function}, 60.0, "wall")
            try:
                functions.submit(call).result()
            except CallFailed as error:
                raise UserError(
                    f"reward.components[{index}].function = {component.function!r} cannot be used: {error}"
                ) from None


class Desk:
    """Grades one group at a time.

    `run_name` is for errors; `max_attempts` is the broker's; `beat(doing, limit_s)` hears of progress.
    """

    def __init__(
        self,
        client: BrokerClient,
        graders: Graders,
        stop: StopFlag,
        health: Health,
        *,
        run_name: str = "",
        max_attempts: int = 3,
        beat: Callable[[str, float], None] = lambda doing, limit_s: None,
    ) -> None:
        self._client, self._graders, self._stop, self._health = client, graders, stop, health
        self._run_name, self._max_attempts = run_name, max_attempts
        self._beat = beat

    def work(self) -> None:
        """lease -> grade -> submit until a stop is asked for. RunFailure when this process cannot go on, UserError when
        the reward is at fault."""
        try:
            while not self._stop:
                if self._stop.draining:
                    self._beat("draining", STUCK_S)
                    self._stop.wait(TICK_S)
                    continue
                envelope = self._lease()
                if envelope is not None:
                    self._handle(envelope)
        except BaseException:
            self._stop.set()  # the other desks must not wait for work that this process cannot do
            raise

    def _lease(self) -> Envelope | None:
        """A lease, or None if there is no work within POLL_S."""
        try:
            envelope = self._ask(LeaseWork(kind="grade", wait_s=POLL_S))
        except BrokerUnavailable as error:
            if self._stop:
                return None
            raise RunFailure(f"no broker to lease work from: {error}") from None
        if isinstance(envelope.header, Refused):
            raise RunFailure(f"the broker refuses to lease work: {envelope.header.code}: {envelope.header.detail}")
        return envelope if isinstance(envelope.header, Lease) else None

    def _handle(self, envelope: Envelope) -> None:
        lease = envelope.header
        assert isinstance(lease, Lease)
        begin = time.perf_counter()
        keeper = LeaseKeeper(self._client, lease, on_progress=lambda: self._beat("grading", self._grading_limit(lease)))
        with metrics.RUNNING.track_inprogress():
            row = "unknown"
            try:
                task = Task(envelope)
                row = str(task.spec.get("id") or task.prompt[:40])
                verdicts = self._graders.grade(task, keeper, self._stop)
            except LeaseLost as error:
                metrics.GROUPS.labels("lost").inc()
                log.info("%s; verdicts discarded", error)
            except Stopping:
                self._give_back(lease, failed=False, reason="evaluator stopping")
            except RewardFault as fault:
                self._give_back(lease, failed=not self._stop, reason=str(fault))
                text = f"run {self._run_name}, task {lease.task_id} (row {row!r}): {fault}"
                if (fault.final or lease.attempt + 1 >= self._max_attempts) and not self._stop:
                    remedy = "what was trained is kept: correct the reward and go on with resume=auto"
                    raise UserError(f"{text}; {remedy}") from None
                self._health.failed(text, self._stop, UserError)
            except (CallFailed, WireError) as error:
                self._give_back(lease, failed=not self._stop, reason=str(error))
                self._health.failed(str(error), self._stop)
            else:
                metrics.GROUP_SECONDS.observe(time.perf_counter() - begin)
                self._submit(lease, verdicts)
                self._health.succeeded()

    def _grading_limit(self, lease: Lease) -> float:
        return max(STUCK_GRADING_S, STUCK_LEASES * lease.deadline_s)

    def _submit(self, lease: Lease, verdicts: list[Verdict]) -> None:
        header = SubmitVerdicts(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, verdicts=verdicts)
        reply = self._deliver(header, lease)
        if reply is None:
            return
        if isinstance(reply, Refused):
            metrics.GROUPS.labels("refused").inc()
            log.warning("task %s: verdicts refused: %s: %s", lease.task_id, reply.code, reply.detail)
            return
        metrics.GROUPS.labels("submitted").inc()
        for verdict in verdicts:
            metrics.VERDICTS.labels(verdict.outcome).inc()
            metrics.ROLLOUT_SECONDS.observe(verdict.wall_s)

    def _give_back(self, lease: Lease, *, failed: bool, reason: str) -> None:
        metrics.GROUPS.labels("failed" if failed else "drained").inc()
        if failed:
            metrics.FAILURES.inc()
            log.error("task %s returned ungraded (attempt %d): %s", lease.task_id, lease.attempt, reason)
        self._deliver(
            ReturnLease(lease_id=lease.lease_id, token=lease.token, failed=failed, reason=reason[:512]), lease
        )

    def _deliver(self, header: Header, lease: Lease) -> Header | None:
        """Keep a message until it is answered; None at a stop without an answer, RunFailure after SUBMIT_GIVE_UP_S."""
        give_up = time.monotonic() + SUBMIT_GIVE_UP_S
        while True:
            try:
                return self._ask(header).header
            except BrokerUnavailable as error:
                if self._stop:
                    log.warning("task %s: stopping, result not acknowledged: %s", lease.task_id, error)
                    return None
                if time.monotonic() > give_up:
                    raise RunFailure(f"task {lease.task_id}: result not acknowledged: {error}") from None
                log.warning("task %s: result not acknowledged yet, sent again: %s", lease.task_id, error)

    def _ask(self, header: Header) -> Envelope:
        """The broker's reply. Once a stop was asked for, wait STOP_GRACE_S at most: the broker may be gone already.
        UserError when it does not let this process in (any more: it may have been replaced)."""
        reply = self._client.call(header)
        grace_ends: float | None = None
        while True:
            self._beat("waiting for the broker", STUCK_S)
            done, _ = wait([reply], timeout=TICK_S)
            if done:
                try:
                    return reply.result()
                except NotLetIn as error:
                    raise UserError(str(error)) from None
            if self._stop:
                grace_ends = grace_ends or time.monotonic() + STOP_GRACE_S
                if time.monotonic() > grace_ends:
                    raise BrokerUnavailable(f"no reply within {STOP_GRACE_S:g} s of the stop")


class Health:
    """Failures in a row over all desks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0

    def succeeded(self) -> None:
        """A group was graded."""
        with self._lock:
            self._in_a_row = 0

    def failed(self, reason: str, stop: StopFlag, error: type[ZeroqError] = RunFailure) -> None:
        """Pause after a failure; raises an `error` when there were too many without a success between them."""
        with self._lock:
            self._in_a_row += 1
            count = self._in_a_row
        if count >= MAX_FAILURES_IN_A_ROW and not stop:
            raise error(f"{count} groups in a row could not be graded; the last: {reason}")
        stop.wait(min(0.1 * 2.0**count, MAX_PAUSE_S))


def run(process: Process) -> None:
    """Grade until asked to stop. UserError for a reward that cannot be computed, RunFailure without a broker."""
    process.health.beat("loop", "starting graders", START_LIMIT_S)
    keys = Keys.for_process(process.config, process.paths, "evaluator")
    with Graders(process.config) as graders, connect(process, "evaluator", keys) as client:
        introduce(process, client)
        process.health.finish("loop")  # from here on there are desks
        health = Health()
        num_desks = process.config.evaluator.max_concurrent_groups
        metrics.SLOTS.set(num_desks)
        log.info("grading up to %d groups at once", num_desks)
        name, attempts = process.paths.root.name, process.config.broker.max_attempts
        with ThreadPoolExecutor(num_desks, thread_name_prefix="desk") as pool:
            desks = [
                Desk(
                    client,
                    graders,
                    process.stop,
                    health,
                    run_name=name,
                    max_attempts=attempts,
                    beat=partial(process.health.beat, f"desk-{number}"),
                )
                for number in range(num_desks)
            ]
            work = [pool.submit(desk.work) for desk in desks]
            done, _ = wait(work, return_when=FIRST_EXCEPTION)
        for ended in done:
            ended.result()


def _start_scoring(config: RunConfig) -> ScoringClient | None:
    """The worker for the reward models that the configuration names; None without any."""
    models = {c.model: read_reward_model(c.model) for c in config.reward.components if c.model is not None}
    if not models:
        return None
    section = config.evaluator
    return ScoringClient(
        models,
        ScoringSettings(
            section.reward_model_device,
            section.reward_model_dtype,
            section.reward_model_tokens,
            silence_s=config.broker.grade_lease_s * FUNCTION_SHARE_OF_LEASE,
        ),
    )


def _start(size: int, warm: list[str], memory_bytes: int | None = GRADER_MEMORY_BYTES) -> WorkerPool:
    try:
        return WorkerPool(size, warm=warm, memory_bytes=memory_bytes)
    except CallFailed as error:
        raise RunFailure(f"the graders do not work here: {error}") from None

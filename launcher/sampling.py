"""Owns sampling without training: broker, evaluators and actors started once, this process in the learner's place.

    requests ── AddTask ──> broker ── actor ── evaluator ──> Take ──> completions with verdicts
    load(model) ── WeightPublisher (gloo) ──> actors: several models through one engine

Evaluation, rejection sampling and judging all sample this way. An engine costs half a minute to start, other weights of
the same shape a second. A request of many samples travels as tasks of at most 64, so that one lease does not hold an
actor for long; they are put together again here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.client import BrokerClient
from common.config import RunConfig, dump_config
from common.errors import RunFailure, UserError
from common.keys import Keys
from common.lifecycle import RunPaths, StopFlag
from common.messages import AddTask, GetStatus, Group, Publish, Refused, Release, Sampling, StatusReport, Take, Verdict
from common.wire import Envelope, Payload
from launcher.checks import check_ports, check_reward_functions
from launcher.machine import inspect_machine, place
from launcher.model_swap import check_same_engine, checkpoint_tensors
from launcher.pool import Pool
from launcher.processes import actor_spec, broker_spec, evaluator_spec
from launcher.scratch import Scratch
from recipes.model_files import HubUnreachable, locate_model, read_model_facts
from recipes.prepare import Record

if TYPE_CHECKING:
    from learner.weights import WeightPublisher

MAX_GROUP_SIZE = 64
_MAX_OUTSTANDING = 512
_NUM_TAKES = 4
_TAKE_WAIT_S = 1.0
_POLL_S = 0.1
_STATUS_EVERY_S = 2.0
_PROGRESS_EVERY_S = 10.0
_REPLY_TIMEOUT_S = 60.0
_MAX_RETRIES = 3


@dataclass(frozen=True)
class SampleRequest:
    """`num` completions of one problem. `record`: {"id", "prompt", "prompt_ids", "spec"} as recipes.prepare makes it.

    `key` is the caller's name for the request; it comes back with the completions.
    """

    key: str
    record: Record
    num: int
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One graded completion. `num_tokens` counts the end-of-sequence token; `clipped`: it ran out of tokens."""

    text: str
    num_tokens: int
    clipped: bool
    verdict: Verdict


@dataclass(frozen=True)
class SampledTask:
    """All completions of one request."""

    key: str
    completions: list[Completion]


@dataclass
class _Open:
    """A request under way: its parts, those that have come by number."""

    request: SampleRequest
    num_parts: int
    parts: dict[int, list[Completion]] = field(default_factory=dict)
    retries: int = 0


class Sampler:
    """Actors and evaluators that sample and grade until the context ends. Use it from the main thread, as a context.

    `config` says how everything runs (`model`, `actor`, `evaluator`, `reward`, `broker`); weights always travel over
    gloo here. `swappable`: `load` may give the actors other weights; without it this process needs no torch. Once
    `stop` is set every method raises KeyboardInterrupt, which the `zeroq` command turns into exit code 130.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        stop: StopFlag,
        say: Callable[[str], object] = print,
        swappable: bool = True,
    ) -> None:
        weights = config.weights.model_copy(update={"backend": "gloo"})
        learner = config.learner.model_copy(update={"device": "cpu"})  # no learner: the actors get all GPUs
        actor = config.actor.model_copy(update={"model_from": "disk"})  # the model is here
        self.config = config.model_copy(update={"weights": weights, "learner": learner, "actor": actor})
        self.swappable = swappable
        self._stop, self._say = stop, say
        self._stack = contextlib.ExitStack()
        self._client: BrokerClient | None = None
        self._publisher: WeightPublisher | None = None
        self._base = self._loaded = Path()
        self._version: int | None = None
        self._tasks: dict[str, tuple[_Open, int]] = {}
        self._takes: set[Future[Envelope]] = set()
        self._num_tasks = self._num_tokens = 0
        self._status_at = self._told_at = self._alive_at = 0.0

    def __enter__(self) -> Sampler:
        """Start the processes; the engine itself comes up while the first requests wait."""
        config = self.config
        placement = replace(place(config, inspect_machine()), actor_cores=(None,))
        check_ports(config)
        check_reward_functions(config)
        try:
            self._base = self._loaded = locate_model(config.model).resolve()
        except HubUnreachable as error:
            raise UserError(f"{error}; give a local path") from None
        with contextlib.ExitStack() as stack:
            self._folder = Scratch("sampling-")
            stack.push(self._clean_up)
            self._paths = RunPaths(self._folder.path)
            dump_config(config, self._paths.config)
            self._pool = stack.enter_context(Pool(self._paths, self._on_event))
            self._pool.start(
                [
                    broker_spec(self._paths),
                    *(evaluator_spec(config, self._paths, i) for i in range(config.evaluator.replicas)),
                    *(actor_spec(config, self._paths, placement, i) for i in range(config.actor.replicas)),
                ]
            )
            self._connect(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def load(self, model: Path) -> None:
        """Have all actors sample from `model`'s weights from now on.

        UserError when it does not fit the engine (another architecture, vocabulary or tokenizer than `config.model`).
        ValueError for another model than `config.model` when the sampler is not swappable.
        """
        model = model.resolve()
        if self._publisher is None:
            if model != self._base:
                raise ValueError(f"this sampler serves {self._base} only: make it with swappable=True to load {model}")
            return
        if self._version is not None and model == self._loaded:
            return
        self._check_stop()
        check_same_engine(self._base, model)
        version = 0 if self._version is None else self._version + 1
        try:
            staged = self._publisher.stage(version, checkpoint_tensors(model))
        except ValueError as error:
            raise UserError(f"model {model} does not fit the engine of {self._base}: {error}") from None
        self._publisher.send(staged)
        if version:  # the first one was named in hello
            self._ask(Publish(version=version), f"version {version}")
        self._version, self._loaded = version, model
        self._say(f"actors sample from {model}")

    def sample(self, requests: Iterable[SampleRequest]) -> Iterator[SampledTask]:
        """Graded completions of each request, as they are ready (any order); requests are read as far as needed.

        One call at a time; what is left over when a caller stops early is dropped. RunFailure when a problem cannot be
        sampled or graded (it is named), or when actors and evaluators do nothing for long.
        """
        if self._publisher is not None and self._version is None:
            self.load(self._base)
        feed = iter(requests)
        total = len(requests) if isinstance(requests, Sized) else None
        waiting: deque[tuple[_Open, int]] = deque()
        num_done = 0
        self._alive_at = self._told_at = time.monotonic()
        self._num_tokens = 0
        try:
            while True:
                while len(self._tasks) < _MAX_OUTSTANDING:
                    if not waiting and (request := next(feed, None)) is not None:
                        opened = _open(request)
                        waiting.extend((opened, part) for part in range(opened.num_parts))
                    if not waiting:
                        break
                    self._add(*waiting.popleft())
                if not self._tasks:
                    return
                for done in self._turn(f"{num_done}{'' if total is None else f' of {total}'} done"):
                    num_done += 1
                    yield done
        finally:
            self._tasks.clear()

    # -------------------------------------------------------------- the broker

    def _connect(self, stack: contextlib.ExitStack) -> None:
        """Register as the learner, which makes actors serve `config.model`, or wait for a first `load`."""
        endpoint, keys = "static", Keys.for_process(self.config, self._paths, "learner")
        if self.swappable:
            from learner.weights import WeightPublisher

            self._publisher = WeightPublisher(self.config, host=self.config.weights.host, keys=keys)
            stack.callback(self._publisher.close)
            endpoint = self._publisher.endpoint
        else:
            self._version = 0
        deadline = time.monotonic() + self.config.actor.startup_timeout_s
        while not self._paths.endpoints.exists():
            self._pool.poll()
            self._check_stop()
            if time.monotonic() > deadline:
                raise RunFailure(f"the broker did not start:\n{self._pool.last_lines('broker')}")
            self._stop.wait(_POLL_S)
        address = str(json.loads(self._paths.endpoints.read_text())["learner"])
        vocab_size = read_model_facts(self._base).vocab_size
        self._client = stack.enter_context(
            BrokerClient(
                address,
                "learner",
                "sampler",
                keys=keys,
                vocab_size=vocab_size,
                version=0,
                weights_endpoint=endpoint,
            )
        )
        self._client.hello()

    def _ask(self, header: Any, what: str, payload: Payload | None = None) -> Any:
        """The reply's header; RunFailure when the broker refuses."""
        assert self._client is not None, "use the sampler as a context manager"
        reply = self._client.request(header, payload, timeout_s=_REPLY_TIMEOUT_S).header
        if isinstance(reply, Refused):
            raise RunFailure(f"the broker refused {what}: {reply.detail}")
        return reply

    def _add(self, opened: _Open, part: int) -> None:
        """Admit one task: part number `part` of a request."""
        request = opened.request
        record, sampling, first = request.record, request.sampling, part * MAX_GROUP_SIZE
        if sampling.seed is not None:
            # The completions of a group have seed, seed + 1, ... On CPUs vLLM 0.32 dies of a seeded request whose
            # prompt is cut into chunks ("CPU Generator does not use offset"): there the engine's own seed must do.
            seed = None if self.config.actor.device == "cpu" else sampling.seed + first
            sampling = sampling.model_copy(update={"seed": seed})
        self._num_tasks += 1
        task_id = f"sample-{self._num_tasks}"
        group_size = min(MAX_GROUP_SIZE, request.num - first)
        task = AddTask(task_id=task_id, purpose="eval", group_size=group_size, sampling=sampling)
        payload: Payload = {
            "prompt_ids": np.asarray(record["prompt_ids"], dtype=np.int32),
            "prompt": str(record["prompt"]).encode(),
            "spec": json.dumps(record["spec"], ensure_ascii=False).encode(),
        }
        self._ask(task, f"problem {record['id']}", payload)
        self._tasks[task_id] = (opened, part)

    def _turn(self, doing: str) -> list[SampledTask]:
        """Wait a moment for groups; the requests that they complete. Looks after processes meanwhile."""
        assert self._client is not None
        while len(self._takes) < _NUM_TAKES:
            self._takes.add(self._client.call(Take(purpose="eval", wait_s=_TAKE_WAIT_S)))
        done, self._takes = wait(self._takes, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        self._look_after(doing)
        finished = [self._receive(take.result()) for take in done]
        return [task for task in finished if task is not None]

    def _receive(self, envelope: Envelope) -> SampledTask | None:
        """Enter a group; the whole request once this was its last part."""
        header = envelope.header
        if not isinstance(header, Group):
            return None
        opened, part = self._tasks.get(header.task_id, (None, 0))
        if opened is not None and not (envelope.array("versions", "int32") == self._version).all():
            # An actor that was left out of the last load sampled from older weights before it heard of it.
            opened.retries += 1
            if opened.retries > _MAX_RETRIES:
                raise RunFailure(
                    f"problem {opened.request.record['id']}: an actor goes on sampling from weights other than those "
                    f"of {self._loaded}; see weights.ready_timeout_s"
                )
            self._ask(Release(task_ids=[header.task_id], outcome="retry"), "a retry")
            return None
        self._ask(Release(task_ids=[header.task_id], outcome="trained"), "a release")
        if opened is None:
            return None
        del self._tasks[header.task_id]
        self._alive_at = time.monotonic()
        opened.parts[part] = read_completions(envelope)
        self._num_tokens += sum(completion.num_tokens for completion in opened.parts[part])
        if len(opened.parts) < opened.num_parts:
            return None
        return SampledTask(opened.request.key, [c for number in sorted(opened.parts) for c in opened.parts[number]])

    # -------------------------------------------------------------- the processes

    def _look_after(self, doing: str) -> None:
        """Poll the pool, ask the broker's status and say something now and then."""
        self._check_stop()
        self._pool.poll()
        now = time.monotonic()
        if now - self._status_at >= _STATUS_EVERY_S:
            self._status_at = now
            self._check_status()
        if now - self._told_at >= _PROGRESS_EVERY_S:
            self._told_at = now
            self._say(f"sampling: {doing}, {self._num_tokens:,} tokens" if self._num_tokens else f"sampling: {doing}")

    def _check_status(self) -> None:
        """RunFailure for a problem that was given up, and when nobody has worked for longer than a start may take."""
        reply = self._ask(GetStatus(), "its status")
        assert isinstance(reply, StatusReport)
        status = reply.status
        for letter in status["dead_letters"]:
            opened, _ = self._tasks.get(letter["task_id"], (None, 0))
            if opened is not None:
                raise RunFailure(
                    f"problem {opened.request.record['id']} could not be sampled and graded: {letter['reason']}"
                )
        if any(status["leases"].values()):
            self._alive_at = time.monotonic()
        limit_s = self.config.actor.startup_timeout_s + self.config.broker.generate_lease_s
        if time.monotonic() - self._alive_at > limit_s:
            raise RunFailure(
                f"no actor or evaluator has held a lease for {limit_s:.0f} s while {status['queues']} wait; the end of "
                f"actor-0's log:\n{self._pool.last_lines('actor-0')}"
            )

    def _clean_up(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the temporary run directory; of a failure, whose message names logs, they are kept."""
        if kind is not None and issubclass(kind, RunFailure):
            self._folder.keep()
            self._say(f"the logs are in {self._paths.logs}")
        else:
            self._folder.remove()

    def _check_stop(self) -> None:
        if self._stop:
            raise KeyboardInterrupt

    def _on_event(self, event: str, **fields: Any) -> None:
        self._say(f"{event}: {fields}")


def read_completions(envelope: Envelope) -> list[Completion]:
    """The graded completions of a group, in order."""
    header = envelope.header
    assert isinstance(header, Group)
    texts, start, completions = envelope.blob("texts"), 0, []
    for rollout, verdict in zip(header.rollouts, header.verdicts, strict=True):
        text = texts[start : start + rollout.text_bytes].decode("utf-8", errors="replace")
        start += rollout.text_bytes
        completions.append(Completion(text, rollout.num_tokens, rollout.finish_reason == "length", verdict))
    return completions


def _open(request: SampleRequest) -> _Open:
    if request.num < 1:
        raise ValueError(f"request {request.key}: {request.num} samples; ask for at least 1")
    return _Open(request, -(-request.num // MAX_GROUP_SIZE))

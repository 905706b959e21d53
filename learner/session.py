"""Owns rank 0's dealings with the broker and the actors: everything of the loop that only one rank does.

hello -> (top_up -> take -> publish -> release)*          evaluations beside it

Actors take up new weights between two of their own steps, which the learner need not wait for: `publish` copies the
weights aside, and a thread sends them, announces the version, releases the groups and admits new tasks. At most one
publish is under way; `finish_publish` waits for it, and everything that speaks of its version does so first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from torch import Tensor

from common.cli import Process
from common.client import BrokerClient
from common.errors import RunFailure
from common.introduction import introduce
from common.keys import Keys
from common.lifecycle import record_event, wait_for_endpoint
from common.messages import Ack, Publish, Release, StatusReport
from learner.batch import TakenGroup
from learner.checkpoint import TrainingState
from learner.evaluation import EvaluationDesk, EvaluationFigures, event_fields
from learner.feed import REPLY_TIMEOUT_S, ProblemFile, TaskFeed
from learner.intake import GroupIntake, get_status
from learner.metrics import STARVED_SECONDS
from learner.weights.metrics import PHASE_SECONDS as WEIGHTS_PHASE_SECONDS

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What the loop needs of `learner.weights.WeightPublisher`."""

    @property
    def endpoint(self) -> str:
        """Address of the control socket that actors join."""

    def stage(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> Any:
        """Copy the weights of `version` aside, so that training may go on."""

    def send(self, staged: Any) -> Any:
        """Hand staged weights to the actors; blocking, bounded in time, not upset by an actor's death."""

    def close(self) -> None:
        """Stop answering actors."""


class BrokerSession:
    """A registered learner: task feed, group intake, publishes, evaluations."""

    def __init__(
        self, process: Process, publisher: Publisher, state: TrainingState, version: int, vocab_size: int
    ) -> None:
        """Say hello to the broker as the learner of `version`; RunFailure when it is not there in time."""
        config, self.paths = process.config, process.paths
        self.config, self.publisher = config, publisher
        endpoint = wait_for_endpoint(process.paths, "learner", broker=config.broker)
        self.client = BrokerClient(
            endpoint,
            "learner",
            process.name,
            keys=Keys.for_process(config, process.paths, "learner"),
            vocab_size=vocab_size,
            version=version,
            weights_endpoint=publisher.endpoint,
        )
        introduce(process, self.client)
        data = process.paths.root / "data"
        idle_limit_s = config.actor.startup_timeout_s + config.broker.generate_lease_s
        if config.broker.address is not None:  # on a cluster others start actors, and alerts tell when there are none
            idle_limit_s = math.inf
        self.feed = TaskFeed(
            self.client,
            config,
            ProblemFile(data / "train.jsonl"),
            cursor=state.cursor,
            outstanding=state.outstanding,
            general=ProblemFile(data / "general.jsonl") if config.data.general else None,
        )
        self.num_steps_left = config.learner.max_steps - state.step
        self.intake = GroupIntake(self.client, self.feed, config.learner, refill=self.top_up, idle_limit_s=idle_limit_s)
        self.evaluations = EvaluationDesk(
            self.client,
            config,
            ProblemFile(data / "eval.jsonl"),
            idle_limit_s=idle_limit_s,
            general=ProblemFile(data / "general_eval.jsonl") if config.data.general_eval else None,
        )
        self.finished_evaluations: list[EvaluationFigures] = []
        self._publishing: Future[None] | None = None

    def close(self) -> None:
        """Leave the broker."""
        self.client.close()

    def top_up(self) -> None:
        """Admit tasks as far as credit goes, and never more than can still be trained on."""
        self.feed.top_up(self.num_steps_left * self.config.learner.groups_per_step)

    def poll_groups(self, version: int, wait_s: float) -> bool:
        """Wait for the groups of one step; True once they are here. Collects evaluations meanwhile."""
        # With `pace` the broker chooses what must be trained on now, so it has to know which version that is.
        if self._publishing is not None and (self._publishing.done() or self.config.learner.staleness_policy == "pace"):
            self.finish_publish()
        self.poll_evaluations(0.0)
        began = time.monotonic()
        try:
            return self.intake.poll(self.config.learner.groups_per_step, version, wait_s)
        finally:
            STARVED_SECONDS.inc(time.monotonic() - began)

    def poll_evaluations(self, wait_s: float) -> bool:
        """Collect evaluations; True when none is under way any more."""
        for figures in self.evaluations.poll(wait_s) if self.evaluations.pending else []:
            record_event(self.paths, "evaluation", **event_fields(figures))
            self.finished_evaluations.append(figures)
            log.info("evaluation %s of step %d: %s", figures.label, figures.step, figures)
        return not self.evaluations.pending

    def take_finished_evaluations(self) -> list[EvaluationFigures]:
        """Evaluations completed since the last call."""
        finished, self.finished_evaluations = self.finished_evaluations, []
        return finished

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]], trained: list[TakenGroup]) -> None:
        """Exhaust `tensors` and begin to publish them as `version`, after which the groups `trained` are released.

        Waits for the publish before, whose failure is raised here.
        """
        self.finish_publish()
        staged = self.publisher.stage(version, tensors)
        future: Future[None] = Future()

        def send() -> None:
            try:
                self.publisher.send(staged)
                began = time.monotonic()
                self._announce(version)
                if trained:
                    self.release(trained)
                    self.top_up()
                WEIGHTS_PHASE_SECONDS.labels("announce").observe(time.monotonic() - began)
                future.set_result(None)
            except BaseException as error:  # whatever it is, the learner's own thread must learn of it
                future.set_exception(error)

        self._publishing = future
        threading.Thread(target=send, name=f"publish-{version}", daemon=True).start()

    def finish_publish(self) -> None:
        """Wait until the publish under way has ended, in time bounded by the publisher; raise what it raised."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.result()
            self.intake.drop_dead_letters()
            self.evaluations.drop_dead_letters()

    def _announce(self, version: int) -> None:
        """Tell the broker that actors have `version`; credit comes back, what is too old is swept."""
        header = self.client.request(Publish(version=version), timeout_s=REPLY_TIMEOUT_S).header
        if not isinstance(header, StatusReport):
            raise RunFailure(f"the broker refused version {version}: {header}")

    def release(self, groups: list[TakenGroup]) -> None:
        """These groups are trained on."""
        ids = [group.task_id for group in groups]
        header = self.client.request(Release(task_ids=ids, outcome="trained"), timeout_s=REPLY_TIMEOUT_S).header
        if not isinstance(header, Ack):
            raise RunFailure(f"the broker refused the release of trained groups: {header}")
        self.feed.finished(ids)

    def status(self) -> dict[str, Any]:
        """The broker's status."""
        return get_status(self.client)


PublisherFactory = Callable[[Process], Publisher]


def weight_publisher(process: Process) -> Publisher:
    """The real publisher, over the run's weight backend."""
    from learner.weights import WeightPublisher

    weights = process.config.weights
    publisher: Publisher = WeightPublisher(
        process.config,
        host=weights.host,
        port=weights.port,
        address=weights.address,
        keys=Keys.for_process(process.config, process.paths, "learner"),
    )
    return publisher

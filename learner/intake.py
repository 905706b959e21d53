"""Owns taking groups from the broker: several requests open at once, stale and repeated groups turned away (gate 3).

Consumes groups of one purpose; waits for replies; is unblocked by a group, or by NoWork when a long poll ends; produces
a list of groups fit for training. Rank 0 only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any

from common.client import BrokerClient
from common.config import LearnerSection
from common.errors import RunFailure
from common.messages import GetStatus, NoWork, Purpose, Release, StatusReport, Take
from common.messages import Group as GroupHeader
from common.wire import Envelope
from learner.batch import TakenGroup, usable
from learner.feed import REPLY_TIMEOUT_S, TaskFeed

log = logging.getLogger(__name__)

LONG_POLL_S = 5.0
MAX_OPEN_TAKES = 64


class TakeQueue:
    """Keeps up to `wanted` Take requests open and hands over what they bring."""

    def __init__(self, client: BrokerClient, purpose: Purpose, *, long_poll_s: float = LONG_POLL_S) -> None:
        self.client, self.purpose, self.long_poll_s = client, purpose, long_poll_s
        self._open: set[Future[Envelope]] = set()

    def poll(self, wanted: int, wait_s: float) -> list[TakenGroup]:
        """Groups that have come within `wait_s`, at most `wanted`; no request stays open beyond those still wanted."""
        for _ in range(min(wanted, MAX_OPEN_TAKES) - len(self._open)):
            self._open.add(self.client.call(Take(purpose=self.purpose, wait_s=self.long_poll_s)))
        if not self._open:
            return []
        done, self._open = wait(self._open, timeout=wait_s, return_when=FIRST_COMPLETED)
        groups = []
        for future in done:
            envelope = future.result()
            if isinstance(envelope.header, GroupHeader):
                groups.append(TakenGroup.of(envelope))
            elif not isinstance(envelope.header, NoWork):
                raise RunFailure(f"the broker refused to hand out groups: {envelope.header}")
        return groups


class GivenUp:
    """Reads which tasks the broker has given up since this was made: each once, however many died at a time."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._read = int(get_status(client)["counters"]["dead_lettered"])

    def look(self) -> tuple[dict[str, Any], list[str]]:
        """The broker's status, and the ids of tasks given up since the last look."""
        found: list[str] = []
        while True:
            status = get_status(self._client, dead_after=self._read)
            if not (letters := status["dead_letters"]):
                return status, found
            found += [letter["task_id"] for letter in letters]
            self._read = letters[-1]["number"]


class GroupIntake:
    """Collects the groups of one optimizer step."""

    def __init__(
        self,
        client: BrokerClient,
        feed: TaskFeed,
        config: LearnerSection,
        *,
        refill: Callable[[], object],
        idle_limit_s: float,
    ) -> None:
        """`refill` admits tasks in the place of dead-lettered ones; `idle_limit_s`: how long nobody may hold a lease
        while the learner waits, before the run is given up."""
        self.client, self.feed, self.config = client, feed, config
        self.refill, self.idle_limit_s = refill, idle_limit_s
        self.queue = TakeQueue(client, "train")
        self._given_up = GivenUp(client)
        self.groups: list[TakenGroup] = []
        self.num_duplicated = self.num_retried = self.num_dead_lettered = 0
        self._alive: float | None = None  # when somebody was last seen at work, since waiting began
        self._next_status = 0.0

    def poll(self, wanted: int, version: int, wait_s: float) -> bool:
        """Take what comes within `wait_s`; True once `wanted` groups are here (`collected` hands them over)."""
        if self._alive is None:
            self._alive = time.monotonic()
        missing = wanted - len(self.groups)
        for group in self.queue.poll(missing, wait_s):
            self._alive = time.monotonic()
            self._receive(group, version)
        if len(self.groups) < wanted:
            self._look_around()
        return len(self.groups) >= wanted

    def collected(self) -> list[TakenGroup]:
        """The groups taken, in the order of their numbers (the broker's order depends on who was quicker)."""
        groups, self.groups, self._alive = self.groups, [], None
        return sorted(groups, key=lambda group: self.feed.number(group.task_id))

    def _receive(self, group: TakenGroup, version: int) -> None:
        held = {own.task_id for own in self.groups}
        known = self.feed.is_outstanding(group.task_id) or self.feed.adopt(group.task_id)
        if not known or group.task_id in held:
            self.num_duplicated += 1
            log.error("group %s came again after it was trained; discarded", group.task_id)
            self.client.request(Release(task_ids=[group.task_id], outcome="trained"), timeout_s=REPLY_TIMEOUT_S)
        elif not usable(group, version, self.config):
            self.num_retried += 1
            self.client.request(Release(task_ids=[group.task_id], outcome="retry"), timeout_s=REPLY_TIMEOUT_S)
        else:
            self.groups.append(replace(group, source=self.feed.source(group.task_id)))

    def _look_around(self) -> None:
        """Every few seconds of waiting: replace dead-lettered tasks, and give up when nobody works."""
        if time.monotonic() < self._next_status:
            return
        self._next_status = time.monotonic() + 2.0
        status = self.drop_dead_letters()
        if any(status["leases"].values()):
            self._alive = time.monotonic()
        elif self._alive is not None and time.monotonic() - self._alive > self.idle_limit_s:
            raise RunFailure(
                f"no actor or evaluator has held a lease for {self.idle_limit_s:.0f} s while {status['queues']} wait; "
                "see the logs of actors and evaluators"
            )

    def drop_dead_letters(self) -> dict[str, Any]:
        """Forget tasks that the broker gave up, and admit others in their place; the broker's status."""
        status, given_up = self._given_up.look()
        dead = [task_id for task_id in given_up if task_id.startswith("train-") and self.feed.is_outstanding(task_id)]
        if dead:
            self.feed.finished(dead)
            self.num_dead_lettered += len(dead)
            self.refill()
        return status


def get_status(client: BrokerClient, *, dead_after: int | None = None) -> dict[str, Any]:
    """The broker's status; RunFailure if it answers anything else."""
    header = client.request(GetStatus(dead_after=dead_after), timeout_s=REPLY_TIMEOUT_S).header
    if not isinstance(header, StatusReport):
        raise RunFailure(f"the broker refused its status: {header}")
    return header.status

"""The autoscaler as a process of its own, on Kubernetes.

    elect -> ask the broker -> decide -> drain -> scale

Consumes the broker's status; waits a second between rounds, longer after an error; is unblocked by a stop; produces
changed scales. Several may run: those without the Lease stand by. Whatever fails (rights, missing objects, throttling,
no connection, no broker) costs the round, is said in one line when it changes, and is tried again ever more slowly. It
never scales on ignorance: without a status nothing is decided.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from common.cli import Process
from common.config import RunConfig
from common.errors import BrokerUnavailable, UserError
from common.keys import Keys
from common.lifecycle import StopFlag, wait_for_endpoint
from launcher.autoscaler import metrics
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.election import Election
from launcher.autoscaler.kubernetes import KubernetesPool, deployments
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.scaler import Autoscaler
from launcher.autoscaler.source import BrokerSource, StatusSource
from launcher.k8s.client import Cluster, connect
from launcher.k8s.errors import ClusterError, Unavailable
from launcher.k8s.names import LEASE

ROUND_S = 1.0
MAX_PAUSE_S = 30.0
SAY_AGAIN_AFTER_S = 300.0
STUCK_S = 120.0
YIELD_AFTER_S = 60.0
STAND_BACK_S = 30.0

log = logging.getLogger(__name__)


def run(process: Process, *, dry_run: bool = False, context: str | None = None, in_cluster: bool = True) -> None:
    """Scale until asked to stop. UserError without the broker's address, or for a kubeconfig or keys of no use."""
    config = process.config
    require_address(config)
    dry_run = dry_run or config.autoscaler.dry_run
    keys = Keys.for_process(config, process.paths, "monitor")
    endpoint = wait_for_endpoint(process.paths, "monitor", broker=config.broker)
    with (
        connect(context=context, in_cluster=in_cluster, patience_s=0.0) as cluster,
        BrokerSource(endpoint, process.name, keys) as source,
    ):
        log.info("%s; namespace %s of %s", "dry run" if dry_run else "scaling", cluster.namespace, cluster.server)
        process.health.ready()
        identity = f"{process.name}_{uuid.uuid4().hex[:8]}"  # two that were given one name must not both lead
        rounds = make_rounds(config, cluster, source, identity, dry_run=dry_run)
        rounds.serve(process.stop, partial(process.health.beat, "autoscaler", "looking after the fleet", STUCK_S))


def require_address(config: RunConfig) -> None:
    """UserError without `broker.address`: no broker of a cluster writes into this process's run directory."""
    if config.broker.address is None:
        raise UserError("broker.address: not set; the autoscaler finds the broker by it (with all four broker.ports)")


def make_rounds(
    config: RunConfig,
    cluster: Cluster,
    source: StatusSource,
    identity: str,
    *,
    dry_run: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Rounds:
    """The autoscaler that is `identity` in the Lease, over this cluster's Deployments. Each role has a scaler of its
    own: a Deployment that is missing, or may not be touched, is no reason to neglect the other."""
    election = Election(cluster, LEASE, identity, clock=clock)

    def may_act() -> bool:
        return dry_run or election.leads

    pool = KubernetesPool(cluster, names := deployments(config), may_act)
    scalers = {
        role: Autoscaler(config, pool, source.drain, roles=(role,), dry_run=dry_run, may_act=may_act, tell=say)
        for role in names
    }
    return Rounds(scalers, source, election, dry_run, clock)


def say(decision: Decision, done: bool) -> None:
    """One line for a decision, one when it has been carried out."""
    log.info("%s: %s", "done" if done else "decided", decision)


class Trouble:
    """Failures in a row of one kind of request, `what`: what was said about them, until when not to try again."""

    def __init__(self, what: str) -> None:
        self._what, self._failures = what, 0
        self._said: tuple[str, float] = ("", 0.0)
        self._again_at = float("-inf")
        self.since: float | None = None

    def over(self, now: float) -> bool:
        """Whether to try (again)."""
        return now >= self._again_at

    def failed(self, cause: str, text: str, now: float, after_s: float | None = None) -> None:
        """Count, say what is new, and leave a longer pause each time; `after_s`: what the server asked for."""
        metrics.ERRORS.labels(cause).inc()
        pause_s = min(MAX_PAUSE_S, ROUND_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self.since = now if self.since is None else self.since
        self._again_at = now + max(pause_s, after_s or 0.0)
        if text != self._said[0] or now - self._said[1] > SAY_AGAIN_AFTER_S:
            self._said = (text, now)
            log.warning("%s", text)

    def worked(self) -> None:
        """It works (again)."""
        if self._failures:
            log.info("%s: works again after %d failure(s)", self._what, self._failures)
        self._failures, self._said, self.since = 0, ("", 0.0), None


class Rounds:
    """One round after another, whatever happens in them. What befalls one role (rights, a missing object, a conflict)
    costs that role's round; without a broker none has one."""

    def __init__(
        self,
        scalers: Mapping[ScaleRole, Autoscaler],
        source: StatusSource,
        election: Election,
        dry_run: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scalers, self._source, self._election, self._dry_run = scalers, source, election, dry_run
        self._clock = clock
        self._led = False
        self._stands_back_until = float("-inf")
        self._electing, self._asking = Trouble("Lease"), Trouble("status")
        self._scaling = {role: Trouble(f"{role}s") for role in scalers}

    def serve(self, stop: StopFlag, beat: Callable[[], None]) -> None:
        """Until a stop; leaves the Lease free."""
        while not stop:
            beat()
            self.round()
            stop.wait(ROUND_S)
        metrics.LEADER.set(0)
        with contextlib.suppress(ClusterError):  # it runs out by itself
            self._election.resign()

    def round(self) -> None:
        """Stay leader or try to become it; as leader, look after the fleet."""
        if not self._leads():
            return
        due = [role for role, trouble in self._scaling.items() if trouble.over(self._clock())]
        if not due or not self._asking.over(self._clock()):
            return
        try:
            status = self._source.status()
            for role in due:
                self._look_after(role, status)
        except Unavailable as error:
            self._asking.failed(error.cause, str(error), self._clock(), error.retry_after_s)
        except BrokerUnavailable as error:
            self._asking.failed("broker", str(error), self._clock())
            self._let_another_try()
        else:
            self._asking.worked()

    def _let_another_try(self) -> None:
        """A leader that has not reached the broker for long makes way: another's machine may be better connected."""
        now, since = self._clock(), self._asking.since
        if self._dry_run or since is None or now - since < YIELD_AFTER_S:
            return
        self._asking.since, self._stands_back_until = now, now + STAND_BACK_S
        with contextlib.suppress(ClusterError):  # it runs out by itself
            self._election.resign()

    def _look_after(self, role: ScaleRole, status: Mapping[str, Any]) -> None:
        """One role's step; that the server asks for patience passes through, because it asks all."""
        try:
            self._scalers[role].step(self._clock(), status)
        except ClusterError as error:
            if getattr(error, "retry_after_s", None) is not None:
                raise
            self._scaling[role].failed(error.cause, str(error), self._clock())
        else:
            self._scaling[role].worked()

    def _leads(self) -> bool:
        """Whether to act in this round; says when that changes."""
        leads = self._dry_run or self._elected()
        if leads != self._led:
            for scaler in self._scalers.values():
                scaler.forget()
            log.info("acts from now on" if leads else f"stands by; {self._election.holder or 'nobody'} acts")
        self._led = leads
        metrics.LEADER.set(leads)
        return leads

    def _elected(self) -> bool:
        if self._clock() < self._stands_back_until:
            return False
        if self._election.due and self._electing.over(self._clock()):
            try:
                self._election.step()
            except ClusterError as error:
                self._electing.failed(error.cause, str(error), self._clock(), getattr(error, "retry_after_s", None))
            else:
                self._electing.worked()
        return self._election.leads

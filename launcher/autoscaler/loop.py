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
from collections.abc import Callable
from functools import partial

from common.cli import Process
from common.config import RunConfig
from common.errors import BrokerUnavailable
from common.keys import Keys
from common.lifecycle import StopFlag, wait_for_endpoint
from launcher.autoscaler import metrics
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.election import Election
from launcher.autoscaler.kubernetes import KubernetesPool, deployments
from launcher.autoscaler.scaler import Autoscaler
from launcher.autoscaler.source import BrokerSource, StatusSource
from launcher.k8s.client import Cluster, connect
from launcher.k8s.errors import ClusterError
from launcher.k8s.names import LEASE

ROUND_S = 1.0
MAX_PAUSE_S = 30.0
SAY_AGAIN_AFTER_S = 300.0
STUCK_S = 120.0

log = logging.getLogger(__name__)


def run(process: Process, *, dry_run: bool = False, context: str | None = None, in_cluster: bool = True) -> None:
    """Scale until asked to stop. UserError for a kubeconfig or keys that are of no use."""
    config = process.config
    dry_run = dry_run or config.autoscaler.dry_run
    keys = Keys.for_process(config, process.paths, "monitor")
    endpoint = wait_for_endpoint(process.paths, "monitor", broker=config.broker)
    with (
        connect(context=context, in_cluster=in_cluster, patience_s=0.0) as cluster,
        BrokerSource(endpoint, process.name, keys) as source,
    ):
        log.info("%s; namespace %s of %s", "dry run" if dry_run else "scaling", cluster.namespace, cluster.server)
        process.health.ready()
        rounds = make_rounds(config, cluster, source, process.name, dry_run=dry_run)
        rounds.serve(process.stop, partial(process.health.beat, "autoscaler", "looking after the fleet", STUCK_S))


def make_rounds(
    config: RunConfig,
    cluster: Cluster,
    source: StatusSource,
    name: str,
    *,
    dry_run: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Rounds:
    """The autoscaler called `name` over this cluster's Deployments."""
    election = Election(cluster, LEASE, name, clock=clock)
    scaler = Autoscaler(
        config,
        KubernetesPool(cluster, deployments(config)),
        source.drain,
        dry_run=dry_run,
        may_act=lambda: dry_run or election.leads,
        tell=say,
    )
    return Rounds(scaler, source, election, dry_run, clock)


def say(decision: Decision, done: bool) -> None:
    """One line for a decision, one when it has been carried out."""
    log.info("%s: %s", "done" if done else "decided", decision)


class Trouble:
    """Failures of one kind of request in a row: what was said about them, and until when not to try again."""

    def __init__(self) -> None:
        self._failures = 0
        self._said: tuple[str, float] = ("", 0.0)
        self._again_at = float("-inf")

    def over(self, now: float) -> bool:
        """Whether to try (again)."""
        return now >= self._again_at

    def failed(self, cause: str, text: str, now: float, after_s: float | None = None) -> None:
        """Count, say what is new, and leave a longer pause each time; `after_s`: what the server asked for."""
        metrics.ERRORS.labels(cause).inc()
        pause_s = min(MAX_PAUSE_S, ROUND_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._again_at = now + max(pause_s, after_s or 0.0)
        if text != self._said[0] or now - self._said[1] > SAY_AGAIN_AFTER_S:
            self._said = (text, now)
            log.warning("%s", text)

    def worked(self) -> None:
        """It works (again)."""
        if self._failures:
            log.info("works again after %d failure(s)", self._failures)
        self._failures, self._said = 0, ("", 0.0)


class Rounds:
    """One round after another, whatever happens in them."""

    def __init__(
        self,
        scaler: Autoscaler,
        source: StatusSource,
        election: Election,
        dry_run: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scaler, self._source, self._election, self._dry_run = scaler, source, election, dry_run
        self._clock = clock
        self._led = False
        self._electing, self._scaling = Trouble(), Trouble()

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
        if not self._leads() or not self._scaling.over(self._clock()):
            return
        try:
            self._scaler.step(self._clock(), self._source.status())
        except ClusterError as error:
            self._scaling.failed(error.cause, str(error), self._clock(), getattr(error, "retry_after_s", None))
        except BrokerUnavailable as error:
            self._scaling.failed("broker", str(error), self._clock())
        else:
            self._scaling.worked()

    def _leads(self) -> bool:
        """Whether to act in this round; says when that changes."""
        leads = self._dry_run or self._elected()
        if leads != self._led:
            self._scaler.forget()
            log.info("acts from now on" if leads else f"stands by; {self._election.holder or 'nobody'} acts")
        self._led = leads
        metrics.LEADER.set(leads)
        return leads

    def _elected(self) -> bool:
        if self._electing.over(self._clock()):
            try:
                self._election.step()
            except ClusterError as error:
                self._electing.failed(error.cause, str(error), self._clock(), getattr(error, "retry_after_s", None))
            else:
                self._electing.worked()
        return self._election.leads

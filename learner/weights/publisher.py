"""What the learner uses: `WeightPublisher` makes a version usable by all actors: `stage` copies, `send` brings it."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from common.config import RunConfig
from common.metrics import REGISTRY
from learner.weights.control import ControlServer
from learner.weights.epochs import Epochs
from learner.weights.transport import Staged, Tensors, Transport

log = logging.getLogger(__name__)

PUBLISH_SECONDS = Histogram(
    "zeroq_weights_publish_seconds",
    "Time from staged weights to actors that sample from them",
    registry=REGISTRY,
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120),
)
PUBLISHED_VERSION = Gauge("zeroq_weights_published_version", "Newest version published", registry=REGISTRY)
CURRENT_ACTORS = Gauge("zeroq_weights_current_actors", "Actors that took part in the last publish", registry=REGISTRY)
EPOCHS_ABORTED = Counter("zeroq_weights_epochs_aborted", "Broadcasts given up and repeated", registry=REGISTRY)
ACTORS_EXCLUDED = Counter("zeroq_weights_actors_excluded", "Actors left out of an epoch", registry=REGISTRY)
SENT_BYTES = Gauge("zeroq_weights_size_bytes", "Size of one version", registry=REGISTRY)


@dataclass(frozen=True)
class PublishReport:
    """How a publish went. `num_actors` sample from `version`; `num_excluded` were left out and will pull it."""

    version: int
    num_actors: int
    num_excluded: int
    seconds: float
    bytes: int


class WeightPublisher:
    """Rank 0's end of the weight path. `endpoint` (tcp://host:port) is where actors join.

    `host`: address by which actors reach this machine; `port` 0 takes a free one. Close it when done.
    """

    def __init__(self, config: RunConfig, *, host: str, port: int = 0) -> None:
        weights = config.weights
        self._transport = _transport(config, host)
        prefix = uuid.uuid4().hex[:16]  # of this incarnation: a new publisher's epochs are not its predecessor's
        epochs = Epochs(
            backend=weights.backend,
            ready_timeout_s=weights.ready_timeout_s,
            transfer_timeout_s=weights.transfer_timeout_s,
            bucket_bytes=weights.bucket_bytes,
            store_host=host,
            store_port=self._transport.store_port,
            prefix=prefix,
        )
        self._latest: int | None = None
        self._control = ControlServer(
            epochs,
            self._transport,
            host=host,
            port=port,
            prefix=prefix,
            transfer_timeout_s=weights.transfer_timeout_s,
        )
        self.endpoint = self._control.endpoint

    def publish(self, version: int, tensors: Tensors) -> PublishReport:
        """`stage` and `send` in one."""
        return self.send(self.stage(version, tensors))

    def stage(self, version: int, tensors: Tensors) -> Staged:
        """Copy the weights of `version` aside; the model may change from then on.

        Exhausts `tensors` (Hugging Face names; cast to the actors' dtype). Not while a `send` is under way. ValueError
        when the version does not grow or the parameters changed.
        """
        if self._latest is not None and version <= self._latest:
            raise ValueError(f"version {version} after {self._latest}: versions grow")
        return self._transport.stage(version, tensors)

    def send(self, staged: Staged) -> PublishReport:
        """Bring staged weights to all current actors and serve them to late joiners; in any thread, one at a time.

        Blocks until the actors sample from the new version, or are left out: at most 2 x ready_timeout_s +
        3 x transfer_timeout_s. An actor's death is never an error.
        """
        version, began = staged.version, time.monotonic()
        finished = self._control.publish(staged)
        self._latest = version
        seconds = time.monotonic() - began
        report = PublishReport(version, finished.num_actors, finished.num_excluded, seconds, staged.layout.total_bytes)
        PUBLISH_SECONDS.observe(seconds)
        PUBLISHED_VERSION.set(version)
        CURRENT_ACTORS.set(report.num_actors)
        SENT_BYTES.set(report.bytes)
        EPOCHS_ABORTED.inc(finished.num_aborted)
        ACTORS_EXCLUDED.inc(report.num_excluded)
        log.info(
            "published version %d to %d actors in %.2f s (%d left out, %d bytes)",
            version,
            report.num_actors,
            seconds,
            report.num_excluded,
            report.bytes,
        )
        return report

    def close(self) -> None:
        """Stop serving actors; they keep what they have."""
        self._control.close()
        self._transport.close()


def _transport(config: RunConfig, host: str) -> Transport:
    match config.weights.backend:
        case "gloo":
            from learner.weights.gloo import GlooTransport

            return GlooTransport(config, host)
        case "ipc":
            from learner.weights.ipc import IpcTransport

            return IpcTransport(config)
        case "nccl":
            from learner.weights.nccl import NcclTransport

            return NcclTransport(config)

"""What the learner uses: `WeightPublisher` makes a version usable by all actors: `stage` copies, `send` brings it."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass

from common.config import RunConfig
from common.keys import Keys
from learner.weights import metrics
from learner.weights.control import ControlServer
from learner.weights.epochs import Epochs
from learner.weights.files import ServedFiles
from learner.weights.transport import Staged, Tensors, Transport

log = logging.getLogger(__name__)


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

    `host`: address to bind; `address`: name or address by which actors reach it, if that is another; `port` 0 takes a
    free one. `keys`: the learner's; without them the control socket is plaintext. Close it when done.
    """

    def __init__(
        self, config: RunConfig, *, host: str, port: int = 0, address: str | None = None, keys: Keys | None = None
    ) -> None:
        weights = config.weights
        files = ServedFiles.of(config.model) if config.actor.model_from == "learner" else None
        self._transport = _transport(config, host, address or host)
        prefix = uuid.uuid4().hex[:16]  # of this incarnation: a new publisher's epochs are not its predecessor's
        epochs = Epochs(
            backend=weights.backend,
            ready_timeout_s=weights.ready_timeout_s,
            transfer_timeout_s=weights.transfer_timeout_s,
            bucket_bytes=weights.bucket_bytes,
            store_host=address or host,
            store_port=self._transport.store_port,
            prefix=prefix,
            model=files.digest if files else None,
        )
        self._latest: int | None = None
        metrics.BOUND_SECONDS.set(epochs.longest_publish_s)
        self._control = ControlServer(
            epochs,
            self._transport,
            host=host,
            port=port,
            prefix=prefix,
            transfer_timeout_s=weights.transfer_timeout_s,
            files=files,
            keys=keys,
        )
        self.endpoint = _by_address(self._control.endpoint, host, address)

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
        with metrics.phase("stage"):
            return self._transport.stage(version, tensors)

    def send(self, staged: Staged) -> PublishReport:
        """Bring staged weights to all current actors and serve them to late joiners; in any thread, one at a time.

        Blocks until the actors sample from the new version, or are left out: at most 2 x ready_timeout_s +
        3 x transfer_timeout_s. An actor's death is never an error.
        """
        version, began = staged.version, time.monotonic()
        with metrics.publishing():
            finished = self._control.publish(staged)
        self._latest = version
        seconds = time.monotonic() - began
        report = PublishReport(version, finished.num_actors, finished.num_excluded, seconds, staged.layout.total_bytes)
        metrics.PUBLISHED_VERSION.set(version)
        metrics.SIZE_BYTES.set(report.bytes)
        metrics.SENT_BYTES.labels("broadcast").inc(report.bytes * report.num_actors)
        metrics.EXCLUDED.inc(report.num_excluded)
        metrics.tell(finished.story)
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


def _by_address(endpoint: str, host: str, address: str | None) -> str:
    """`endpoint` as those who must use `address` reach it."""
    name = host if address is None else address
    return f"tcp://{f'[{name}]' if ':' in name else name}:{endpoint.rpartition(':')[2]}"


def _transport(config: RunConfig, host: str, address: str) -> Transport:
    match config.weights.backend:
        case "gloo":
            from learner.weights.gloo import GlooTransport

            return GlooTransport(config, host, address)
        case "ipc":
            from learner.weights.ipc import IpcTransport

            return IpcTransport(config)
        case "nccl":
            from learner.weights.nccl import NcclTransport

            return NcclTransport(config)

"""What the learner's end of the weight path counts (docs/metrics.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from common.gauge import OptionalGauge
from common.metrics import REGISTRY
from learner.weights.chronicle import Story

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)

PUBLISHED_VERSION = OptionalGauge("zeroq_weights_published_version", "Newest version published.")
SIZE_BYTES = OptionalGauge("zeroq_weights_size_bytes", "Size of one version.")
SENT_BYTES = Counter("zeroq_weights_sent_bytes", "Weights that reached actors.", ["way"], registry=REGISTRY)
PUBLISH_SECONDS = Histogram(
    "zeroq_weights_publish_seconds",
    "From staged weights to actors that sample from them.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
PHASE_SECONDS = Histogram(
    "zeroq_weights_publish_phase_seconds", "Parts of a publish.", ["phase"], buckets=_SECONDS, registry=REGISTRY
)
IN_PROGRESS_SECONDS = Gauge(
    "zeroq_weights_publish_in_progress_seconds", "Age of the publish under way; 0 between two.", registry=REGISTRY
)
BOUND_SECONDS = OptionalGauge("zeroq_weights_publish_bound_seconds", "By then a publish has ended, well or not.")
EPOCHS = Counter("zeroq_weights_epochs", "Epochs begun, by why.", ["cause"], registry=REGISTRY)
ABORTED = Counter("zeroq_weights_broadcasts_aborted", "Broadcasts given up, by why.", ["cause"], registry=REGISTRY)
EXCLUDED = Counter("zeroq_weights_actors_excluded", "Actors left out of an epoch.", registry=REGISTRY)
MEMBERS = Gauge("zeroq_weights_members", "Actors known to the publisher.", ["state"], registry=REGISTRY)

for _way in ("broadcast", "pull"):
    SENT_BYTES.labels(_way)
for _phase in ("stage", "propose", "transfer", "commit", "announce"):
    PHASE_SECONDS.labels(_phase)
for _cause in ("first", "joined", "left", "both", "aborted"):
    EPOCHS.labels(_cause)
for _cause in ("member_lost", "transfer_failed", "timeout"):
    ABORTED.labels(_cause)

_began: float | None = None
IN_PROGRESS_SECONDS.set_function(lambda: 0.0 if (began := _began) is None else time.monotonic() - began)


@contextmanager
def publishing() -> Iterator[None]:
    """Measure a publish, also while it lasts."""
    global _began
    _began = began = time.monotonic()
    try:
        yield
    finally:
        _began = None
    PUBLISH_SECONDS.observe(time.monotonic() - began)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Measure a part of a publish that does not fail."""
    began = time.monotonic()
    yield
    PHASE_SECONDS.labels(name).observe(time.monotonic() - began)


def tell(story: Story) -> None:
    """Count what a publish went through."""
    for part, seconds in story.seconds.items():
        PHASE_SECONDS.labels(part).observe(seconds)
    for cause, count in story.epochs.items():
        EPOCHS.labels(cause).inc(count)
    for why, count in story.aborts.items():
        ABORTED.labels(why).inc(count)


def set_members(states: Mapping[str, int]) -> None:
    """How many actors are current, stale, joining."""
    for state, count in states.items():
        MEMBERS.labels(state).set(count)

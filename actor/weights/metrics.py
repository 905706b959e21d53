"""What an actor counts of its weights' updates (docs/metrics.md)."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from common.metrics import REGISTRY

PAUSE_SECONDS = Histogram(
    "zeroq_weights_pause_seconds",
    "How long sampling stood still for an update.",
    registry=REGISTRY,
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
UPDATES = Counter("zeroq_weights_updates", "Versions loaded.", ["way"], registry=REGISTRY)
UPDATE_FAILURES = Counter(
    "zeroq_weights_update_failures",
    "Versions that did not come, came damaged, or could not be loaded.",
    ["stage"],
    registry=REGISTRY,
)
RECEIVED_BYTES = Counter("zeroq_weights_received_bytes", "Weights received.", ["way"], registry=REGISTRY)

for _way in ("broadcast", "pull"):
    UPDATES.labels(_way)
    RECEIVED_BYTES.labels(_way)
for _stage in ("transfer", "digest", "load", "pull"):
    UPDATE_FAILURES.labels(_stage)

"""Prometheus metrics and probes: one registry and one exporter per process.

Names start with `zeroq_`, use base units, and carry no ids in labels. Rooms create their metrics on `REGISTRY` at
module level; `common.cli` starts the exporter:

    /metrics   Prometheus's text format (or OpenMetrics, if asked for)
    /livez     200 while the process's loops get on, else 503 and the one that is stuck     (common/health.py)
    /readyz    200 while the process can be used, else 503 and why not
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from common.health import Health
from common.pages import Page, PageServer

disable_created_metrics()  # a second series for each counter and histogram, which nothing here reads
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

READY = Gauge("zeroq_process_ready", "Whether the process can be used (what /readyz says)", registry=REGISTRY)
SECONDS_SINCE_PROGRESS = Gauge(
    "zeroq_process_seconds_since_progress",
    "Seconds since the slowest loop of the process got on (what /livez judges by)",
    registry=REGISTRY,
)


def start_exporter(host: str = "127.0.0.1", port: int = 0, health: Health | None = None) -> PageServer:
    """Serve metrics and probes until the process ends; its `port` is the one that was bound (0 asks for a free one).

    UserError when the address cannot be bound.
    """
    health = health or Health()
    export_health(health)

    def answer(path: str, headers: Mapping[str, str]) -> Page | None:
        match path:
            case "/metrics":
                return metrics_page(headers)
            case "/livez":
                return probe_page(health.why_not_alive(), health.doing() or "starting")
            case "/readyz":
                return probe_page(health.why_not_ready(), "ready")
        return None

    return PageServer(host, port, answer)


def export_health(health: Health) -> None:
    """The gauges of every process are about this one's `health`."""
    READY.set_function(lambda: float(health.why_not_ready() is None))
    SECONDS_SINCE_PROGRESS.set_function(health.seconds_since_progress)


def metrics_page(headers: Mapping[str, str]) -> Page:
    """All metrics of this process, in the format that the request asks for."""
    encode, content_type = choose_encoder(headers.get("Accept", ""))
    return Page(encode(REGISTRY), content_type=content_type)


def probe_page(objection: str | None, fine: str) -> Page:
    """200 with what is `fine`, or 503 with the objection; one line either way."""
    if objection is None:
        return Page(f"ok: {fine}\n".encode())
    return Page(f"{objection}\n".encode(), status=503)

"""Prometheus metrics: one registry and one exporter per process, on a free port.

Names start with `zeroq_`, use base units, and carry no ids in labels. Rooms create their metrics on `REGISTRY` at
module level and call `start_exporter` once in `__main__`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)


def start_exporter(host: str = "127.0.0.1", port: int = 0) -> int:
    """Serve `/metrics`; returns the port that was bound (0 asks for a free one)."""
    server, _thread = start_http_server(port, addr=host, registry=REGISTRY)
    return int(server.server_port)

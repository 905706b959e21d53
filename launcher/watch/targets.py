"""Owns where the metrics of a run's processes are served, as the processes wrote it to DIR/processes/NAME.json."""

from __future__ import annotations

import json
from dataclasses import dataclass

from common.lifecycle import RunPaths

JOB = "zeroq"
_COMPONENTS = {"launcher": "autoscaler"}  # what the launcher exports is its autoscaler's


@dataclass(frozen=True)
class ScrapeTarget:
    """One exporter. `labels`: those that its samples carry beside their own."""

    name: str
    role: str
    address: str

    @property
    def labels(self) -> dict[str, str]:
        """The same labels that Prometheus gives to the pods of a cluster (docs/monitoring.md)."""
        return {"job": JOB, "instance": self.name, "component": _COMPONENTS.get(self.role, self.role)}


def find_targets(paths: RunPaths) -> list[ScrapeTarget]:
    """Processes that have an exporter, by name. A record that is being replaced is read the next time."""
    found = []
    for path in sorted(paths.processes.glob("[!.]*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            port, host = record["metrics_port"], str(record.get("metrics_host") or "127.0.0.1")
            name, role = str(record["name"]), str(record["role"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if port:
            reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            found.append(
                ScrapeTarget(name, role, f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}")
            )
    return found

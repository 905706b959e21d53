"""Prints what one room exports: a line of JSON, then a scrape. `python -m tests.unit.exported_metrics ROOM`.

A process of its own, because a room's metrics are there once its modules are imported.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from common.config import RunConfig
from common.metrics import REGISTRY

MODULES = {
    "broker": ["broker.metrics"],
    "actor": ["actor.metrics", "actor.weights.metrics"],
    "evaluator": ["evaluator.metrics"],
    "learner": ["learner.metrics", "learner.weights.metrics", "learner.weights.control"],
    "autoscaler": ["launcher.autoscaler.metrics"],
}
"""Where each room makes its metrics, besides common.metrics."""


def main(room: str) -> None:
    for module in MODULES[room]:
        importlib.import_module(module)
    if room == "broker":
        _serve_once()
    parsed = text_string_to_metric_families(exposition.generate_latest(REGISTRY).decode())  # what Prometheus asks for
    assert {family.name for family in parsed} == {family.name for family in REGISTRY.collect()}
    print(json.dumps(list(_families())))
    print(generate_latest(REGISTRY).decode(), end="")


def _serve_once() -> None:
    """The broker's collector speaks only once its loop has gone round."""
    from broker.server import Server

    config = RunConfig.model_validate({"model": "tiny", "data": {"train": "unused"}})
    with Server(config) as server:
        server.collector.refresh(server.state, 1.0, refused=0, undeliverable=0, auth_failures=server.auth_failures)
        REGISTRY.register(server.collector)


def _families() -> Iterable[dict[str, Any]]:
    declared = {
        collector._name: list(collector._labelnames)
        for collector in REGISTRY._collector_to_names
        if isinstance(collector, MetricWrapperBase)
    }
    for family in REGISTRY.collect():
        if not family.name.startswith("zeroq_"):
            continue
        labels = {name: set[str]() for name in declared.get(family.name, [])}
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name != "le":
                    labels.setdefault(name, set()).add(value)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield {
            "name": name,
            "type": family.type,
            "help": family.documentation,
            "labels": {label: sorted(values) for label, values in labels.items()},
        }


if __name__ == "__main__":
    main(sys.argv[1])

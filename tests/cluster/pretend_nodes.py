"""Nodes without kubelets: every pod that the scheduler places on one runs and is ready, as far as anybody can see.

For what controllers, quotas, scheduler and disruption budgets make of manifests that want GPUs and many machines. No
container runs; tests/cluster/node.py is for that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import count
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

_ROUND_S = 0.5
_BEAT_EVERY = 10  # rounds; the controller manager gives a node 40 s


class PretendNodes:
    """`nodes`: capacity by name, such as {"gpu-0": {"cpu": "128", "nvidia.com/gpu": "8"}}; a context manager."""

    def __init__(self, core: client.CoreV1Api, nodes: dict[str, dict[str, str]], labels: dict[str, str]) -> None:
        self._core, self._nodes, self._labels = core, nodes, labels
        self._address = count(1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> PretendNodes:
        for name in self._nodes:
            labels = {"kubernetes.io/hostname": name, **self._labels}
            self._core.create_node({"metadata": {"name": name, "labels": labels}})
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        for number in count():
            try:
                if number % _BEAT_EVERY == 0:
                    self._beat()
                self._run_pods(self._core.list_pod_for_all_namespaces().items)
            except (ApiException, HTTPError):
                pass  # somebody was quicker, or the server is going; the next round sees
            if self._ended.wait(_ROUND_S):
                return

    def _beat(self) -> None:
        now = datetime.now(UTC).isoformat()
        ready = {"type": "Ready", "status": "True", "reason": "Pretended", "lastHeartbeatTime": now}
        for name, capacity in self._nodes.items():
            status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
            self._core.patch_node_status(name, {"status": status})

    def _run_pods(self, pods: Iterable[Any]) -> None:
        for pod in pods:
            name, namespace = pod.metadata.name, pod.metadata.namespace
            if pod.spec.node_name not in self._nodes:
                continue
            if pod.metadata.deletion_timestamp is not None:
                self._core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
            elif pod.status.phase == "Pending":
                self._core.patch_namespaced_pod_status(name, namespace, {"status": self._running(pod)})

    def _running(self, pod: Any) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        started = {"running": {"startedAt": now}}
        containers = [
            {"name": c.name, "image": c.image, "imageID": "", "ready": True, "restartCount": 0, "state": started}
            for c in pod.spec.containers
        ]
        return {
            "phase": "Running",
            "podIP": f"10.244.{next(self._address) // 250}.{next(self._address) % 250 + 1}",
            "startTime": now,
            "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "Initialized")],
            "containerStatuses": containers,
        }

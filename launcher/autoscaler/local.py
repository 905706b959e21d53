"""The pool of a local run: the launcher's own processes, and the autoscaler that `zeroq run` steps in its loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from common.config import RunConfig
from common.lifecycle import RunPaths, record_event
from common.metrics import start_exporter
from launcher.autoscaler import metrics
from launcher.autoscaler.damper import Decision
from launcher.autoscaler.policy import ScaleRole
from launcher.autoscaler.pool import Fleet
from launcher.autoscaler.scaler import Autoscaler
from launcher.monitor import RunMonitor
from launcher.pool import Pool
from launcher.processes import ProcessSpec, evaluator_spec

SpecMaker = Callable[[int], ProcessSpec]
"""How to start process number N of a role."""


class LocalPool:
    """ReplicaPool over the processes of a `launcher.pool.Pool`. Main thread only, because processes are started."""

    def __init__(self, pool: Pool, makers: dict[ScaleRole, SpecMaker]) -> None:
        self._pool, self._makers = pool, makers

    def fleet(self, role: ScaleRole) -> Fleet:
        """Those that were not asked to leave, lowest index first."""
        staying = {
            _index(name): child
            for name, child in self._pool.children.items()
            if child.spec.role == role and child.leave_by is None
        }
        ready = sum(child.running for child in staying.values())
        return Fleet(len(staying), ready, tuple(staying[index].spec.name for index in sorted(staying)))

    def scale(self, role: ScaleRole, count: int, leaving: Sequence[str]) -> None:
        """Start processes at free indices, or ask those named (and if they are too few, the last ones) to leave."""
        there = [name for name, child in self._pool.children.items() if child.spec.role == role]
        staying = list(self.fleet(role).members)
        for name in [*(n for n in leaving if n in staying), *(n for n in reversed(staying) if n not in leaving)]:
            if len(staying) <= count:
                break
            self._pool.remove(name)
            staying.remove(name)
        taken = {_index(name) for name in there}
        free = (index for index in range(len(taken) + count) if index not in taken)
        for _ in range(count - len(staying)):
            self._pool.add(self._makers[role](next(free)))


class RunScaler:
    """Steps an autoscaler over the evaluators of a local run. Actors are bound to this machine's devices: they stay as
    many as `actor.replicas` and `zeroq scale` say."""

    def __init__(self, config: RunConfig, paths: RunPaths, pool: Pool, monitor: RunMonitor) -> None:
        self._paths = paths
        self._autoscaler: Autoscaler | None = None
        self._looked_at: dict[str, Any] | None = None
        if config.autoscaler.enabled:
            metrics.LEADER.set(1)
            local = LocalPool(pool, {"evaluator": lambda index: evaluator_spec(config, paths, index)})
            self._autoscaler = Autoscaler(
                config,
                local,
                monitor.drain,
                roles=("evaluator",),
                dry_run=config.autoscaler.dry_run,
                tell=self._tell,
            )

    def step(self, now: float, monitor: RunMonitor) -> None:
        """Do what is to be done, with the broker's status if it is a new one; `now`: monotonic seconds."""
        if self._autoscaler is not None:
            status = monitor.view.status
            self._autoscaler.step(now, None if status is self._looked_at else status)
            self._looked_at = status

    def _tell(self, decision: Decision, done: bool) -> None:
        fields = {"role": decision.role, "before": decision.before, "after": decision.after, "reason": decision.reason}
        record_event(self._paths, "autoscaled" if done else "autoscaling", **fields, detail=decision.detail)


def export_autoscaler(config: RunConfig, stack: ExitStack) -> int | None:
    """Serve the autoscaler's metrics from the launcher until `stack` closes; the port, None where it has none."""
    if not config.autoscaler.enabled:
        return None
    server = start_exporter(config.metrics.host)
    stack.callback(server.close)
    return server.port


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])

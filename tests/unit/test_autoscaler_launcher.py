"""The autoscaler inside `zeroq run`: its pool of processes, its metrics, and that the launcher steps it."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.lifecycle import RunPaths, StopFlag
from launcher.autoscaler.local import LocalPool, RunScaler, export_autoscaler
from launcher.processes import ProcessSpec
from launcher.run import watch
from tests.unit.autoscaler_inputs import make_config, status


class FakePool:
    """Remembers who was added and removed; processes leave when `let_go` says so."""

    def __init__(self, *names: str) -> None:
        self.children: dict[str, Any] = {}
        for name in names:
            self.add(ProcessSpec(name, name.split("-")[0], ()))  # type: ignore[arg-type]

    def add(self, spec: ProcessSpec) -> None:
        assert spec.name not in self.children
        self.children[spec.name] = SimpleNamespace(spec=spec, leave_by=None, running=True)

    def remove(self, name: str) -> None:
        self.children[name].leave_by = 1.0

    def let_go(self) -> None:
        self.children = {name: child for name, child in self.children.items() if child.leave_by is None}

    def poll(self) -> bool:
        return False


def local(pool: FakePool) -> LocalPool:
    return LocalPool(pool, {"evaluator": lambda index: ProcessSpec(f"evaluator-{index}", "evaluator", ())})  # type: ignore[arg-type]


def test_fleet_and_scale() -> None:
    pool = FakePool("broker", "evaluator-0", "actor-0")
    replicas = local(pool)
    replicas.scale("evaluator", 3, [])
    assert replicas.fleet("evaluator").members == ("evaluator-0", "evaluator-1", "evaluator-2")
    replicas.scale("evaluator", 2, ["evaluator-0"])
    assert replicas.fleet("evaluator").members == ("evaluator-1", "evaluator-2")
    replicas.scale("evaluator", 3, [])  # who is still leaving keeps its name until it has left
    assert replicas.fleet("evaluator").members == ("evaluator-1", "evaluator-2", "evaluator-3")
    pool.let_go()
    replicas.scale("evaluator", 4, [])
    assert "evaluator-0" in replicas.fleet("evaluator").members
    replicas.scale("evaluator", 1, [])  # nobody was named: the last ones go
    assert replicas.fleet("evaluator").members == ("evaluator-0",)
    assert "actor-0" in pool.children


def test_a_process_that_waits_for_its_restart_is_not_at_work() -> None:
    pool = FakePool("evaluator-0", "evaluator-1")
    pool.children["evaluator-1"].running = False
    fleet = local(pool).fleet("evaluator")
    assert (fleet.wanted, fleet.ready) == (2, 1)


class Monitor:
    """A RunMonitor whose status is made up; a new one each time it is asked."""

    def __init__(self, **report: Any) -> None:
        self.report = report
        self.view = SimpleNamespace(status=None)
        self.drained: list[list[str]] = []

    def poll(self) -> Any:
        self.view.status = status(**self.report)
        return self.view

    def drain(self, role: str, names: list[str], for_s: float) -> None:
        self.drained.append(names)


def scaler(tmp_path: Path, pool: FakePool, monitor: Monitor, **section: Any) -> RunScaler:
    quick = {"max": 4, "scale_up_after_s": 0.0, "scale_down_after_s": 0.0}
    config = make_config(**{"every_s": 0.001, "evaluators": quick, **section})
    return RunScaler(config, RunPaths(tmp_path), pool, monitor)  # type: ignore[arg-type]


def test_the_launchers_loop_steps_it(tmp_path: Path) -> None:
    pool, stop = FakePool("broker", "evaluator-0"), StopFlag()
    monitor = Monitor(queues__grade=1000, service__grade__running_s=4.0)
    display = SimpleNamespace(update=lambda view: stop.set() if len(pool.children) > 2 else None)
    scale = SimpleNamespace(apply=lambda pool: None)
    assert not watch(pool, monitor, display, scale, stop, None, scaler(tmp_path, pool, monitor, enabled=True))  # type: ignore[arg-type]
    assert sorted(pool.children) == ["broker", *(f"evaluator-{i}" for i in range(4))]
    assert '"event": "autoscaled"' in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("section", [{"enabled": False}, {"enabled": True, "dry_run": True}])
def test_without_permission_nothing_changes(tmp_path: Path, section: dict[str, Any]) -> None:
    pool, monitor = FakePool("evaluator-0"), Monitor(queues__grade=1000, service__grade__running_s=4.0)
    made = scaler(tmp_path, pool, monitor, **section)
    for at in range(5):
        monitor.poll()
        made.step(float(at), monitor)  # type: ignore[arg-type]
    assert list(pool.children) == ["evaluator-0"]


def test_one_status_is_looked_at_once(tmp_path: Path) -> None:
    """An old report taken for a new one would say that nothing comes in any more."""
    pool, monitor = FakePool("evaluator-0", "evaluator-1"), Monitor(service__grade__leases=1)
    made = scaler(tmp_path, pool, monitor, enabled=True)
    monitor.poll()
    made.step(0.0, monitor)  # type: ignore[arg-type]
    assert monitor.drained == [["evaluator-1"]]
    made.step(1.0, monitor)  # type: ignore[arg-type]
    assert pool.children["evaluator-1"].leave_by is None  # that report is from before the drain
    monitor.poll()
    made.step(2.0, monitor)  # type: ignore[arg-type]
    assert pool.children["evaluator-1"].leave_by is not None


def test_metrics_are_served_while_it_is_enabled() -> None:
    with ExitStack() as stack:
        assert export_autoscaler(make_config(), stack) is None
        port = export_autoscaler(make_config(enabled=True), stack)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            assert "zeroq_autoscaler_leader" in page.read().decode()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)

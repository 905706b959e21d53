"""The actor's state, and what it exports of vLLM's scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from actor import metrics
from actor.vitals import Vitals
from common.health import Health
from common.metrics import REGISTRY
from tests.learner_rig import make_config


def value(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(f"zeroq_actor_{name}", labels)
    assert found is not None, name
    return found


def states() -> dict[str, float]:
    return {name: value("state", state=name) for name in ("starting", "joining", "current", "stale", "draining")}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "_state", "starting")
    yield
    monkeypatch.undo()
    metrics.enter(metrics._state)


def test_one_state_at_a_time_and_no_way_back_from_draining() -> None:
    metrics.enter("current")
    assert states() == {"starting": 0, "joining": 0, "current": 1, "stale": 0, "draining": 0}
    metrics.enter("draining")
    metrics.enter("current")
    assert states() == {"starting": 0, "joining": 0, "current": 0, "stale": 0, "draining": 1}


@pytest.mark.parametrize(
    ("version", "refused", "state"), [(None, None, "joining"), (3, None, "current"), (3, 2, "current"), (3, 3, "stale")]
)
def test_a_look_at_the_weights_sets_the_state(version: int | None, refused: int | None, state: str) -> None:
    engine = SimpleNamespace(num_running=0, tokens_generated=0)
    worker = SimpleNamespace(refused_version=refused)
    Vitals(Health(), make_config("m"), engine, SimpleNamespace(version=version), worker, lambda: None).look()
    assert states()[state] == 1
    assert sum(states().values()) == 1


def scheduler(running: int, waiting: int, usage: float, **cache: int) -> Any:
    found = {"requests": 0, "queries": 0, "hits": 0, "preempted_requests": 0} | cache
    return SimpleNamespace(
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=1,
        kv_cache_usage=usage,
        prefix_cache_stats=SimpleNamespace(**found),
    )


def test_figures_of_the_engine() -> None:
    counters = ("prefix_cache_queries_total", "prefix_cache_hits_total", "preemptions_total")
    before = [value(f"engine_{name}") for name in counters]
    metrics.observe_engine(scheduler(3, 4, 0.5, requests=2, queries=20, hits=12))
    metrics.observe_engine(scheduler(5, 0, 0.75, preempted_requests=1))
    metrics.observe_engine(None)  # a step without figures leaves them as they are
    assert [value(f"engine_rollouts_{name}") for name in ("running", "waiting")] == [5, 1]
    assert value("engine_kv_cache_usage_ratio") == 0.75
    after = [value(f"engine_{name}") for name in counters]
    assert [b - a for a, b in zip(before, after, strict=True)] == [20, 12, 1]
    metrics.engine_is_idle()  # after an abort no step comes that would say so
    assert [value(f"engine_{name}") for name in ("rollouts_running", "rollouts_waiting", "kv_cache_usage_ratio")] == [
        0
    ] * 3

"""Changing the number of actors: what may be asked, of which run, and who comes and goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import UserError
from common.lifecycle import RunPaths
from launcher.machine import Machine, place
from launcher.processes import ProcessSpec
from launcher.run_directory import locked
from launcher.scale import ActorScale, request_scale, wanted
from tests.unit.launcher_inputs import make_config


class FakePool:
    """Remembers who was added and removed."""

    def __init__(self, *names: str) -> None:
        self.children: dict[str, Any] = {}
        for name in names:
            self.children[name] = SimpleNamespace(spec=SimpleNamespace(role=name.split("-")[0]), leave_by=None)

    def add(self, spec: ProcessSpec) -> None:
        assert spec.name not in self.children
        self.children[spec.name] = SimpleNamespace(spec=spec, leave_by=None)

    def remove(self, name: str) -> None:
        self.children[name].leave_by = 1.0

    def staying(self) -> list[str]:
        return sorted(n for n, c in self.children.items() if c.spec.role == "actor" and c.leave_by is None)


@pytest.fixture
def scale(tmp_path: Path) -> ActorScale:
    config = make_config(tmp_path)
    return ActorScale(config, RunPaths(tmp_path), place(config, Machine((0, 1), ())))


def test_actors_are_added_at_free_indices_and_dismissed_from_the_end(scale: ActorScale) -> None:
    pool: Any = FakePool("broker", "actor-0", "learner")
    scale.set_actors(pool, 3)
    assert pool.staying() == ["actor-0", "actor-1", "actor-2"]
    scale.set_actors(pool, 1)
    assert pool.staying() == ["actor-0"]
    scale.set_actors(pool, 2)  # those that are leaving keep their names until they have left
    assert pool.staying() == ["actor-0", "actor-3"]


def test_a_request_is_met_once(scale: ActorScale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.scale._LOOK_EVERY_S", 0.0)
    pool: Any = FakePool("actor-0")
    scale.apply(pool)
    paths = RunPaths(tmp_path)
    with locked(paths):
        assert request_scale(paths, "actors=2") == 2
    scale.apply(pool)
    assert pool.staying() == ["actor-0", "actor-1"]
    pool.remove("actor-1")
    scale.apply(pool)
    assert pool.staying() == ["actor-0"]


@pytest.mark.parametrize("request_text", ["actors", "actors=0", "actors=65", "actors=-1", "learners=2", "actors=two"])
def test_bad_requests_are_refused(tmp_path: Path, request_text: str) -> None:
    with pytest.raises(UserError, match="expected actors=N"):
        request_scale(RunPaths(tmp_path), request_text)


def test_a_run_that_has_ended_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is going on"):
        request_scale(RunPaths(tmp_path), "actors=2")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"actors": "2"}', '{"actors": 0}'])
def test_a_spoilt_file_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"scale\.json"):
        wanted(text)

"""Owns changing the number of actors while a run goes on.

`zeroq scale RUN_DIR actors=N` writes DIR/scale.json, which the launcher looks at. A file, because the launcher listens
on no socket.
"""

from __future__ import annotations

import json
import time
from typing import Any

from common.config import RunConfig
from common.errors import UserError
from common.lifecycle import RunPaths, record_event, write_atomic
from launcher.machine import Placement
from launcher.pool import Pool
from launcher.processes import actor_spec
from launcher.run_directory import is_running

MAX_ACTORS = 64
_LOOK_EVERY_S = 1.0


def request_scale(paths: RunPaths, request: str) -> int:
    """Ask a run's launcher for another number of actors; UserError for a bad request or a run that has ended."""
    key, _, value = request.partition("=")
    if key != "actors" or not value.isdigit() or not 1 <= int(value) <= MAX_ACTORS:
        raise UserError(f"{request!r}: expected actors=N with N from 1 to {MAX_ACTORS}")
    if not is_running(paths):
        raise UserError(f"{paths.root}: no run is going on there; set actor.replicas when you start it")
    write_atomic(paths.root / "scale.json", json.dumps({"actors": int(value)}))
    return int(value)


class ActorScale:
    """Applies requests to the pool."""

    def __init__(self, config: RunConfig, paths: RunPaths, placement: Placement) -> None:
        self._config, self._paths, self._placement = config, paths, placement
        self._looked_at = float("-inf")
        self._applied: str | None = None

    def apply(self, pool: Pool) -> None:
        """Look for a new request, at most once a second, and start or dismiss actors to meet it."""
        if time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        try:
            text = (self._paths.root / "scale.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        if text == self._applied:
            return
        self._applied = text
        self.set_actors(pool, wanted(text))

    def set_actors(self, pool: Pool, count: int) -> None:
        """Start actors at free indices, or ask those with the highest indices to leave, until `count` are there."""
        indices = {
            int(name.removeprefix("actor-")): child
            for name, child in pool.children.items()
            if child.spec.role == "actor"
        }
        staying = sorted(i for i, child in indices.items() if child.leave_by is None)
        record_event(self._paths, "actors_scaled", before=len(staying), after=count)
        for index in staying[count:]:
            pool.remove(f"actor-{index}")
        free = (i for i in range(len(indices) + count) if i not in indices)
        for _ in range(count - len(staying)):
            pool.add(actor_spec(self._config, self._paths, self._placement, next(free)))


def wanted(text: str) -> int:
    """The number of actors that scale.json asks for; UserError when it is not what `zeroq scale` writes."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = None
    actors = value.get("actors") if isinstance(value, dict) else None
    if not isinstance(actors, int) or not 1 <= actors <= MAX_ACTORS:
        raise UserError(f'scale.json: expected {{"actors": N}}, found {text[:60]!r}')
    return actors

"""Keys for tests that take part in a run as one of its processes."""

from __future__ import annotations

from typing import Any

from common.client import BrokerClient
from common.config import load_config
from common.keys import KeyRole, Keys
from common.lifecycle import RunPaths, wait_for_endpoint
from common.messages import Role


def run_keys(paths: RunPaths, role: KeyRole) -> Keys | None:
    """The keys of `role` in the run of `paths`, as its configuration says."""
    return Keys.for_process(load_config(paths.config), paths, role)


def connect(paths: RunPaths, role: Role, name: str, **options: Any) -> BrokerClient:
    """A client of the run's broker, as a process of that role has it."""
    return BrokerClient(wait_for_endpoint(paths, role), role, name, keys=run_keys(paths, role), **options)

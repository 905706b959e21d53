"""Owns `--check`: what one process of a run can verify of its configuration and surroundings without starting.

Opens no port, contacts nobody, writes nothing. Names are not looked up, because they may not exist yet: the image is
built, and its command line is checked, before the cluster that resolves them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path

from common.config import CommonConfig, RunConfig
from common.errors import UserError
from common.keys import KEY_ROLES, check_keys
from common.lifecycle import RunPaths

_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_MAX_NAME = 253


def check_process(config: CommonConfig, paths: RunPaths, role: str) -> None:
    """What holds for all processes of a role; UserError (one line) for the first thing that does not."""
    check_writable(paths.root, "--run-dir")
    if not isinstance(config, RunConfig):
        return
    check_local_address(config.metrics.host, "metrics.host")
    if config.broker.address is not None:
        check_address(config.broker.address, "broker.address")
    if role == "broker":
        check_local_address(config.broker.host, "broker.host")
        check_ports_differ(config)
    if role == "learner":
        check_local_address(config.weights.host, "weights.host")
        if config.weights.address is not None:
            check_address(config.weights.address, "weights.address")
        elif config.weights.host in ("0.0.0.0", "::", "*"):
            raise UserError(
                f"weights.host={config.weights.host}: actors cannot reach the learner by that; set weights.address"
            )
    for known in KEY_ROLES:
        if known == role:
            check_keys(config, known)


def check_writable(folder: Path, key: str) -> None:
    """`folder` exists and can be written to, or can be made."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"{key}={folder}: {existing} is no directory; name another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{key}={folder}: user {os.getuid()} may not write to {existing}; mount a writable volume")


def check_address(address: str, key: str) -> None:
    """An IP address, or what a host name looks like."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if len(address) > _MAX_NAME or _NAME.fullmatch(address) is None or re.fullmatch(r"[\d.]+", address):
            raise UserError(f"{key}={address}: neither a host name nor an IP address (without port)") from None


def check_local_address(host: str, key: str) -> None:
    """An address of this machine, to which a socket can be bound (a free port is tried)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(("" if host == "*" else host, 0))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{key}={host}: cannot bind there ({reason}); name an address of this machine") from None


def check_ports_differ(config: RunConfig) -> None:
    """No port is named twice among those that one machine's broker binds."""
    taken: dict[int, str] = {}
    named = {f"broker.ports.{role}": port for role, port in config.broker.ports.items()}
    for key, port in {**named, "metrics.port": config.metrics.port}.items():
        if port and port in taken:
            raise UserError(f"{key}={port} is also {taken[port]}; each needs a port of its own")
        taken[port] = key

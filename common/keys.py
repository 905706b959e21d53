"""Key files of the wire: which process holds which CURVE keys, and what is wrong with them. Files only, no sockets.

    DIR/ROLE.public     40 characters of Z85 and a newline
    DIR/ROLE.secret     the same, mode 0600 (in a volume of Kubernetes the pod's group may read it, too)

There is one pair per role, not per process: what a process may do depends on its role alone. A process holds its own
secret, the public keys of the servers that it dials, and, if it is a server itself, of those whom it lets in. Whoever
can read a secret can act in its role; nothing else about a process is trusted.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import zmq
from zmq.utils import z85

from common.config import RunConfig
from common.errors import UserError
from common.lifecycle import RunPaths

log = logging.getLogger(__name__)

KeyRole = Literal["broker", "learner", "actor", "evaluator", "monitor"]
KEY_ROLES: tuple[KeyRole, ...] = get_args(KeyRole)

DIALS: dict[KeyRole, tuple[KeyRole, ...]] = {
    "broker": (),
    "learner": ("broker",),
    "actor": ("broker", "learner"),
    "evaluator": ("broker",),
    "monitor": ("broker",),
}
"""The servers that each role connects to."""

LETS_IN: dict[KeyRole, tuple[KeyRole, ...]] = {
    "broker": ("learner", "actor", "evaluator", "monitor"),
    "learner": ("actor",),
    "actor": (),
    "evaluator": (),
    "monitor": (),
}
"""Whose connections each role accepts: the edges of the river, seen from the other end."""


@dataclass(frozen=True)
class Keys:
    """What one process needs to know: its own pair and the public keys of its peers, as Z85."""

    role: KeyRole
    folder: Path
    public: bytes
    secret: bytes = field(repr=False)
    peers: Mapping[KeyRole, bytes]

    @classmethod
    def for_process(cls, config: RunConfig, paths: RunPaths, role: KeyRole) -> Keys | None:
        """The keys with which `role` takes part in a run; None with `security.mode: off`, of which the log warns once
        where others than this machine's processes can be at the other end.

        Without `security.keys` all processes of the run share RUN_DIR/keys, which the first of them makes. UserError
        for a folder that will not do.
        """
        if config.security.mode == "off":
            warn_of_plaintext(_addresses(config, role))
            return None
        folder = _named_folder(config)
        if folder is not None:
            return cls.load(folder, role)
        folder = paths.root / "keys"
        if not folder.is_dir():
            make_keys(folder, exist_ok=True)
        return cls.load(folder, role)

    @classmethod
    def load(cls, folder: Path, role: KeyRole) -> Keys:
        """Read and check what `role` needs of `folder`. UserError names file, fault and remedy."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of keys; make one with: zeroq keygen {folder}")
        secret = _read(folder, f"{role}.secret", role)
        public = zmq.curve_public(secret)
        if (folder / f"{role}.public").exists() and _read(folder, f"{role}.public", role) != public:
            raise UserError(
                f"{folder / role}.public: does not belong to {role}.secret beside it; copy both from one zeroq keygen"
            )
        peers = {peer: _read(folder, f"{peer}.public", role) for peer in (*DIALS[role], *LETS_IN[role])}
        owners = {public: role}
        for peer, key in peers.items():
            other = owners.setdefault(key, peer)
            if other != peer:
                raise UserError(
                    f"{folder / peer}.public: is the key of the {other}, too, so that nobody could tell the two apart; "
                    "make keys anew with zeroq keygen"
                )
        return cls(role, folder, public, secret, peers)


def warn_of_plaintext(addresses: Mapping[str, str | None]) -> None:
    """One line in the log for those that are not this machine's own; `addresses` are hosts by the option that names
    them."""
    public = [f"{option}={host}" for option, host in addresses.items() if host is not None and not _is_loopback(host)]
    if public:
        _warn_once(
            f"security.mode is off: without keys and in plaintext at {', '.join(public)}, where whoever reaches the "
            "sockets reads prompts, answers and weights and is believed to have their role; set security.mode=curve "
            "(zeroq keygen; docs/security.md)"
        )


@functools.cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)


def _addresses(config: RunConfig, role: KeyRole) -> dict[str, str | None]:
    """Where `role` listens and where it dials, by the options that say so."""
    broker, weights = config.broker, config.weights
    if role == "broker":
        return {"broker.host": broker.host}
    dials: dict[str, str | None] = {"broker.address": broker.address}
    if broker.address is None and broker.host not in ("0.0.0.0", "*"):  # those are dialled by 127.0.0.1
        dials = {"broker.host": broker.host}
    if role == "learner":
        dials["weights.host"] = weights.host
    elif role == "actor":
        dials["weights.host" if weights.address is None else "weights.address"] = weights.address or weights.host
    return dials


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or *
        return host == "localhost"


def check_keys(config: RunConfig, role: KeyRole) -> None:
    """UserError if the configured keys will not do for `role`. Makes none, and needs no run directory."""
    if config.security.mode != "off" and (folder := _named_folder(config)) is not None:
        Keys.load(folder, role)


def _named_folder(config: RunConfig) -> Path | None:
    """`security.keys`; None when the run makes its own. UserError when it cannot, for want of a common directory."""
    if config.security.keys is not None:
        return Path(config.security.keys).expanduser()
    if config.broker.address is not None:
        raise UserError(
            "security.keys: name the folder with this process's keys (made by: zeroq keygen); with broker.address "
            "there are processes on other machines, which cannot find keys made here"
        )
    return None


def files_of(role: KeyRole) -> tuple[str, ...]:
    """Names of the files that a process of `role` needs, and no others."""
    return (f"{role}.secret", *(f"{peer}.public" for peer in (*DIALS[role], *LETS_IN[role])))


def generate() -> dict[str, bytes]:
    """A fresh pair for every role: contents by file name."""
    files: dict[str, bytes] = {}
    for role in KEY_ROLES:
        public, secret = zmq.curve_keypair()
        files |= {f"{role}.public": public + b"\n", f"{role}.secret": secret + b"\n"}
    return files


def make_keys(folder: Path, *, exist_ok: bool = False) -> None:
    """Make `folder` (mode 0700) with a fresh pair for every role (mode 0600): complete, or not at all.

    UserError when it cannot be written, or holds anything already; with `exist_ok` the latter is fine, and the folder
    is left as it is: several processes may do this at once.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}; name a folder you may write") from None
    try:
        for name, content in generate().items():
            descriptor = os.open(unfinished / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if folder.is_dir() and exist_ok:
            return
        fault = "exists; name one that does not, or remove it" if folder.exists() else f"{error.strerror or error}"
        raise UserError(f"{folder}: {fault}") from None


def _read(folder: Path, name: str, role: KeyRole) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(64)
    except FileNotFoundError:
        needs = ", ".join(files_of(role))
        raise UserError(f"{path}: missing; the {role} needs {needs}, all made by one zeroq keygen") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path}: mode {mode:04o}: others can write it; chmod go-w {path}")
    if name.endswith(".secret") and mode & stat.S_IROTH:
        raise UserError(f"{path}: mode {mode:04o}: everybody on this machine can read it; chmod 600 {path}")
    key = content.removesuffix(b"\n")
    if len(key) != 40 or not _is_z85(key):
        raise UserError(f"{path}: is no key (40 characters of Z85); make keys anew with zeroq keygen")
    return key


def _is_z85(text: bytes) -> bool:
    """libzmq's own decoder takes a NUL for the end of the text, and what is in memory for the rest of the key."""
    try:
        return bool(z85.encode(z85.decode(text)) == text)
    except (KeyError, ValueError, struct.error):
        return False

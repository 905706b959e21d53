"""CURVE on sockets: how a client dials a server by its key, and how a server lets in the keys of one role alone.

    client   Dialler.attach(socket) ── connect ── refused() / suspicion      why the other side does not let us in
    server   Gate.guard(socket, name, role) ── bind ── serve() in the loop   who may come in (ZAP, RFC 27), who may not

Facts of libzmq 4.3.5 behind this (each shown by a test):
- Without ZAP_ENFORCE_DOMAIN a CURVE server whose ZAP handler is absent lets everybody in who knows its public key.
- A client that is refused (unknown key, other mechanism) never tries again, without an error, and its next send waits
  for ever; one that has the wrong public key of the server tries for ever. Only the socket's monitor tells.
- A monitor blocks the I/O thread when nobody reads it: its queue is unbounded, and it is stopped before its reader.
- What does not speak ZeroMQ at all (HTTP, noise) is dropped without an event, so it cannot be counted.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable
from typing import Any, Literal, get_args

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from common.keys import KeyRole, Keys
from common.seldom import Seldom

log = logging.getLogger(__name__)

Cause = Literal["wrong_key", "no_key", "plaintext", "wrong_role"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why a server does not let a peer in.

wrong_key    a key that is nobody's, or the peer holds another public key than the server's own
wrong_role   a key of ours, of a role that has no business on this socket
plaintext    another mechanism than CURVE
no_key       the connection ended in the handshake, before any key was shown
"""

_ZAP = "inproc://zeromq.zap.01"
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_USER_ID = "User-Id"
_MAX_ANSWERS = 256
_SUSPICIOUS = 3
"""A server that dies breaks off a handshake or two; so many in a row mean that the keys do not fit."""

Refused = Callable[[str, Cause], None]
"""Told of each refusal: (name of the socket, cause)."""


class Dialler:
    """The client's side, for one server: sets the keys on sockets, and says what their handshakes said.

    `keys` None means plaintext. One socket at a time, in that socket's thread: `attach` before it connects, `detach`
    before it is closed.
    """

    def __init__(self, endpoint: str, server: KeyRole, keys: Keys | None, *, client: str) -> None:
        self._endpoint, self._server, self._keys, self._client = endpoint, server, keys, client
        self._events: _Events | None = None
        self._broken_off = 0

    def attach(self, socket: zmq.Socket[Any]) -> None:
        """Prepare a socket that has not connected yet. Sending never waits from then on: zmq.Again means refused."""
        socket.setsockopt(zmq.SNDTIMEO, 0)
        if self._keys is not None:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._keys.peers[self._server])
        self._events = _Events(socket, _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def detach(self) -> None:
        """Let go of the socket."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def refused(self) -> str | None:
        """One line if the server has said no on this socket, which is of no use any more then; never waits."""
        refusal: str | None = None
        for event, value in self._events.take() if self._events is not None else []:
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._broken_off, refusal = 0, None
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                refusal = self._not_let_in()
            elif value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                refusal = self._other_mode()
            else:
                self._broken_off += 1
        return refusal

    @property
    def suspicion(self) -> str | None:
        """One line if all handshakes of late were broken off without a word, as they are by a server of another key."""
        if self._broken_off < _SUSPICIOUS:
            return None
        fault = (
            f"the {self._server} there wants keys, and this {self._client} has none (security.mode); or it is none"
            if self._keys is None
            else f"{self._keys.folder / self._server}.public is not its key, or it is no {self._server}"
        )
        return f"{self._endpoint}: the other side breaks off every handshake with this {self._client}: {fault}"

    def _not_let_in(self) -> str:
        assert self._keys is not None
        return (
            f"{self._endpoint}: the {self._server} does not let this {self._client} in with "
            f"{self._keys.folder / self._keys.role}.secret; give both sides the files of one zeroq keygen"
        )

    def _other_mode(self) -> str:
        if self._keys is None:
            return (
                f"{self._endpoint}: the {self._server} there wants keys, and this {self._client} has none; "
                "give both sides the same security.mode"
            )
        return (
            f"{self._endpoint}: what listens there is no {self._server} with keys, and this {self._client} talks to no "
            f"other ({self._keys.folder}); give both sides the same security.mode"
        )


class Gate:
    """The server's side: lets in the keys of one role per socket, counts and logs the others.

    A ZAP handler without a thread: the owner's loop polls `socket` and calls `serve`; handshakes wait for that. It
    answers for all sockets of its context, which therefore has to be the owner's own. Close it before they are closed.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, refused: Refused) -> None:
        self._keys, self._refused = keys, refused
        self._roles: dict[str, KeyRole] = {}
        self._events: dict[str, _Events] = {}
        self._seldom = Seldom()
        self._owners: dict[bytes, KeyRole] = {key: role for role, key in keys.peers.items()}
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ZAP)

    def guard(self, socket: zmq.Socket[bytes], name: str, role: KeyRole) -> None:
        """Have `socket`, not bound yet, let in `role` only. `name` is its own, in counters and logs."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, name)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._roles[name] = role
        self._events[name] = _Events(socket, _FAILED)

    def serve(self) -> None:
        """Answer the handshakes that wait, and count those that failed; never waits."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_MAX_ANSWERS):  # then the owner's own work again
                self.socket.send_multipart(self._answer(self.socket.recv_multipart(zmq.NOBLOCK)))
        for name, events in self._events.items():
            for event, value in events.take():
                if event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # that was our own answer
                    self._refuse(name, _cause(value if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else None))

    def admits(self, name: str, frame: zmq.Frame) -> bool:
        """Whether a message, of which this is the first frame, comes over a connection that we let in as that role."""
        try:
            user = frame.get(_USER_ID)
        except zmq.ZMQError:  # there is none
            user = None
        if user == self._roles[name]:
            return True
        self._refuse(name, "wrong_role" if user else "no_key")
        return False

    def close(self) -> None:
        """Let nobody in any more."""
        for events in self._events.values():
            events.close()
        self._events.clear()
        self.socket.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """ZAP: version, request id, status code, status text, user id, metadata."""
        version, request_id, domain = request[0], request[1], request[2].decode("utf-8", "replace")
        owner = self._owners.get(z85.encode(request[6])) if request[5] == b"CURVE" else None
        if owner is not None and owner == self._roles.get(domain):
            return [version, request_id, b"200", b"OK", owner.encode(), b""]
        address = request[3].decode("utf-8", "replace")
        self._refuse(domain, "wrong_role" if owner is not None else "wrong_key", f" from {address}")
        return [version, request_id, b"400", b"this key has no business here", b"", b""]

    def _refuse(self, name: str, cause: Cause, origin: str = "") -> None:
        self._refused(name, cause)
        if (note := self._seldom.note(name, cause)) is not None:  # a wrong key tries ten times a second
            log.warning("a connection%s to the %s socket was refused: %s%s", origin, name, cause, note)


def _cause(protocol_error: int | None) -> Cause:
    match protocol_error:
        case zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return "plaintext"
        case zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            return "wrong_key"
        case _:
            return "no_key"


class _Events:
    """Handshake events of one socket, in that socket's thread."""

    def __init__(self, socket: zmq.Socket[Any], events: int) -> None:
        self._socket = socket
        address = f"inproc://handshakes-{uuid.uuid4().hex}"
        socket.monitor(address, events)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context.underlying)
        self._reader = context.socket(zmq.PAIR)  # a plain one, also beside asyncio's sockets
        self._reader.setsockopt(zmq.LINGER, 0)
        self._reader.setsockopt(zmq.RCVHWM, 0)
        self._reader.connect(address)

    def take(self) -> list[tuple[int, int]]:
        """(event, value) of what has happened since."""
        taken: list[tuple[int, int]] = []
        with contextlib.suppress(zmq.Again):
            while True:
                message = parse_monitor_message(self._reader.recv_multipart(zmq.NOBLOCK))
                taken.append((int(message["event"]), int(message["value"])))
        return taken

    def close(self) -> None:
        """Stop the monitor, then its reader."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._reader.close()

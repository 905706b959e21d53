"""The gang's sockets: a ROUTER on rank 0's machine, in a thread of its own, and the REQ-like DEALER of every node.

Reports and orders are small JSON objects, strictly validated, which state the schema version as all messages do. Both
ends hold the learner's keys, and nobody else is let in. Either may come back as another process: a node talks over a
fresh socket as soon as an answer is overdue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import uuid

import zmq
from pydantic_core import from_json

from common.client import bound_unread, configure_socket
from common.curve import Cause, Dialler, Gate
from common.errors import SchemaMismatch, UserError
from common.keys import Keys
from common.message_parts import check_schema
from common.seldom import Seldom, one_line
from learner.gang import Gang, Order, Report

log = logging.getLogger(__name__)

_NAME = "gang"
_MAX_BYTES = 4096
_POLL_MS = 100
_MAX_UNREAD = 100
_MAX_REASON = 512
_ANSWER_S = 2.0


def gang_keys(keys: Keys | None) -> Keys | None:
    """The learner's keys, for learners that talk to each other."""
    return None if keys is None else dataclasses.replace(keys, peers={**keys.peers, "learner": keys.public})


class GangServer:
    """Serves a `Gang` from construction to `close`. UserError when the address cannot be bound."""

    def __init__(self, gang: Gang, host: str, port: int, keys: Keys | None) -> None:
        self._gang = gang
        self._seldom = Seldom()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        configure_socket(self._router)
        bound_unread(self._router, _MAX_UNREAD)
        self._router.setsockopt(zmq.MAXMSGSIZE, _MAX_BYTES)
        own = gang_keys(keys)
        self._gate = None if own is None else Gate(self._context, own, _refused)
        if self._gate is not None:
            self._gate.guard(self._router, _NAME, "learner")
        try:
            self._router.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            self._close_sockets()
            raise UserError(f"--rendezvous: cannot listen at {host}:{port} ({error}); choose another port") from None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gang", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        """Consumes reports; waits for one, a handshake, or 0.1 s; produces an order for each report."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        if self._gate is not None:
            poller.register(self._gate.socket, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                poller.poll(_POLL_MS)
                if self._gate is not None:
                    self._gate.serve()
                with contextlib.suppress(zmq.Again):
                    for _ in range(_MAX_UNREAD):  # then handshakes, the clock and a stop again
                        self._answer(self._router.recv_multipart(zmq.NOBLOCK, copy=False))
                self._gang.tick(time.monotonic())
        finally:
            self._close_sockets()

    def _answer(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != 2 or (self._gate is not None and not self._gate.admits(_NAME, frames[1])):
            return
        unknown: set[str] = set()
        try:
            fields = from_json(frames[1].bytes)
            check_schema(fields)
            order = self._gang.hear(Report.model_validate(fields), time.monotonic())
        except SchemaMismatch as error:
            self._log_refused(error)
            unknown = {"v"} if error.theirs is None else set()  # to a node that states none
            reason = str(error)[:_MAX_REASON]  # JSON has integers of any length
            order = Order(gang=self._gang.name, generation=0, reason=reason)
        except ValueError as error:  # pydantic's are, too
            self._log_refused(error)
            return
        with contextlib.suppress(zmq.ZMQError):  # whoever went away asks again
            self._router.send_multipart([frames[0].bytes, order.model_dump_json(exclude=unknown).encode()])

    def _log_refused(self, error: Exception) -> None:
        if (note := self._seldom.note(type(error).__name__)) is not None:
            log.warning("report refused: %s%s", one_line(error), note)

    def _close_sockets(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._router.close()
        self._context.destroy(0)


class GangClient:
    """One node's line to the gang. `silent_s`: since the last answer."""

    def __init__(self, endpoint: str, keys: Keys | None) -> None:
        self._endpoint = endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dialler = Dialler(endpoint, "learner", gang_keys(keys), client="learner")
        self._socket = self._connect()
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None

    @property
    def silent_s(self) -> float:
        """Seconds without an answer."""
        return time.monotonic() - self._heard_at

    def report(self, report: Report, timeout_s: float) -> Order | None:
        """Send a report; the order, or None when none comes within `timeout_s`. UserError when our key is refused, or
        rank 0's node speaks another schema version."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > _ANSWER_S:
            self._reconnect()
        if self._asked_at is None:
            self._socket.send(report.model_dump_json().encode())
            self._asked_at = now
        if (refusal := self._dialler.refused() or self._dialler.suspicion) is not None:
            raise UserError(refusal)
        order = None
        if self._socket.poll(int(1000 * timeout_s)):
            while self._socket.poll(0):
                order = self._read(self._socket.recv_multipart())
            self._asked_at, self._heard_at = None, time.monotonic()
        return order

    def close(self) -> None:
        """Close the socket."""
        self._dialler.detach()
        self._socket.close()
        self._context.destroy(0)

    def _read(self, frames: list[bytes]) -> Order | None:
        try:
            fields = from_json(frames[-1])
            check_schema(fields)
            return Order.model_validate(fields)
        except SchemaMismatch as error:
            raise UserError(f"{self._endpoint}: {error}") from None
        except ValueError as error:  # pydantic's are, too
            log.warning("order refused: %s", str(error)[:300])
            return None

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        configure_socket(socket)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_BYTES)
        socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)
        self._dialler.attach(socket)
        socket.connect(self._endpoint)
        return socket

    def _reconnect(self) -> None:
        self._dialler.detach()
        self._socket.close()
        self._socket = self._connect()
        self._asked_at = None


def _refused(name: str, cause: Cause) -> None:
    """Counted nowhere: the gate's log line has it."""

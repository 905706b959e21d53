"""The broker's shell: one ROUTER socket per role around the state machine, open to the keys of that role only.

One thread, one loop, poll and drain (3.3x faster than asyncio here). Whatever a peer sends, the broker goes on: what
cannot be decoded is counted and refused, a reply whose receiver is gone, or reads nothing, is counted and its lease
goes back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import time
import uuid
from collections.abc import Callable
from types import TracebackType

import msgpack
import zmq

from broker.metrics import BrokerCollector
from broker.records import Reply
from broker.state import State
from common.cli import Process
from common.client import bound_unread, configure_socket, send_frames
from common.config import BrokerSection, RunConfig
from common.curve import CAUSES, Cause, Gate
from common.errors import SchemaMismatch, UserError, WireError
from common.keys import Keys
from common.lifecycle import StopFlag, write_atomic
from common.messages import Refused, Role
from common.metrics import REGISTRY
from common.seldom import Seldom, one_line
from common.wire import MAX_FRAMES, MAX_HEADER_BYTES, decode, encode

log = logging.getLogger(__name__)

ROLES: tuple[Role, ...] = ("learner", "actor", "evaluator", "monitor")
DOES_NOT_COMPARE = 1
"""The schema version whose processes read nothing of another one: they are answered in theirs."""
MAX_MESSAGES_PER_ROUND = 1000
MAX_POLL_S = 0.2
MAX_OPEN_FILES = 65_536
CARRIES_FRAMES: frozenset[Role] = frozenset({"learner", "actor"})
"""Roles that send more than a header. libzmq makes room for a frame before it knows whose it is, so that the bound of
the other sockets is what their strangers can make the broker hold."""
MAX_UNREAD = 1000
"""Replies that wait for one peer to read them, and requests of one that wait for their turn; an honest one never has so
many open. Not the learner's, which adds as many tasks at once as there is credit for, and would wait for the answers
that were dropped."""
MAX_FAILURE_LINES = 100
"""Of failed attempts, in a minute."""
METRICS_EVERY_S = 0.5
STUCK_S = 30.0  # a round longer than this and the process says that it is not alive


def run(process: Process) -> None:
    """Bind, write endpoints.json, serve until asked to stop, remove endpoints.json again."""
    process.paths.endpoints.unlink(missing_ok=True)  # of an earlier broker in this directory
    _allow_many_connections()
    keys = Keys.for_process(process.config, process.paths, "broker")
    with Server(process.config, keys) as server:
        write_atomic(process.paths.endpoints, json.dumps(server.endpoints))
        log.info("serving %s", ", ".join(f"{role} at {url}" for role, url in server.endpoints.items()))
        REGISTRY.register(server.collector)
        process.health.ready()
        try:
            server.serve(process.stop, beat=lambda: process.health.beat("broker", "serving", STUCK_S))
        finally:
            process.paths.endpoints.unlink(missing_ok=True)
            REGISTRY.unregister(server.collector)
    log.info("stopped")


class Server:
    """Sockets, bound on construction, and the loop that serves them. UserError when an address cannot be bound.

    Without `keys` everything is plaintext, and whoever reaches a socket is believed to have its role.
    """

    def __init__(self, config: RunConfig, keys: Keys | None = None) -> None:
        self._max_total_bytes = config.broker.max_message_bytes
        self.state = State(config, incarnation=uuid.uuid4().hex, now=time.monotonic())
        self.collector = BrokerCollector()
        self.num_undecodable = 0
        self.num_undeliverable = 0
        self.auth_failures: dict[tuple[str, str], int] = {(role, cause): 0 for role in ROLES for cause in CAUSES}
        self._seldom, self._failure_lines = Seldom(), Seldom(MAX_FAILURE_LINES)
        self.endpoints: dict[Role, str] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[Role, zmq.Socket[bytes]] = {}
        self._gate = None if keys is None else Gate(self._context, keys, self._not_let_in)
        try:
            for role in ROLES:
                self._sockets[role], self.endpoints[role] = _bind(self._context, role, config.broker, self._gate)
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets; what has not been sent in a moment is dropped, its receivers ask again."""
        if self._gate is not None:
            self._gate.close()
        for socket in self._sockets.values():
            socket.close()
        self._context.destroy(0)

    def serve(self, stop: StopFlag, *, beat: Callable[[], None] = lambda: None) -> None:
        """Consumes requests of all roles; waits for any of them, the next lease or long-poll deadline, or 0.2 s; is
        unblocked by a message, a deadline or `stop`; produces one reply per request, and a metrics snapshot. `beat` is
        called in each round."""
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        if self._gate is not None:
            poller.register(self._gate.socket, zmq.POLLIN)
        refreshed = 0.0
        while not stop:
            beat()
            ready = dict(poller.poll(self._patience_ms()))
            began = time.monotonic()
            if self._gate is not None:
                self._gate.serve()
            for role, socket in self._sockets.items():
                if socket in ready:
                    self._drain(role, socket)
            self._perform(self.state.tick(time.monotonic()))
            self._log_failures()
            self.collector.rounds.add(time.monotonic() - began)
            if time.monotonic() - refreshed > METRICS_EVERY_S:
                refreshed = time.monotonic()
                self.collector.refresh(
                    self.state,
                    refreshed,
                    refused=self.num_undecodable,
                    undeliverable=self.num_undeliverable,
                    auth_failures=self.auth_failures,
                )

    def _patience_ms(self) -> int:
        deadline_s = self.state.next_deadline(time.monotonic())
        return int(1000 * min(MAX_POLL_S, MAX_POLL_S if deadline_s is None else deadline_s)) + 1

    def _drain(self, role: Role, socket: zmq.Socket[bytes]) -> None:
        """Serve what has arrived, but no more than a round's worth: deadlines must be kept under load, too. What is in
        the queue comes before the tick, so a renewal that waited for a busy broker still counts."""
        for _ in range(MAX_MESSAGES_PER_ROUND):
            try:
                first = socket.recv(zmq.NOBLOCK, copy=False)
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._gate is not None and not self._gate.admits(role, first):
                continue
            peer = first.bytes
            try:
                envelope = decode(frames, max_total_bytes=self._max_total_bytes)
            except WireError as error:
                self._refuse(peer, role, frames, error)
                continue
            self._perform(self.state.handle(peer, role, envelope, time.monotonic()))

    def _log_failures(self) -> None:
        failures = self.state.core.failures
        while failures:
            failure = failures.popleft()
            if (note := self._failure_lines.note()) is not None:
                log.warning("%s%s", failure, note)

    def _perform(self, replies: list[Reply]) -> None:
        """Send replies; what a peer leaves behind that is unreachable, or reads nothing, may become another's reply."""
        while replies:
            failed = []
            for reply in replies:
                try:
                    send_frames(self._sockets[reply.role], [reply.peer, *encode(reply.header, reply.payload)])
                except zmq.ZMQError as error:
                    if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                        raise
                    self.num_undeliverable += 1
                    failed.append(reply)
            replies = []
            for reply in failed:
                replies += self.state.undelivered(reply, time.monotonic())

    def _not_let_in(self, socket: str, cause: Cause) -> None:
        self.auth_failures[socket, cause] += 1

    def _refuse(self, peer: bytes, role: Role, frames: list[bytes], error: WireError) -> None:
        """Count a message that breaks the wire contract; tell its sender if it left a request id to answer to.

        Who speaks another schema version sees that by the answer, whatever else is in it, if it compares versions."""
        self.num_undecodable += 1
        if (note := self._seldom.note(role, type(error).__name__)) is not None:
            log.warning("message on the %s socket refused: %s%s", role, one_line(error), note)
        request_id = _request_id(frames)
        if request_id is not None:
            header = Refused(request_id=request_id, code="invalid", detail=str(error)[:512])
            if isinstance(error, SchemaMismatch) and error.theirs == DOES_NOT_COMPARE:
                header = header.model_copy(update={"v": DOES_NOT_COMPARE})
            self._perform([Reply(peer, role, header)])


def _bind(
    context: zmq.Context[zmq.Socket[bytes]], role: Role, config: BrokerSection, gate: Gate | None
) -> tuple[zmq.Socket[bytes], str]:
    socket = context.socket(zmq.ROUTER)
    configure_socket(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if role != "learner":
        bound_unread(socket, MAX_UNREAD)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes if role in CARRIES_FRAMES else MAX_HEADER_BYTES)
    port = config.ports.get(role, 0)
    if gate is not None:
        gate.guard(socket, role, role)
    try:
        socket.bind(f"tcp://{config.host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(0)
        if error.errno == zmq.EADDRINUSE:
            raise UserError(
                f"broker.ports.{role} = {port}: the port is in use; choose another, or 0 for a free one"
            ) from None
        if port and error.errno == 13:  # EACCES, for ports below 1024
            raise UserError(f"broker.ports.{role} = {port}: not allowed; choose a port above 1023") from None
        raise UserError(f"broker.host = {config.host}: cannot bind there ({error}); name a local address") from None
    bound = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    host = "127.0.0.1" if config.host in ("0.0.0.0", "*") else config.host
    return socket, f"tcp://{host}:{bound}"


def _allow_many_connections() -> None:
    """One file per connection: the 1024 that many systems begin with are fewer than the peers a broker can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _request_id(frames: list[bytes]) -> int | None:
    """The request id of an otherwise unacceptable message, if its header is a map that has one."""
    if not frames or len(frames[0]) > MAX_HEADER_BYTES or len(frames) > MAX_FRAMES + 1:
        return None
    with contextlib.suppress(ValueError, TypeError, AttributeError, msgpack.UnpackException):  # garbage
        header = msgpack.unpackb(frames[0], raw=False, strict_map_key=True)
        request_id = header.get("request_id")
        if type(request_id) is int and request_id >= 0:
            return request_id
    return None

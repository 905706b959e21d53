"""Client of the broker: pipelined requests with exactly one reply each, kept and re-sent until answered.

One I/O thread owns the DEALER socket (ZeroMQ sockets are not thread-safe). `call` returns a Future, so that plain
threads (learner, evaluator) and asyncio (actor, through `asyncio.wrap_future`) use the same client.

A request without a reply after `resend_s` (beyond its own long-poll time) is sent again over a fresh socket and
identity: requests are idempotent, and a ROUTER would not hear a second peer of the same identity.

A broker that was restarted knows nobody and holds nothing. Actors and evaluators introduce themselves again and go on.
A learner must not: it would wait for ever for groups of tasks that the new broker was never given.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import zmq

from common.curve import Dialler
from common.errors import BrokerUnavailable, NotLetIn, SchemaMismatch, UserError, WireError
from common.keys import Keys
from common.messages import Header, Hello, Refused, Role, Welcome
from common.wire import COPY_THRESHOLD_BYTES, Array, Envelope, decode, encode

log = logging.getLogger(__name__)

GIVE_UP_S = 60.0
_DIAL_AGAIN_S = 1.0
"""After a refusal: it will not be the last one, so not at once."""


CLOSING_MS = 250
"""How long a closed socket goes on sending. Not 0: libzmq 4.3.5 ends the whole process (`Resource temporarily
unavailable (src/session_base.cpp:233)`) when a socket is closed without lingering in the middle of a message of several
frames, and its peer goes at the same moment, as all processes of a run do at its end."""


def configure_socket(socket: zmq.Socket[bytes]) -> None:
    """Socket options every zeroq socket shares: little lingering, no silent loss, a dead peer noticed within 2 s."""
    socket.setsockopt(zmq.LINGER, CLOSING_MS)
    socket.setsockopt(zmq.SNDHWM, 0)  # queues are bounded by credit and leases, never by dropping
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 1500)


def bound_unread(socket: zmq.Socket[bytes], num_messages: int) -> None:
    """Have a ROUTER hold no more than so many messages for a peer that does not read (with ROUTER_MANDATORY, one more
    raises zmq.Again), nor of a peer that sends faster than it is served: the rest waits on that peer's side."""
    socket.setsockopt(zmq.SNDHWM, num_messages)
    socket.setsockopt(zmq.RCVHWM, num_messages)
    socket.setsockopt(zmq.SNDTIMEO, 0)


def send_frames(socket: zmq.Socket[bytes], frames: list[bytes | memoryview]) -> None:
    """Multipart send: zero-copy for large frames, copies for small ones (2.5x faster each way)."""
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        flags = 0 if index == last else zmq.SNDMORE
        socket.send(frame, flags, copy=len(frame) < COPY_THRESHOLD_BYTES)


@dataclass
class _Pending:
    frames: list[bytes | memoryview]
    future: Future[Envelope]
    resend_after_s: float
    sent_at: float = 0.0
    attempts: int = 0
    born: float = field(default_factory=time.monotonic)


class BrokerClient:
    """Connection of one process incarnation to the broker's socket for its role, in plaintext without `keys`.

    Use as a context manager or call `close()`. Thread-safe.
    """

    def __init__(
        self,
        endpoint: str,
        role: Role,
        name: str,
        *,
        keys: Keys | None = None,
        resend_s: float = 10.0,
        give_up_s: float = GIVE_UP_S,
        vocab_size: int | None = None,
        version: int | None = None,
        weights_endpoint: str | None = None,
    ) -> None:
        self.incarnation = uuid.uuid4().hex
        self.name = name
        self._endpoint = endpoint
        self._hello = Hello(
            role=role,
            name=name,
            incarnation=self.incarnation,
            vocab_size=vocab_size,
            version=version,
            weights_endpoint=weights_endpoint,
        )
        self._dialler = Dialler(endpoint, "broker", keys, client=role)
        self._resend_s = resend_s
        self._give_up_s = give_up_s
        self._ids = itertools.count(1)
        self._outbox: queue.SimpleQueue[tuple[int, _Pending] | None] = queue.SimpleQueue()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        wake = f"inproc://wake-{self.incarnation}"
        self._wake_receive = self._context.socket(zmq.PULL)
        self._wake_receive.bind(wake)
        self._wake_send = self._context.socket(zmq.PUSH)
        self._wake_send.connect(wake)
        self._wake_lock = threading.Lock()
        self._closed = threading.Event()
        self._silent = False
        self._broker: str | None = None  # its incarnation
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"broker-client-{name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> BrokerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self, timeout_s: float = 30.0) -> Welcome:
        """Introduce this incarnation; BrokerUnavailable if nobody answers, UserError if our key is of no use there, or
        one of us speaks another schema version."""
        try:
            header = self.request(self._hello, timeout_s=timeout_s).header
        except NotLetIn as refused:
            raise UserError(str(refused)) from None
        if not isinstance(header, Welcome):
            raise BrokerUnavailable(f"{self._endpoint}: expected a welcome, got {header}")
        return header

    def call(self, header: Header, payload: Mapping[str, Array | bytes] | None = None) -> Future[Envelope]:
        """Send a request; the Future yields the reply, or raises BrokerUnavailable after `give_up_s` without one, or
        when there is nothing to be had from this broker any more (a learner that was replaced, or whose broker was)."""
        if self._closed.is_set():
            raise BrokerUnavailable(f"client {self.name} is closed")
        if self._lost is not None:
            raise BrokerUnavailable(self._lost)
        request_id = next(self._ids)
        frames = encode(header.model_copy(update={"request_id": request_id}), payload)
        future: Future[Envelope] = Future()
        wait_s = float(getattr(header, "wait_s", 0.0))
        self._outbox.put((request_id, _Pending(frames, future, self._resend_s + wait_s)))
        self._wake()
        return future

    def request(
        self,
        header: Header,
        payload: Mapping[str, Array | bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Envelope:
        """Blocking `call`."""
        try:
            return self.call(header, payload).result(timeout_s)
        except TimeoutError:
            if (suspicion := self._dialler.suspicion) is not None:
                raise NotLetIn(suspicion) from None
            raise BrokerUnavailable(
                f"{self._endpoint}: no reply to {getattr(header, 'type', '?')} within {timeout_s} s"
            ) from None

    def trouble(self) -> str | None:
        """Why the broker cannot be relied on at present: a request had to be repeated, and nothing has come since."""
        return f"the broker does not answer at {self._endpoint}" if self._silent else None

    def close(self) -> None:
        """Stop the I/O thread; unanswered calls fail with BrokerUnavailable."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._wake()
        self._thread.join(timeout=5)
        with self._wake_lock:
            self._wake_send.close()

    def _wake(self) -> None:
        with self._wake_lock, contextlib.suppress(zmq.ZMQError):
            self._wake_send.send(b"", zmq.NOBLOCK)

    def _connect(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        configure_socket(socket)
        socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)
        self._dialler.attach(socket)
        socket.connect(self._endpoint)
        return socket

    def _reconnect(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Another socket. The broker knows incarnations by socket identity: it is told first who is back."""
        self._disconnect(socket)
        socket = self._connect()
        _send(socket, encode(self._hello))
        return socket

    def _disconnect(self, socket: zmq.Socket[bytes]) -> None:
        self._dialler.detach()
        socket.close()

    def _run(self) -> None:
        """Consumes the outbox and replies; waits on both sockets; is unblocked by `call`, a reply, or a due re-send."""
        pending: dict[int, _Pending] = {}
        socket = self._connect()
        try:
            while not self._closed.is_set():
                poller = zmq.Poller()
                poller.register(socket, zmq.POLLIN)
                poller.register(self._wake_receive, zmq.POLLIN)
                ready = dict(poller.poll(200))
                if self._wake_receive in ready:
                    self._drain_wakeups()
                self._send_new(socket, pending)
                if socket in ready:
                    self._receive(socket, pending)
                if self._lost is not None:
                    _fail(pending, BrokerUnavailable(self._lost))
                if (refusal := self._dialler.refused()) is not None:
                    _fail(pending, NotLetIn(refusal))
                    if not self._closed.wait(_DIAL_AGAIN_S):
                        socket = self._reconnect(socket)
                if self._overdue(pending):
                    self._silent = True
                    socket = self._reconnect(socket)
                    now = time.monotonic()
                    for item in pending.values():
                        item.sent_at = now
                        item.attempts += 1
                        _send(socket, item.frames)
        finally:
            self._disconnect(socket)
            self._wake_receive.close()
            while not self._outbox.empty():
                new = self._outbox.get()
                if new is not None:
                    pending[new[0]] = new[1]
            _fail(pending, BrokerUnavailable(f"client {self.name} closed before the reply"))

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._wake_receive.recv(zmq.NOBLOCK)

    def _send_new(self, socket: zmq.Socket[bytes], pending: dict[int, _Pending]) -> None:
        while not self._outbox.empty():
            new = self._outbox.get()
            if new is None:
                continue
            request_id, item = new
            item.sent_at = time.monotonic()
            pending[request_id] = item
            _send(socket, item.frames)

    def _receive(self, socket: zmq.Socket[bytes], pending: dict[int, _Pending]) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                envelope = decode(frames)
            except SchemaMismatch as error:
                _fail(pending, NotLetIn(f"{self._endpoint}: {error}"))
                continue
            except WireError as error:
                log.error("reply refused: %s", error)
                continue
            self._silent = False
            header = envelope.header
            self._note(header)
            if self._lost is not None:
                return
            item = pending.pop(header.request_id, None)
            if item is not None and isinstance(header, Refused) and header.code == "unknown_peer":
                pending[header.request_id] = item
                item.sent_at = time.monotonic()
                _send(socket, encode(self._hello))  # over this connection: it was the broker that was replaced
                _send(socket, item.frames)
            elif item is not None and not item.future.cancelled():
                item.future.set_result(envelope)

    def _note(self, header: Header) -> None:
        """Learn from an answer to a hello (of ours, which has id 0, too) whether this is the broker that we know."""
        if isinstance(header, Welcome):
            before, self._broker = self._broker, header.broker_incarnation
            if self._hello.role == "learner" and before not in (None, self._broker):
                self._lost = f"{self._endpoint}: the broker was restarted, and what it held is lost"
        elif isinstance(header, Refused) and header.request_id == 0 and header.code == "stale":
            self._lost = f"{self._endpoint}: {header.detail}"

    def _overdue(self, pending: dict[int, _Pending]) -> bool:
        """True when some request must be re-sent; fails those that have waited past `give_up_s`."""
        now = time.monotonic()
        for request_id, item in list(pending.items()):
            if item.future.cancelled():
                del pending[request_id]
            elif now - item.born > self._give_up_s + item.resend_after_s:
                del pending[request_id]
                item.future.set_exception(
                    BrokerUnavailable(
                        self._dialler.suspicion
                        or f"{self._endpoint}: no reply after {now - item.born:.0f} s and {item.attempts + 1} "
                        "attempts; is the broker alive?"
                    )
                )
        return any(now - item.sent_at > item.resend_after_s for item in pending.values())


def _send(socket: zmq.Socket[bytes], frames: list[bytes | memoryview]) -> None:
    """Send, unless the socket has been refused just now: then its event is on its way, and the loop will see to it."""
    with contextlib.suppress(zmq.Again):
        send_frames(socket, frames)


def _fail(pending: dict[int, _Pending], error: BrokerUnavailable) -> None:
    """End all calls that wait with `error`."""
    for item in pending.values():
        if not item.future.done():
            item.future.set_exception(error)
    pending.clear()

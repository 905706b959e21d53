"""The control socket: a ROUTER that actors talk to, owned by one background thread.

    actors --Join Pull Ready Received Applied Leave--> [ROUTER] --> Epochs.handle --> actions --> [ROUTER] --> actors
    actors without a model --PullFiles--> [ROUTER] --ModelFiles--> them           (files.py)
    publish() --Requested--> inbox -->                                            \\--> broadcast thread --> inbox

Because the thread is its own, actors join and pull at any time, also while the learner trains.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
from concurrent.futures import Future

import zmq
from prometheus_client import Counter

from common.client import bound_unread, configure_socket, send_frames
from common.curve import CAUSES, Cause, Gate
from common.errors import RunFailure, SchemaMismatch, UserError, WireError
from common.keys import Keys
from common.messages import Applied, Header, Join, Leave, NoWork, Propose, Pull, PullFiles, Ready, Received, Refused
from common.messages import Begin as BeginMessage
from common.metrics import REGISTRY
from common.seldom import Seldom, one_line
from common.wire import Array, decode, encode
from learner.weights import events, metrics
from learner.weights.chronicle import members_by_state
from learner.weights.epochs import Epochs
from learner.weights.files import ServedFiles
from learner.weights.pulls import Pulls, message_of
from learner.weights.transport import Channel, Staged, TransferFailed, Transport

log = logging.getLogger(__name__)

_POLL_MS = 100
_MAX_REQUEST_BYTES = 1 << 20
_MAX_NOTE = 600
_MAX_UNREAD = 100
"""Messages that wait for one actor to read them, and of one for their turn. It asks for one chunk at a time."""
_MAX_JOIN_LINES = 100
"""In a minute."""
AUTH_FAILURES = Counter(
    "zeroq_weights_auth_failures", "Connections that the weights socket refused.", ["cause"], registry=REGISTRY
)
for _cause in CAUSES:
    AUTH_FAILURES.labels(_cause)  # there from the start: a rate needs a zero to begin at
_SPARE_S = 10.0
"""publish() waits this much longer than the state machine's own bound before it believes the thread dead."""


class ControlServer:
    """Shell of `Epochs`. `endpoint` is what actors connect to; without `keys` anybody may, in plaintext."""

    def __init__(
        self,
        epochs: Epochs,
        transport: Transport,
        *,
        host: str,
        port: int,
        prefix: str,
        transfer_timeout_s: float,
        files: ServedFiles | None = None,
        keys: Keys | None = None,
    ) -> None:
        self._epochs = epochs
        self._transport = transport
        self._prefix = prefix
        self._files = files
        self._transfer_timeout_s = transfer_timeout_s
        self._inbox: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._staged: Staged | None = None  # being published
        self._published: Staged | None = None
        self._pulls = Pulls()
        self._handles: dict[tuple[int, int, bytes], bytes] = {}
        self._finished: Future[events.Finished] | None = None
        self._failure: BaseException | None = None
        self._seldom, self._join_lines = Seldom(), Seldom(_MAX_JOIN_LINES)
        self._stop = threading.Event()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context = context
        self._gate = None if keys is None else Gate(context, keys, lambda _, cause: _count(cause))
        self._router = context.socket(zmq.ROUTER)
        configure_socket(self._router)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        bound_unread(self._router, _MAX_UNREAD)
        self._router.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
        if self._gate is not None:
            self._gate.guard(self._router, "weights", "actor")
        try:
            self._router.bind(f"tcp://{f'[{host}]' if ':' in host else host}:{port or '*'}")
        except zmq.ZMQError as error:
            if self._gate is not None:
                self._gate.close()
            context.destroy(0)
            raise UserError(f"weights.host={host}, weights.port={port}: cannot listen there ({error})") from None
        bound = self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        self.endpoint = f"tcp://{host}:{bound}"
        wake = f"inproc://weights-{uuid.uuid4().hex}"
        self._wake_receive = context.socket(zmq.PULL)
        self._wake_receive.bind(wake)
        self._wake_send = context.socket(zmq.PUSH)
        self._wake_send.connect(wake)
        self._wake_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="weights-control", daemon=True)
        self._thread.start()

    def publish(self, staged: Staged) -> events.Finished:
        """Run one publish to its end (blocking, bounded). RunFailure only if the control thread itself died."""
        finished: Future[events.Finished] = Future()
        self._staged, self._finished = staged, finished
        self._post(events.Requested(staged.version, staged.digest, staged.layout.total_bytes))
        bound_s = self._epochs.longest_publish_s + _SPARE_S
        give_up = time.monotonic() + bound_s
        while True:
            try:
                return finished.result(timeout=1.0)
            except TimeoutError:
                if not self._thread.is_alive() or time.monotonic() > give_up:
                    raise RunFailure(
                        f"weights: publish of version {staged.version} did not end within {bound_s:.0f} s"
                        f" ({self._failure or 'the control thread hangs'})"
                    ) from self._failure

    def close(self) -> None:
        """Stop the thread and close the sockets."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._wake()
        self._thread.join(timeout=5)
        with self._wake_lock:
            self._wake_send.close(0)
        if not self._thread.is_alive():
            self._context.destroy(0)

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        """Consumes requests and the inbox; waits on both sockets; unblocked by either, or every 0.1 s to tick."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_receive, zmq.POLLIN)
        if self._gate is not None:
            poller.register(self._gate.socket, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                poller.poll(_POLL_MS)
                if self._gate is not None:
                    self._gate.serve()
                self._drain_wakeups()
                while not self._inbox.empty():
                    self._handle(self._inbox.get())
                self._receive()
                self._handle(events.Tick())
                self._pulls.forget_gone(self._epochs.peers, time.monotonic())
                versions = [peer.version for peer in self._epochs.peers.values()]
                metrics.set_members(members_by_state(versions, self._epochs.latest))
        except BaseException as error:
            self._failure = error
            raise
        finally:
            if self._gate is not None:
                self._gate.close()
            self._router.close()
            self._wake_receive.close()

    def _receive(self) -> None:
        for _ in range(256):  # then look at the clock again
            try:
                first = self._router.recv(zmq.NOBLOCK, copy=False)
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._gate is not None and not self._gate.admits("weights", first):
                continue
            peer = first.bytes
            try:
                header = decode(frames, max_total_bytes=_MAX_REQUEST_BYTES).header
                if isinstance(header, PullFiles):
                    self._serve_files(peer, header)
                    continue
                event = _event(peer, header)
            except WireError as error:
                if (note := self._seldom.note(type(error).__name__)) is not None:
                    log.warning("weights: message refused: %s%s", one_line(error), note)
                if isinstance(error, SchemaMismatch):  # it sees that by any answer
                    self._send(peer, Refused(code="invalid", detail=str(error)), {})
                continue
            if isinstance(header, Join) and (note := self._join_lines.note()) is not None:
                log.info("weights: actor %s joins%s", header.name, note)
            self._handle(event)

    def _handle(self, event: events.Event) -> None:
        """Feed the machine and carry out its actions; peers that cannot be reached become events."""
        pending = [event]
        while pending:
            for action in self._epochs.handle(pending.pop(0), time.monotonic()):
                match action:
                    case events.Tell(peer, message):
                        if isinstance(message, Propose):
                            self._pulls.overtaken(peer)
                        if not self._send(peer, message, self._frames(peer, message)):
                            pending.append(events.Lost(peer))
                    case events.Serve(peer, pull):
                        self._serve(peer, pull)
                    case events.Broadcast():
                        self._start_broadcast(action)
                    case events.CloseChannel(epoch):
                        self._transport.close_channel(epoch)
                    case events.Finished():
                        self._finish(action)
        while self._epochs.notes:
            log.warning("weights: %s", " ".join(self._epochs.notes.popleft().split())[:_MAX_NOTE])

    def _frames(self, peer: bytes, message: Header) -> dict[str, Array | bytes]:
        """Frames that go with a message of the state machine."""
        staged = self._staged
        if isinstance(message, Propose):
            assert staged is not None
            return {"manifest": staged.layout.manifest()}
        if isinstance(message, BeginMessage):
            assert staged is not None
            key = (message.epoch, message.version, peer)
            if key not in self._handles:
                rank = 1 + self._epochs.members.index(peer)
                self._handles[key] = self._transport.handles(message.epoch, staged, rank)
            return {"handles": self._handles[key]} if self._handles[key] else {}
        return {}

    def _send(self, peer: bytes, message: Header, frames: dict[str, Array | bytes]) -> bool:
        """False if the peer is unreachable, or reads nothing."""
        try:
            send_frames(self._router, [peer, *encode(message, frames)])
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def _start_broadcast(self, action: events.Broadcast) -> None:
        staged = self._staged
        assert staged is not None
        channel = Channel(action.epoch, action.world_size, f"{self._prefix}/{action.epoch}", action.fresh)
        deadline = time.monotonic() + self._transfer_timeout_s

        def broadcast() -> None:
            try:
                self._transport.broadcast(channel, staged, deadline)
            except TransferFailed as error:
                self._post(events.BroadcastEnded(channel.epoch, str(error)))
            else:
                self._post(events.BroadcastEnded(channel.epoch))

        threading.Thread(target=broadcast, name=f"weights-epoch-{action.epoch}", daemon=True).start()

    def _finish(self, finished: events.Finished) -> None:
        self._published, self._staged = self._staged, None
        self._handles.clear()
        if self._finished is not None:
            self._finished.set_result(finished)
            self._finished = None

    # -------------------------------------------------------------- pulls

    def _serve(self, peer: bytes, pull: Pull) -> None:
        """Answer with a chunk of the newest version, or of the one that this peer began with."""
        assert self._published is not None
        found = self._pulls.chunk(peer, pull, self._published, time.monotonic())
        if found is None:  # ask again
            self._send(peer, NoWork(request_id=pull.request_id), {})
            return
        model = self._files.digest if self._files else None
        header, frames = message_of(*found, request_id=pull.request_id, model=model)
        if self._send(peer, header, frames):
            metrics.SENT_BYTES.labels("pull").inc(len(frames["chunk"]))

    def _serve_files(self, peer: bytes, pull: PullFiles) -> None:
        """Answer with a chunk of the model's files: no affair of membership, any peer may ask."""
        if self._files is None:
            detail = "its actors have the model (actor.model_from=disk); learner and actors need the same configuration"
            self._send(peer, Refused(code="invalid", detail=detail, request_id=pull.request_id), {})
            return
        header, chunk = self._files.answer(pull)
        self._send(peer, header, {"chunk": chunk})

    # -------------------------------------------------------------- from other threads

    def _post(self, event: events.Event) -> None:
        self._inbox.put(event)
        self._wake()

    def _wake(self) -> None:
        with self._wake_lock, contextlib.suppress(zmq.ZMQError):
            self._wake_send.send(b"", zmq.NOBLOCK)

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._wake_receive.recv(zmq.NOBLOCK)


def _count(cause: Cause) -> None:
    AUTH_FAILURES.labels(cause).inc()


def _event(peer: bytes, header: Header) -> events.Event:
    """What a received message means; WireError for messages that have no business here."""
    match header:
        case Join(name=name, incarnation=incarnation):
            return events.Joined(peer, name, incarnation)
        case Pull():
            return events.Asked(peer, header)
        case Ready(epoch=epoch, version=version):
            return events.ReadyCame(peer, epoch, version)
        case Received(epoch=epoch, version=version, ok=ok, digest=digest, reason=reason):
            return events.ReceivedCame(peer, epoch, version, ok, digest, reason)
        case Applied(version=version):
            return events.AppliedCame(peer, version)
        case Leave():
            return events.Lost(peer)
        case _:
            raise WireError(f"{getattr(header, 'type', '?')} has no business on the weights socket")

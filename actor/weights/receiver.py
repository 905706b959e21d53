"""The actor's end of the weight path.

                 Join, Pull          NoWork: nothing newer
    (no version) ---------> pulling <----------------------> current --Propose/Ready--Begin--Received--Commit--> current
                               ^                                |          version v + 1, Applied
                               +------- Refused (left out, or the learner restarted): join, pull all of it

A version is loaded only when every byte of it is here and the digest agrees. Versions never go back in one incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio

from actor.chunks import ChunkSize
from actor.weights import metrics
from actor.weights.backends import make_transport
from actor.weights.loader import Loader, LoadFailed
from actor.weights.pull import PullInProgress
from actor.weights.transport import Transfer, TransferFailed, to_its_end
from actor.weights.update import Update
from common.client import configure_socket, send_frames
from common.config import RunConfig
from common.curve import Dialler
from common.errors import RunFailure, SchemaMismatch, UserError, WireError
from common.keys import Keys
from common.messages import (
    Abort,
    Applied,
    Begin,
    Commit,
    Header,
    Join,
    Leave,
    NoWork,
    Propose,
    Pull,
    Ready,
    Received,
    Refused,
    Snapshot,
)
from common.weights import Layout
from common.wire import Envelope, decode, encode

log = logging.getLogger(__name__)

STATIC = "static"
"""Endpoint that means: serve the weights of the model directory as version 0."""
ASK_EVERY_S = 0.5
ANSWER_S = 5.0
"""An unanswered request is repeated after this long: the first chunk of large weights takes seconds to make."""
SILENCE_S = 12.0
"""After this long without a word from the publisher, which answers every request, its connection is given up. A socket
that reconnects by itself (heartbeats missed on a stalled machine) may come back under its old identity before the
publisher has let that go, and is then never heard again, without an error on either side."""
BACKWARDS_S = 60.0  # versions below ours are another learner's, of whom actor/follow.py hears within seconds
_MAX_BAD_PULLS = 3


class WeightReceiver:
    """Keeps one AsyncLLM at the newest version. `version` is None until there is one (and while weights are torn)."""

    def __init__(
        self,
        llm: Any,
        config: RunConfig,
        *,
        endpoint: str,
        name: str,
        incarnation: str,
        on_version: Callable[[int], None],
        on_pause: Callable[[], None],
        model: str | None = None,
        keys: Keys | None = None,
    ) -> None:
        """`model`: the set of model files that the engine was started with, if they came from the learner. `on_pause`:
        see Loader."""
        self.version: int | None = None
        self._highest: int | None = None
        self._endpoint = endpoint
        self._dialler = Dialler(endpoint, "learner", keys, client="actor")
        self._name = name
        self._incarnation = incarnation
        self._on_version = on_version
        self._model = model
        # Room for an update of the largest models, and for nccl's receive, which has the transfer's own deadline.
        self._loader = Loader(llm, timeout_s=2 * config.weights.transfer_timeout_s, on_pause=on_pause)
        self._transport = make_transport(config, self._loader)
        self._socket: zmq.asyncio.Socket | None = None
        self._pull: PullInProgress | None = None
        self._chunk = ChunkSize()
        self._pull_everything = False  # left out of an epoch: what we have may be anything
        self._bad_pulls = 0
        self._backwards_since: float | None = None
        self._request_id = 0  # of the newest request; answers to earlier ones are passed over
        self._unanswered_since: float | None = None
        self._heard_at = time.monotonic()
        self._proposal: tuple[Propose, Layout] | None = None
        self._transfer: Transfer | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._report: Received | None = None
        self._staged: Transfer | None = None

    async def run(self) -> None:
        """Join and follow the learner until cancelled.

        Consumes messages of the publisher; waits for them and for its own receive; asks every half second when idle.
        Raises RunFailure when going on is pointless (vLLM hangs or refuses the weights, versions go back), UserError
        when the learner does not let this actor in, or speaks another schema version.
        """
        if self._endpoint == STATIC:
            await self._loader.label(0)
            self._now_at(0)
            await asyncio.Event().wait()
        self._connect()
        try:
            await self._join()
            while True:
                envelope = await self._next()
                if envelope is None:
                    await self._ask_again()
                else:
                    await self._handle(envelope)
        finally:
            await self._stop_receiving()
            self._drop_pull()
            self._transport.close()
            await self._send(Leave(incarnation=self._incarnation))
            self._close()

    def _connect(self) -> None:
        """A socket with an identity of its own: the publisher must not take it for one that it knew."""
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        configure_socket(self._socket)  # type: ignore[arg-type]
        self._socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)
        self._dialler.attach(self._socket)
        self._socket.connect(self._endpoint)
        self._heard_at = time.monotonic()

    def _close(self) -> None:
        assert self._socket is not None
        self._dialler.detach()
        self._socket.close()
        self._socket = None

    async def _reconnect(self) -> None:
        """Join anew over another socket. What was under way is void: the publisher has lost this member, or will. But a
        pull goes on where it is, in smaller chunks: the link may have become too slow for the last one."""
        if self._dialler.suspicion is not None:
            raise UserError(self._dialler.suspicion)
        log.warning("weights: no word from the publisher for %.0f s; joining over a new connection", SILENCE_S)
        await self._stop_receiving()
        self._chunk.lost()
        self._close()
        self._connect()
        await self._join()

    # -------------------------------------------------------------- messages

    async def _next(self) -> Envelope | None:
        """The next message, or None after a while without one. A failure of the receiving task is raised here."""
        assert self._socket is not None
        if self._receiving is not None and self._receiving.done():
            self._receiving.result()
        if (refusal := self._dialler.refused()) is not None:
            raise UserError(refusal)
        if not await self._socket.poll(int(ASK_EVERY_S * 1000)):
            return None
        frames = await self._socket.recv_multipart()
        self._heard_at = time.monotonic()
        try:
            return decode(frames)
        except SchemaMismatch as error:
            raise UserError(f"{self._endpoint}: {error}") from None
        except WireError as error:
            log.warning("weights: message refused: %s", error)
            return None

    async def _handle(self, envelope: Envelope) -> None:
        answered_s = 0.0
        if isinstance(envelope.header, NoWork | Refused | Snapshot):
            if envelope.header.request_id != self._request_id:
                return  # to a request that was repeated; taking it as well would start a second pull
            if self._unanswered_since is not None:
                answered_s = time.monotonic() - self._unanswered_since
            self._unanswered_since = None
        match envelope.header:
            case NoWork():
                pass  # nothing newer than what we have
            case Refused(detail=detail):
                log.info("weights: publisher refuses (%s); joining", detail)
                self._drop_pull()
                self._pull_everything = True
                await self._join()
            case Snapshot():
                await self._on_snapshot(envelope, answered_s)
            case Propose():
                await self._on_propose(envelope)
            case Begin():
                await self._on_begin(envelope)
            case Commit():
                await self._on_commit(envelope.header)
            case Abort(epoch=epoch, reason=reason):
                log.warning("weights: epoch %d aborted: %s", epoch, reason)
                await self._stop_receiving()
            case header:
                log.warning("weights: unexpected %s", getattr(header, "type", "?"))

    async def _join(self) -> None:
        await self._send(Join(name=self._name, incarnation=self._incarnation))
        await self._ask()

    async def _ask(self) -> None:
        """Ask for the next chunk, or whether there is anything newer."""
        if self._pull is not None:
            request = self._pull.request()
        else:
            request = Pull(have=None if self._pull_everything else self.version)
        self._request_id += 1
        self._unanswered_since = time.monotonic()
        what = {"request_id": self._request_id, "max_bytes": self._chunk.num_bytes}
        await self._send(request.model_copy(update=what))

    async def _ask_again(self) -> None:
        """Ask, unless an earlier request may still be answered; after a long silence over a new socket."""
        if time.monotonic() - self._heard_at > SILENCE_S:
            await self._reconnect()
            return
        since = self._unanswered_since
        if since is not None:
            if time.monotonic() - since <= ANSWER_S:
                return
            self._chunk.lost()
        await self._ask()

    async def _send(self, header: Header) -> None:
        assert self._socket is not None
        send_frames(self._socket, encode(header))  # type: ignore[arg-type]

    def _check_model(self, model: str | None) -> None:
        """RunFailure for weights of another model than the engine was started for: they might even fit, and then be
        sampled from with the wrong tokenizer."""
        if self._model is not None and model != self._model:
            raise RunFailure(
                f"{self._name}: the learner trains another model now than the one that this actor was started for; "
                "it must be restarted"
            )

    # -------------------------------------------------------------- pull

    async def _on_snapshot(self, envelope: Envelope, answered_s: float) -> None:
        header = envelope.header
        assert isinstance(header, Snapshot)
        self._check_model(header.model)
        if self._highest is not None and header.version < self._highest:
            self._refuse_to_go_back(header.version, self._highest)
            return
        self._backwards_since = None
        try:
            self._chunk.arrived(answered_s)
            if self._pull is not None and not self._pull.is_of(header):
                self._drop_pull()  # the learner has moved on, or is another one
            if self._pull is not None:
                self._pull.add(envelope)
            elif header.offset == 0:
                self._pull = PullInProgress(envelope)
            if self._pull is not None and self._pull.complete:
                self._pull.verify()
                await self._load_pulled(self._pull)
        except WireError as error:
            self._drop_pull()
            self._bad_pulls += 1
            metrics.UPDATE_FAILURES.labels("pull").inc()
            log.warning("weights: pull refused: %s", error)
            if self._bad_pulls >= _MAX_BAD_PULLS:
                raise RunFailure(f"weights: {self._bad_pulls} pulls in a row were bad; the last: {error}") from error
        await self._ask()

    def _refuse_to_go_back(self, version: int, highest: int) -> None:
        """Load nothing, and let `_ask_again` ask whether there is something newer; RunFailure after a while."""
        self._drop_pull()
        text = f"learner serves version {version}, this actor has sampled from {highest}"
        if self._backwards_since is None:
            self._backwards_since = time.monotonic()
            log.warning("weights: %s", text)
        elif time.monotonic() - self._backwards_since > BACKWARDS_S:
            raise RunFailure(f"{text}: versions do not go back in one incarnation; the actor must be restarted")

    async def _load_pulled(self, pull: PullInProgress) -> None:
        update = Update("staged", pull.version, pull.layout.manifest().decode(), path=pull.staged.path)
        try:
            pause_s = await to_its_end(self._loader.load(pull.version, update))
        except LoadFailed as error:
            metrics.UPDATE_FAILURES.labels("load").inc()
            raise RunFailure(f"version {pull.version}: {error}") from error
        finally:
            self._drop_pull()
        self._bad_pulls = 0
        metrics.UPDATES.labels("pull").inc()
        metrics.RECEIVED_BYTES.labels("pull").inc(pull.layout.total_bytes)
        await self._applied(pull.version, pause_s)

    def _drop_pull(self) -> None:
        if self._pull is not None:
            self._pull.close()
            self._pull = None

    # -------------------------------------------------------------- epochs

    async def _on_propose(self, envelope: Envelope) -> None:
        propose = envelope.header
        assert isinstance(propose, Propose)
        self._check_model(propose.model)
        if self._highest is not None and propose.version <= self._highest:
            log.warning("weights: version %d proposed after %d; not taking part", propose.version, self._highest)
            return
        if self._proposal is None or self._proposal[0] != propose:
            try:
                layout = Layout.from_manifest(envelope.blob("manifest"))
            except WireError as error:
                log.warning("weights: proposal refused: %s", error)
                return
            if self._transfer is not None and self._transfer.begin.epoch != propose.epoch:
                await self._stop_receiving()
            self._drop_pull()
            self._proposal = (propose, layout)
        await self._send(Ready(epoch=propose.epoch, version=propose.version, incarnation=self._incarnation))

    async def _on_begin(self, envelope: Envelope) -> None:
        begin = envelope.header
        assert isinstance(begin, Begin)
        if self._proposal is None:
            return
        propose, layout = self._proposal
        if (begin.epoch, begin.version) != (propose.epoch, propose.version):
            return
        if self._transfer is not None and self._transfer.key == (begin.epoch, begin.version):
            if self._report is not None:  # repeated, so our answer may be lost
                await self._send(self._report)
            return
        self._report = None
        handles = envelope.blob("handles") if "handles" in envelope.payload else b""
        self._transfer = Transfer(propose, begin, layout, handles)
        self._receiving = asyncio.create_task(self._receive(self._transfer))

    async def _receive(self, transfer: Transfer) -> None:
        """Take our part in the broadcast and report how it went."""
        begin = transfer.begin
        report = Received(epoch=begin.epoch, version=begin.version, incarnation=self._incarnation, ok=False)
        try:
            digest = await self._transport.receive(transfer)
        except (TransferFailed, LoadFailed) as error:
            log.warning("weights: version %d did not come: %s", begin.version, error)
            report = report.model_copy(update={"reason": str(error)[:500]})
            metrics.UPDATE_FAILURES.labels("transfer").inc()
        else:
            report = report.model_copy(update={"ok": True, "digest": digest})
            metrics.RECEIVED_BYTES.labels("broadcast").inc(begin.total_bytes)
            if digest == begin.digest:
                self._staged = transfer
            else:
                metrics.UPDATE_FAILURES.labels("digest").inc()
        if self._loader.paused:  # nccl: the model holds what is not committed, or a mixture
            self.version = None
        self._report = report
        await self._send(report)

    async def _on_commit(self, commit: Commit) -> None:
        staged, self._staged = self._staged, None
        if staged is None or staged.key != (commit.epoch, commit.version):
            if self.version == commit.version:  # repeated
                await self._send(Applied(version=commit.version, incarnation=self._incarnation, pause_s=0.0))
            return
        try:
            pause_s = await to_its_end(self._transport.load(staged))
        except LoadFailed as error:
            log.error("weights: version %d: %s; sampling stands still until a pull repairs it", commit.version, error)
            self.version = None
            self._pull_everything = True
            metrics.UPDATE_FAILURES.labels("load").inc()
            return
        metrics.UPDATES.labels("broadcast").inc()
        await self._applied(commit.version, pause_s)

    async def _stop_receiving(self) -> None:
        """Void what is under way; the old weights go on serving."""
        if self._receiving is not None:
            self._receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiving
            self._receiving = None
        self._transport.discard()
        self._proposal = self._transfer = self._staged = self._report = None

    # -------------------------------------------------------------- versions

    async def _applied(self, version: int, pause_s: float) -> None:
        self._pull_everything = False
        self._now_at(version)
        log.info("weights: version %d, sampling stood still for %.3f s", version, pause_s)
        await self._send(Applied(version=version, incarnation=self._incarnation, pause_s=pause_s))

    def _now_at(self, version: int) -> None:
        self.version = self._highest = version
        self._on_version(version)

"""Gets what an actor without a volume lacks: its model's configuration and tokenizer, from the learner.

    Hello --> broker: where is the learner? --> PullFiles, chunk by chunk --> digests agree --> RUN_DIR/models/NAME/

The learner may not be there for minutes, and may be restarted in between: whenever it does not answer, the broker is
asked again where it is. Runs before vLLM is imported and without an event loop, because vLLM's process may be forked
(actor/environment.py); what it opens is closed again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from actor import chunks
from actor.follow import STATIC
from common.cli import Process
from common.client import configure_socket, send_frames
from common.curve import Dialler
from common.errors import BrokerUnavailable, NotLetIn, RunFailure, SchemaMismatch, UserError, WireError
from common.introduction import connect
from common.keys import Keys
from common.lifecycle import StopFlag
from common.messages import ModelFiles, PullFiles, Refused
from common.model_files import check_listing, set_digest
from common.weights import digest_of
from common.wire import Envelope, decode, encode

log = logging.getLogger(__name__)

ASK_EVERY_S = 0.5
ANSWER_S = 5.0
"""Without an answer for so long the learner is taken to be gone, and the broker is asked where it is."""
TELL_EVERY_S = 30.0
_POLL_MS = 100
_HELLO_TIMEOUT_S = 10.0
_MAX_BAD = 3


@dataclass(frozen=True)
class LearnersModel:
    """A model's directory without weights, and the name of the set of its files (`common.model_files.set_digest`)."""

    path: Path
    digest: str


class FilesInProgress:
    """Collects the chunks of one set of files."""

    def __init__(self, first: Envelope) -> None:
        """Begin with the reply at offset 0; WireError if it is out of bounds or contradicts itself."""
        header = first.header
        assert isinstance(header, ModelFiles)
        self._buffer = bytearray(check_listing(header.files))
        self.files = header.files
        self.digest = set_digest(header.files)
        if header.model != self.digest:
            raise WireError(f"model files: named {header.model[:16]}, but the list of them gives {self.digest[:16]}")
        self._received = 0
        self.add(first)

    @property
    def complete(self) -> bool:
        """All bytes are there."""
        return self._received == len(self._buffer)

    def add(self, envelope: Envelope) -> None:
        """Take the next chunk; WireError for another one, or for more than was announced."""
        header = envelope.header
        assert isinstance(header, ModelFiles)
        chunk = envelope.blob("chunk")
        if header.offset != self._received or not 0 < len(chunk) <= len(self._buffer) - self._received:
            raise WireError(
                f"model files: {len(chunk)} bytes at {header.offset} came, where {self._received} of "
                f"{len(self._buffer)} are here"
            )
        self._buffer[self._received : self._received + len(chunk)] = chunk
        self._received += len(chunk)

    def request(self) -> PullFiles:
        """What to ask for next."""
        return PullFiles(model=self.digest, offset=self._received)

    def write(self, folder: Path) -> None:
        """Check every digest, then replace `folder` by one with these files; it is never there half. WireError for a
        digest that does not agree, RunFailure when the files cannot be written."""
        contents, start = [], 0
        for file in self.files:
            content = bytes(self._buffer[start : start + file.size_bytes])
            start += file.size_bytes
            if digest_of(content) != file.digest:
                raise WireError(f"model files: the digest of {file.name} does not agree with its content")
            contents.append((file.name, content))
        staged = folder.with_name(f".{folder.name}.new")
        try:
            for leftover in (staged, folder):
                shutil.rmtree(leftover, ignore_errors=True)
            staged.mkdir(parents=True)
            for name, content in contents:
                with (staged / name).open("wb") as file_out:
                    file_out.write(content)
                    file_out.flush()
                    os.fsync(file_out.fileno())
            staged.rename(folder)
        except OSError as error:
            raise RunFailure(f"cannot write the model's files to {folder}: {error}") from error


def learners_model(process: Process, keys: Keys | None) -> LearnersModel | None:
    """What this actor needs before its engine can start; None when asked to stop while it waits.

    A broker that does not answer is waited for like the learner. UserError for what waiting does not mend.
    """
    folder = process.paths.served_models / process.name
    part = "model"
    try:
        with connect(process, "actor", keys) as client:

            def find() -> str | None:
                try:
                    return client.hello(_HELLO_TIMEOUT_S).weights_endpoint
                except NotLetIn as error:
                    raise UserError(str(error)) from None
                except BrokerUnavailable as error:
                    log.warning("%s", error)
                    return None

            def alive() -> None:
                process.health.beat(part, "waiting for a learner to get the model's files from")

            return wait_for_model(find, keys, folder, process.stop, alive)
    finally:
        process.health.finish(part)
        zmq.Context.instance().destroy(linger=0)  # its threads end here: vLLM may be forked next


def wait_for_model(
    find_learner: Callable[[], str | None],
    keys: Keys | None,
    folder: Path,
    stop: StopFlag,
    alive: Callable[[], None] = lambda: None,
) -> LearnersModel | None:
    """Get the files from whichever learner `find_learner` (asks the broker) names, into `folder`.

    None when a stop is asked for meanwhile; `alive` is called as long as it waits. UserError when that learner serves
    no files or speaks another schema version, RunFailure when what it sends is bad again and again.
    """
    num_bad, told_at, chunk = 0, time.monotonic(), chunks.ChunkSize()
    while not stop:
        alive()
        endpoint = find_learner()
        if endpoint == STATIC:
            raise UserError(
                "actor.model_from=learner, but this run has no learner that sends weights; set actor.model_from=disk"
            )
        try:
            files = None if endpoint is None else pull(endpoint, keys, stop, alive, chunk)
            if files is not None:
                files.write(folder)
                log.info("model files from %s: %s", endpoint, ", ".join(file.name for file in files.files))
                return LearnersModel(folder, files.digest)
        except SchemaMismatch as error:
            raise UserError(f"{endpoint}: {error}") from None
        except WireError as error:
            num_bad += 1
            log.warning("model files refused: %s", error)
            if num_bad >= _MAX_BAD:
                raise RunFailure(f"the learner sent unusable model files {num_bad} times; the last: {error}") from error
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            log.info("waiting for %s", "a learner" if endpoint is None else f"the learner at {endpoint}")
        stop.wait(ASK_EVERY_S)
    return None


def pull(
    endpoint: str, keys: Keys | None, stop: StopFlag, alive: Callable[[], None], chunk: chunks.ChunkSize
) -> FilesInProgress | None:
    """All files of the learner at `endpoint`, whatever it trains by the end; None when it does not answer."""
    files: FilesInProgress | None = None
    with contextlib.closing(_Connection(endpoint, keys)) as learner:
        while files is None or not files.complete:
            request = PullFiles() if files is None else files.request()
            asked_at = time.monotonic()
            reply = learner.ask(request.model_copy(update={"max_bytes": chunk.num_bytes}), stop, alive)
            if reply is None:
                chunk.lost()
                return None
            if isinstance(reply.header, ModelFiles):
                chunk.arrived(time.monotonic() - asked_at)
            match reply.header:
                case ModelFiles(model=model) if files is not None and model == files.digest:
                    files.add(reply)
                case ModelFiles():  # the first, or the learner was restarted with another model
                    files = FilesInProgress(reply)
                case Refused(detail=detail):
                    raise UserError(f"the learner at {endpoint} sends no model files: {detail}")
                case other:
                    raise WireError(f"the learner answers a request for model files with {other!r}"[:300])
    return files


class _Connection:
    """A socket to a learner's weights socket, under an identity of its own."""

    def __init__(self, endpoint: str, keys: Keys | None) -> None:
        self._ids = itertools.count(1)
        self._dialler = Dialler(endpoint, "learner", keys, client="actor")
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        configure_socket(self._socket)
        self._socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * chunks.LARGEST_BYTES)
        self._dialler.attach(self._socket)
        self._socket.connect(endpoint)

    def ask(self, request: PullFiles, stop: StopFlag, alive: Callable[[], None]) -> Envelope | None:
        """The reply; None when there is none in time, or a stop is asked for. UserError when keys do not fit."""
        request = request.model_copy(update={"request_id": next(self._ids)})
        with contextlib.suppress(zmq.Again):  # refused just now, as the dialler is about to say
            send_frames(self._socket, encode(request))
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline and not stop:
            alive()
            if self._socket.poll(_POLL_MS):
                envelope = decode(self._socket.recv_multipart())
                if envelope.header.request_id == request.request_id:
                    return envelope
            if (refusal := self._dialler.refused()) is not None:
                raise UserError(refusal)
        if self._dialler.suspicion is not None:
            raise UserError(self._dialler.suspicion)
        return None

    def close(self) -> None:
        self._dialler.detach()
        self._socket.close()

"""The evaluator's side of scoring: starts the worker, sends it groups, resolves Futures, replaces it when it dies.

    worker dies or is silent    what it had been asked is asked once more of a new one; a second time: CallFailed
    score is not finite         CallFailed naming the model
    worker cannot start         at the evaluator's start UserError or RunFailure, later CallFailed

One thread looks after the worker; `submit` may be called from any. Silence has a deadline, and only when something is
outstanding, so every Future ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from common.errors import UserError
from common.reward_model import RewardModelFacts
from evaluator import metrics
from evaluator.pool import CallFailed

START_TIMEOUT_S = 600.0  # a large model is read from disk
SEND_TIMEOUT_S = 60.0
SILENCE_S = 45.0
GATHER_S = 0.005
MAX_DEATHS = 2
_TICK_S = 0.25
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from evaluator.scoring.worker import main; main()"


@dataclass(frozen=True)
class ScoringSettings:
    """How the worker runs. `silence_s`: how long it may say nothing while it has work."""

    device: str = "cpu"
    dtype: str = "float32"
    tokens_per_batch: int = 16_384
    gather_s: float = GATHER_S
    silence_s: float = SILENCE_S


@dataclass
class _Request:
    """One group at one model. `deaths`: workers that died while it was outstanding."""

    model: str
    message: bytes
    futures: list[Future[float]]
    deaths: int = 0
    left: set[int] = field(default_factory=set)


class _WorkerDied(Exception):
    """The worker ended, or was silent for too long."""


class ScoringClient:
    """Scores texts with reward models, by the names that the configuration gives them (their directories)."""

    def __init__(self, models: Mapping[str, RewardModelFacts], settings: ScoringSettings | None = None) -> None:
        """Start the worker; `await_start` waits until it has loaded its models."""
        self._models, self._settings = dict(models), settings or ScoringSettings()
        self._changed = threading.Condition()
        self._outstanding: dict[int, _Request] = {}
        self._next_id = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._ready = self._closed = False
        self._last_sign = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._spawn()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def await_start(self) -> None:
        """Wait for the models. UserError naming one that cannot be used; CallFailed when the worker died."""
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def submit(self, model: str, prompt: str, texts: Sequence[str], group: str = "") -> list[Future[float]]:
        """One Future per text yields its served score, or raises CallFailed."""
        futures: list[Future[float]] = [Future() for _ in texts]
        with self._changed:
            if self._closed:
                raise CallFailed(f"reward model {model}: the evaluator is closing")
            number, self._next_id = self._next_id, self._next_id + 1
            message = json.dumps({"id": number, "model": model, "prompt": prompt, "texts": list(texts)}).encode()
            if not self._outstanding:
                self._last_sign = time.monotonic()
            self._outstanding[number] = _Request(model, message, futures, left=set(range(len(texts))))
            if not texts:
                del self._outstanding[number]
            elif self._ready:
                self._send(message)
            self._changed.notify_all()
        return futures

    def close(self) -> None:
        """End the worker; what is outstanding fails with CallFailed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._kill()
        self._fail(list(self._outstanding), "the evaluator is closing")

    # ---------------------------------------------------------------- the thread that looks after the worker

    def _run(self) -> None:
        """Consumes the worker's answers; waits for one, or, without a worker, for a request; is unblocked by either, by
        the worker's end, by its silence, or by `close`."""
        try:
            while not self._closed:
                try:
                    if self._ready:
                        self._take(self._receive())
                    else:
                        self._revive()
                except _WorkerDied as death:
                    if not self._closed:
                        self._bury(str(death))
        finally:
            self._closed = True  # nobody would answer what comes from here on
            self._fail(list(self._outstanding), "the evaluator is closing")

    def _revive(self) -> None:
        """Start a worker once something is asked, and ask it all that is outstanding."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._outstanding)
        if self._closed:
            return
        try:
            self._spawn()
            self._await_ready()
        except (CallFailed, UserError, OSError) as error:
            self._kill()
            self._fail(list(self._outstanding), f"the scoring worker cannot be started again: {error}")
            return
        with self._changed:
            self._last_sign = time.monotonic()
            for request in self._outstanding.values():
                self._send(request.message)

    def _bury(self, reason: str) -> None:
        """Count a death against everything outstanding; give up what has seen too many."""
        with self._changed:
            self._kill()
            hopeless = []
            for number, request in self._outstanding.items():
                request.deaths += 1
                if request.deaths >= MAX_DEATHS:
                    hopeless.append(number)
        metrics.SCORING_WORKERS_REPLACED.inc()
        self._fail(hopeless, f"its worker died {MAX_DEATHS} times on the same item: {reason}")

    def _receive(self) -> dict[str, Any]:
        connection = self._connection
        assert connection is not None
        try:
            while not connection.poll(_TICK_S):
                if self._closed:
                    raise _WorkerDied("closed")
                with self._changed:
                    silent_s = time.monotonic() - self._last_sign
                    if self._outstanding and silent_s > self._settings.silence_s:
                        raise _WorkerDied(f"no answer for {silent_s:.0f} s")
            reply: dict[str, Any] = json.loads(connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise _WorkerDied(f"{type(error).__name__}{self._exit()}") from None
        self._last_sign = time.monotonic()
        return reply

    def _take(self, reply: dict[str, Any]) -> None:
        """Resolve the Futures that an answer is about."""
        if "failed" in reply:
            self._fail(reply["failed"], str(reply["reason"]))
            return
        facts = self._models[reply["model"]]
        metrics.SCORES.labels(facts.kind).inc(len(reply["scores"]))
        metrics.SCORES_CUT.labels(facts.kind).inc(reply["cut"])
        metrics.SCORE_TOKENS.labels(facts.kind).inc(reply["tokens"])
        if reply["tokens"]:
            metrics.SCORE_BATCH_SIZE.observe(len(reply["scores"]))
            metrics.SCORE_BATCH_SECONDS.observe(reply["seconds"])
        for number, index, score in reply["scores"]:
            with self._changed:
                request = self._outstanding.get(number)
                if request is None:
                    continue
                request.left.discard(index)
                if not request.left:
                    del self._outstanding[number]
            with contextlib.suppress(InvalidStateError):  # cancelled: its group is no longer wanted
                if score is None:
                    text = f"reward model {request.model}: its score of rollout {index} is not a finite number"
                    request.futures[index].set_exception(CallFailed(text))
                else:
                    request.futures[index].set_result(float(score))

    def _fail(self, numbers: Sequence[int], reason: str) -> None:
        for number in numbers:
            with self._changed:
                request = self._outstanding.pop(number, None)
            for index in sorted(request.left) if request is not None else []:
                assert request is not None
                with contextlib.suppress(InvalidStateError):
                    request.futures[index].set_exception(CallFailed(f"reward model {request.model}: {reason}"))

    # ---------------------------------------------------------------- the process

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            if self._settings.device == "cpu":
                environment["OMP_NUM_THREADS"] = "1"
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_TIMEOUT_S), 0))
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        with self._changed:
            self._process, self._connection = process, Connection(ours.detach())
            if self._closed:
                process.kill()
        settings = {key: value for key, value in asdict(self._settings).items() if key != "silence_s"}
        models = {name: asdict(facts) for name, facts in self._models.items()}
        self._send(json.dumps({**settings, "models": models}).encode())

    def _await_ready(self) -> None:
        connection = self._connection
        assert connection is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while not connection.poll(_TICK_S):
                if time.monotonic() > deadline:
                    raise CallFailed(f"the scoring worker did not load its models within {START_TIMEOUT_S:.0f} s")
            reply = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            raise CallFailed("the scoring worker died while loading its models; see the evaluator's log") from None
        if "unusable" in reply:
            model = f"reward model {reply['unusable']}: " if reply["unusable"] else ""
            raise UserError(f"{model}cannot be used: {reply['reason']}")
        self._ready = True

    def _send(self, message: bytes) -> None:
        """Send, or end the worker: a message that was half sent cannot be taken back."""
        assert self._connection is not None
        try:
            self._connection.send_bytes(message)
        except OSError:
            if self._process is not None:
                self._process.kill()

    def _exit(self) -> str:
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            return "" if process is None else f" (exit code {process.wait(5)})"
        return ""

    def _kill(self) -> None:
        """End the process at once, if there is one."""
        with self._changed:
            self._ready = False
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.wait()
        if connection is not None:
            connection.close()

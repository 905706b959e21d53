"""The child side of the scoring client: gathers requests, scores them in batches, answers after each batch. JSON.

    client -> {"device", "dtype", "tokens_per_batch", "gather_s", "models": {name: facts}}      once
    worker -> {"ready": true} | {"unusable": name or "", "reason": "..."} (and exits)
    client -> {"id": 7, "model": name, "prompt": "...", "texts": ["...", ...]}                   one group
    worker -> {"scores": [[id, index, score or null], ...], "model", "tokens", "cut", "seconds"}  one batch
           |  {"failed": [ids], "reason": "..."}

A thread reads requests while the model runs, so that the client never waits to send. It cannot outlive its parent.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from common.lifecycle import die_with_parent
from common.reward_model import Encoded, RewardModelFacts, batches
from evaluator.worker import describe, send

Inbox = queue.SimpleQueue["dict[str, Any] | None"]


class Scoring(Protocol):
    """A loaded reward model (evaluator.scoring.model.RewardModel)."""

    facts: RewardModelFacts

    def encode(self, prompt: str, texts: list[str]) -> list[Encoded | None]:
        """Tokens of each text; None where there is nothing to read."""

    def score(self, ids: list[list[int]]) -> list[float | None]:
        """Served scores of one batch; None where a score is not finite."""


@dataclass(frozen=True)
class _Item:
    """One text to score: which request it is of, its place there, its tokens."""

    request: int
    index: int
    encoded: Encoded


def main() -> None:
    """The worker: `sys.argv` is [-c, sys.path, descriptor of the socket]."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(int(sys.argv[2]))
    try:
        settings = json.loads(connection.recv_bytes())
        models = _load(connection, settings)
        if models is None:
            return
        send(connection, {"ready": True})
        inbox: Inbox = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
        serve(connection, inbox, models, settings["tokens_per_batch"], settings["gather_s"])
    except (EOFError, ConnectionError):
        return


def serve(
    connection: Connection[Any, Any], inbox: Inbox, models: dict[str, Scoring], tokens_per_batch: int, gather_s: float
) -> None:
    """Consumes requests; waits for one, then `gather_s` for more, up to a batch's tokens; ends with its client."""
    while (request := inbox.get()) is not None:
        waiting: dict[str, list[_Item]] = {}
        deadline, num_tokens = time.monotonic() + gather_s, 0
        while request is not None:
            num_tokens += _prepare(connection, request, models, waiting)
            left_s = deadline - time.monotonic()
            if num_tokens >= tokens_per_batch or left_s <= 0:
                break
            try:
                request = inbox.get(timeout=left_s)
            except queue.Empty:
                break
        for name, items in waiting.items():
            _score(connection, name, models[name], items, tokens_per_batch)
        if request is None:
            return


def _prepare(
    connection: Connection[Any, Any],
    request: dict[str, Any],
    models: dict[str, Scoring],
    waiting: dict[str, list[_Item]],
) -> int:
    """Tokenise a request into `waiting`; returns its tokens. What has nothing to read is answered at once."""
    name = request["model"]
    begin = time.perf_counter()
    try:
        encoded = models[name].encode(request["prompt"], request["texts"])
    except Exception as error:  # whatever goes wrong is reported to the client, which returns the lease
        send(connection, {"failed": [request["id"]], "reason": describe(error)})
        return 0
    items = [_Item(request["id"], index, found) for index, found in enumerate(encoded) if found is not None]
    floor = models[name].facts.floor
    blank = [[request["id"], index, floor] for index, found in enumerate(encoded) if found is None]
    if blank:
        seconds = time.perf_counter() - begin
        send(connection, {"scores": blank, "model": name, "tokens": 0, "cut": 0, "seconds": seconds})
    waiting.setdefault(name, []).extend(items)
    return sum(len(item.encoded.ids) for item in items)


def _score(connection: Connection[Any, Any], name: str, model: Scoring, items: list[_Item], budget: int) -> None:
    """Score items in batches of near lengths; an answer after each."""
    for batch in batches([len(item.encoded.ids) for item in items], budget):
        chosen = [items[index] for index in batch]
        begin = time.perf_counter()
        try:
            scores = model.score([item.encoded.ids for item in chosen])
        except Exception as error:
            send(connection, {"failed": sorted({item.request for item in chosen}), "reason": describe(error)})
            continue
        send(
            connection,
            {
                "scores": [[i.request, i.index, score] for i, score in zip(chosen, scores, strict=True)],
                "model": name,
                "tokens": sum(len(item.encoded.ids) for item in chosen),
                "cut": sum(item.encoded.num_cut > 0 for item in chosen),
                "seconds": time.perf_counter() - begin,
            },
        )


def _load(connection: Connection[Any, Any], settings: dict[str, Any]) -> dict[str, Scoring] | None:
    """The models by name; None, and the client is told why, when one cannot be used."""
    name = ""
    try:
        from evaluator.scoring.model import RewardModel, use_device

        use_device(settings["device"])
        models: dict[str, Scoring] = {}
        for name, facts in settings["models"].items():
            models[name] = RewardModel(name, RewardModelFacts(**facts), settings["device"], settings["dtype"])
    except Exception as error:
        send(connection, {"unusable": name, "reason": describe(error)})
        return None
    return models


def _receive(connection: Connection[Any, Any], inbox: Inbox) -> None:
    try:
        while True:
            inbox.put(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        inbox.put(None)

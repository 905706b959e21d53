"""Models' directories, and a learner of a few lines, for tests of actors that get their model's files from it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from common.messages import Header, PullFiles
from common.model_files import MODEL_FILE_NAMES
from common.wire import decode, encode
from tests.integration.weights_fakes import weights_config


def make_model(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"], "name": name}))
    (folder / "tokenizer.json").write_text(json.dumps([name, *range(1000)]))
    (folder / "merges.txt").write_text("a b\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "notes.txt").write_text("nothing of an actor's business")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sent(model: Path) -> dict[str, bytes]:
    """What an actor is to get of that model."""
    return {name: content for name, content in contents(model).items() if name in MODEL_FILE_NAMES}


class Learner:
    """Answers PullFiles on a socket of its own; `answer` gives the reply and its chunk, or None for silence."""

    def __init__(self, answer: Callable[[PullFiles], tuple[Header, bytes] | None]) -> None:
        self.requests: list[PullFiles] = []
        self._answer = answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(10):
                identity, *frames = self._socket.recv_multipart()
                request = decode(frames).header
                assert isinstance(request, PullFiles)
                self.requests.append(request)
                if (answer := self._answer(request)) is not None:
                    header = answer[0].model_copy(update={"request_id": request.request_id})
                    self._socket.send_multipart([identity, *encode(header, {"chunk": answer[1]})])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()


def config_of(model: Path, model_from: str) -> Any:
    config = weights_config()
    return config.model_copy(
        update={
            "model": str(model),
            "actor": config.actor.model_copy(update={"model_from": model_from}),
        }
    )

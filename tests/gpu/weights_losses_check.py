"""Losses in mid-broadcast with real engines: `python -m tests.gpu.weights_losses_check nccl|gloo [WORKDIR]`.

    learner process (WeightPublisher, card 0) --NCCL--> actor process (WeightReceiver, real vLLM AsyncLLM, card 1)

The learner stands still when half of a version is sent; then one side is lost:

1. the actor is killed -9: the publish ends at its deadlines without it, a new actor joins and takes the next version;
2. the actor is stopped (SIGSTOP): likewise, and once it goes on it pulls what it missed and takes part again;
3. the learner is killed -9: the actor's engine leaves the broadcast at its deadline and takes part with the next one.

After each, greedy outputs equal those of the same weights in a freshly loaded engine. gloo runs the same on the CPU.
Prints figures, exit 0 if right.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from common.config import RunConfig
from common.lifecycle import die_with_parent
from tests.integration.weights_rig import EngineRig, load_model, make_config, make_model

TRANSFER_S = 20.0
DEADLINE_S = 2 * TRANSFER_S + 10  # a broadcast that fails is repeated once; then its end is told
START_S = 240.0
BUCKET_BYTES = {"nccl": 16 << 20, "gloo": 64 << 10}
LARGE = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2048}  # more than NCCL takes without a reader


def config_for(model: Path, backend: str) -> RunConfig:
    device = "cuda" if backend == "nccl" else "cpu"
    weights = {"ready_timeout_s": 10.0, "transfer_timeout_s": TRANSFER_S, "bucket_bytes": BUCKET_BYTES[backend]}
    return make_config(model, device=device, backend=backend, **weights)


class Child:
    """One side as a process that takes words on its input and prints JSON lines."""

    def __init__(self, card: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.weights_losses_check", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": card},
        )
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # engines print, too
                self._said.put(json.loads(line))

    def ask(self, *words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def hear(self, key: str, timeout_s: float = DEADLINE_S) -> Any:
        """The next value said under `key`; others before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            said = self._said.get(timeout=max(0.1, deadline - time.monotonic()))
            if key in said:
                return said[key]

    def wait_for_version(self, version: int, timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while self.hear("version", deadline - time.monotonic()) != version:
            pass

    def signal(self, signum: int) -> None:
        """To it and all that it has started."""
        for process in [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]:
            process.send_signal(signum)

    def close(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
        self._process.wait()


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def learner(backend: str, models: list[Path], port: int, first: int) -> None:
    """Publish `first`; then `publish N [held]` of the model N % 2. Held: stop at half of it until told `go`."""
    die_with_parent()
    from learner.weights import WeightPublisher, gather_full_tensors, gloo, nccl

    device = "cuda" if backend == "nccl" else "cpu"
    weights = [list(gather_full_tensors(load_model(path).to(device))) for path in models]
    held, sent = False, 0
    # Called for each parameter, or for each bucket.
    module, name, half = (nccl, "slot_view", len(weights[0]) // 2) if backend == "nccl" else (gloo, "_broadcast", 3)
    send = getattr(module, name)

    def sending(*arguments: Any) -> Any:
        nonlocal held, sent
        sent += 1
        if held and sent == half:
            held = False  # once; its repetition is not held
            say(held=True)
            sys.stdin.readline()
        return send(*arguments)

    setattr(module, name, sending)
    publisher = WeightPublisher(config_for(models[0], backend), host="127.0.0.1", port=port)
    publisher.publish(first, weights[first % 2])
    say(endpoint=publisher.endpoint)
    for line in sys.stdin:
        version, held, sent = int(line.split()[1]), "held" in line, 0
        began = time.monotonic()
        report = publisher.publish(version, weights[version % 2])
        say(report=[report.num_actors, report.num_excluded, round(time.monotonic() - began, 3)])


def actor(backend: str, model: Path, endpoint: str) -> None:
    """Receive; say each version; on any line say greedy outputs. The first ones are those of the model as loaded."""
    die_with_parent()
    rig = EngineRig(config_for(model, backend), **({"gpu_memory_utilization": 0.2} if backend == "nccl" else {}))
    say(greedy=rig.greedy())

    async def flow() -> None:
        receiver = rig.receiver(endpoint, on_version=lambda version: say(version=version))
        task = asyncio.create_task(receiver.run())
        while True:
            line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
            await asyncio.wait([task, line], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                say(died=repr(task.exception()))
                os._exit(1)
            say(greedy=await rig.greedy_outputs())

    rig.run(flow, timeout_s=3600)


def check(backend: str, workdir: Path) -> dict[str, Any]:
    """Run it; AssertionError says what differs. Returns seconds of each loss."""
    sizes = LARGE if backend == "nccl" else {}
    models = [make_model(workdir / name, seed=seed, tied=False, **sizes) for seed, name in enumerate(("even", "odd"))]
    figures: dict[str, Any] = {}
    children: list[Child] = []

    def start(card: str, *arguments: Any) -> Child:
        children.append(Child(card, *map(str, arguments)))
        return children[-1]

    def published(version: int) -> None:
        """An ordinary publish that the actor takes part in."""
        time.sleep(1.5)  # the actor asks twice a second, which makes it current
        source.ask("publish", version)
        report = source.hear("report")
        assert report[:2] == [1, 0], (version, report)
        sink.wait_for_version(version)

    def same_as_loaded() -> None:
        sink.ask("greedy")
        assert sink.hear("greedy") == expected, "greedy outputs differ from a freshly loaded engine's"

    def lose(version: int, what: str, victim: Child, signum: int) -> None:
        time.sleep(1.5)
        source.ask("publish", version, "held")
        assert source.hear("held")
        victim.signal(signum)
        if victim is not source:
            source.ask("go")
            report = source.hear("report")
            assert report[:2] == [0, 1], (what, report)
            figures[f"{what}_publish_s"] = report[2]

    try:
        source = start("0", backend, "--learner", *models, 0, 0)
        endpoint = source.hear("endpoint", START_S)
        sink = start("1", backend, "--actor", models[0], endpoint)
        expected = sink.hear("greedy", START_S)
        sink.wait_for_version(0)
        published(1)
        lose(2, "actor_killed", sink, signal.SIGKILL)
        sink = start("1", backend, "--actor", models[0], endpoint)
        assert sink.hear("greedy", START_S) == expected
        sink.wait_for_version(2)
        published(3)
        published(4)
        same_as_loaded()
        lose(5, "actor_stopped", sink, signal.SIGSTOP)
        began = time.monotonic()
        sink.signal(signal.SIGCONT)
        sink.wait_for_version(5)
        figures["actor_stopped_back_s"] = round(time.monotonic() - began, 3)
        published(6)
        same_as_loaded()
        lose(7, "learner_killed", source, signal.SIGKILL)
        began = time.monotonic()
        source = start("0", backend, "--learner", *models, endpoint.rsplit(":", 1)[1], 8)
        source.hear("endpoint", START_S)
        sink.wait_for_version(8, START_S)
        figures["learner_killed_back_s"] = round(time.monotonic() - began, 3)
        published(9)
        published(10)
        same_as_loaded()
    finally:
        for child in children:
            child.close()
    return figures


def main() -> None:
    backend, *rest = sys.argv[1:]
    if rest[:1] == ["--learner"]:
        learner(backend, [Path(rest[1]), Path(rest[2])], int(rest[3]), int(rest[4]))
    elif rest[:1] == ["--actor"]:
        actor(backend, Path(rest[1]), rest[2])
    elif rest:
        print(json.dumps(check(backend, Path(rest[0]))))
    else:
        with tempfile.TemporaryDirectory() as workdir:
            print(json.dumps(check(backend, Path(workdir))))


if __name__ == "__main__":
    main()

"""`python -m actor` as a process: real vLLM, a real socket, a broker of a few lines, weights that never change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from common.config import RunConfig, dump_config
from common.messages import (
    Ack,
    Header,
    Hello,
    Lease,
    LeaseWork,
    NoWork,
    Renew,
    ReturnLease,
    Sampling,
    SubmitGroup,
    Welcome,
)
from common.wire import Envelope, decode, encode
from tests.integration.actor_model import VOCAB, make_model

ROOT = Path(__file__).parents[2]


class MiniBroker:
    """Answers an actor: hands out `leases` and records what comes back."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.received: list[Envelope] = []
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            identity, *frames = self._socket.recv_multipart()
            envelope = decode(frames)
            self.received.append(envelope)
            reply, payload = self._reply(envelope.header)
            reply = reply.model_copy(update={"request_id": envelope.header.request_id})
            self._socket.send_multipart([identity, *encode(reply, payload)])

    def _reply(self, header: Header) -> tuple[Header, dict[str, Any]]:
        match header:
            case Hello():
                return Welcome(broker_incarnation="b", version=0, weights_endpoint="static"), {}
            case LeaseWork() if self.leases:
                return self.leases.pop(0), {"prompt_ids": np.array([5, 6, 7], np.int32)}
            case LeaseWork():
                time.sleep(0.02)
                return NoWork(), {}
            case _:
                return Ack(deadline_s=3.0), {}

    def of(self, kind: type[Header]) -> list[Envelope]:
        return [e for e in list(self.received) if isinstance(e.header, kind)]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()


class Scene:
    def __init__(self, directory: Path) -> None:
        self.broker = MiniBroker()
        make_model(directory / "model")
        config = RunConfig.model_validate(
            {
                "model": str(directory / "model"),
                "data": {"train": "unused"},
                "learner": {"device": "cpu"},
                "security": {"mode": "off"},  # the broker is played
                "actor": {
                    "device": "cpu",
                    "dtype": "float32",
                    "max_model_len": 512,
                    "max_num_seqs": 64,
                    "kv_cache_gib": 0.25,
                    "cpu_threads": str(max(os.sched_getaffinity(0))),
                    "enforce_eager": True,
                },
            }
        )
        dump_config(config, directory / "config.yaml")
        (directory / "endpoints.json").write_text(json.dumps({"actor": f"tcp://127.0.0.1:{self.broker.port}"}))
        self.began = time.monotonic()
        self.log = (directory / "actor.log").open("w+")
        self.process = psutil.Popen(
            [sys.executable, "-m", "actor", "--run-dir", str(directory), "--name", "actor-0"],
            cwd=ROOT,
            stderr=self.log,
        )

    def lease(self, task_id: str, max_tokens: int, *, tokens: int = 2) -> None:
        self.broker.leases.append(
            Lease(
                kind="generate",
                lease_id=f"lease-{task_id}",
                token=1,
                task_id=task_id,
                purpose="train",
                deadline_s=0.6,
                group_size=tokens,
                attempt=0,
                # Temperature 0.2: this model then never ends by itself.
                sampling=Sampling(max_tokens=max_tokens, temperature=0.2),
            )
        )

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the actor ended with {self.process.returncode}: {self.text()}"
            assert time.monotonic() < deadline, f"never happened: {what}: {self.text()}"
            time.sleep(0.01)

    def text(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def close(self) -> None:
        children = []
        if self.process.poll() is None:
            children = self.process.children(recursive=True)
            self.process.kill()
            self.process.wait(10)
        _, alive = psutil.wait_procs(children, 10)
        self.broker.close()
        self.log.close()
        assert not alive, f"orphans: {alive}"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_serves_then_stops_on_a_signal(scene: Scene) -> None:
    scene.lease("short", 8)
    scene.until(lambda: scene.broker.of(SubmitGroup), "the submit")
    print(f"first group {time.monotonic() - scene.began:.1f} s after the start")
    submit = scene.broker.of(SubmitGroup)[0]
    assert isinstance(submit.header, SubmitGroup)
    total = sum(m.num_tokens for m in submit.header.rollouts)
    assert submit.array("token_ids", "int32").shape == (total,)
    assert submit.array("token_ids", "int32").max() < VOCAB
    assert submit.array("logprobs", "float32").max() <= 0
    assert not submit.array("versions", "int32").any()
    assert len(submit.blob("texts")) == sum(m.text_bytes for m in submit.header.rollouts)

    scene.lease("long", 500, tokens=64)
    scene.until(lambda: scene.broker.of(Renew), "a renewal")
    children = scene.process.children(recursive=True)
    assert children, "the engine has its own process"
    began = time.monotonic()
    scene.process.send_signal(signal.SIGTERM)
    assert scene.process.wait(30) == 0, scene.text()
    print(f"stopped in {time.monotonic() - began:.1f} s")
    returned = [e.header for e in scene.broker.of(ReturnLease)]
    assert [(r.lease_id, r.failed) for r in returned if isinstance(r, ReturnLease)] == [("lease-long", False)]
    assert not psutil.wait_procs(children, 5)[1], "the engine's process is gone"
    assert "Traceback" not in scene.text()


def test_death_of_the_engine_ends_the_actor_and_returns_its_leases(scene: Scene) -> None:
    scene.lease("long", 500, tokens=64)
    scene.until(lambda: scene.broker.of(Renew), "a renewal")
    for child in scene.process.children(recursive=True):
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.kill()
    assert scene.process.wait(30) == 1, scene.text()
    returned = [e.header for e in scene.broker.of(ReturnLease)]
    assert [(r.lease_id, r.failed) for r in returned if isinstance(r, ReturnLease)] == [("lease-long", True)]
    assert "failed: actor-0: vLLM's engine process died" in scene.text()


def test_a_killed_actor_leaves_no_engine_behind(scene: Scene) -> None:
    scene.until(lambda: scene.broker.of(LeaseWork), "a request for work")
    children = scene.process.children(recursive=True)
    assert children
    scene.process.kill()
    scene.process.wait(10)
    assert not psutil.wait_procs(children, 10)[1], "the engine's process outlives the actor"


def test_a_model_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = {"model": str(tmp_path / "model"), "data": {"train": "x"}, "learner": {"device": "cpu"}}
    config["actor"] = {"device": "cpu", "enforce_eager": True}
    dump_config(RunConfig.model_validate(config), tmp_path / "config.yaml")
    ended = subprocess.run(
        [sys.executable, "-m", "actor", "--run-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"error: model {tmp_path / 'model'}: vLLM refuses it" in ended.stderr

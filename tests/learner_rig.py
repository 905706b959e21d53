"""What the learner's tests share: a tiny model, a configuration, groups made by hand, and a river without vLLM.

`River` plays actors and evaluator against a real broker: threads that submit random groups and verdicts.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import messages as m
from common.cli import Process
from common.config import RunConfig, dump_config
from common.lifecycle import RunPaths, StopFlag, wait_for_endpoint
from learner.batch import TakenGroup
from recipes.tiny_model import create_tiny_model
from tests.wire_keys import connect

ROOT = Path(__file__).parents[1]
VOCABULARY = 64


def tiny_model(path: Path, seed: int = 0) -> Path:
    """A random model of 2 layers; 1 MB with its tokenizer."""
    return create_tiny_model(
        path, seed=seed, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16
    )


def make_config(model: Path | str, **sections: Any) -> RunConfig:
    """A configuration for the CPU; `sections` are merged over it."""
    tree: dict[str, Any] = {
        "model": str(model),
        "data": {"train": "unused.jsonl"},
        "rollout": {"group_size": 4, "max_tokens": 16},
        "learner": {
            "device": "cpu",
            "dtype": "float32",
            "lr": 1e-3,
            "max_steps": 3,
            "groups_per_step": 2,
            "tokens_per_microbatch": 64,
            "max_staleness": 1,
            "checkpoint_every_steps": 100,
            "collective_timeout_s": 60.0,
        },
        "actor": {"device": "cpu", "dtype": "float32", "startup_timeout_s": 20.0},
        "weights": {"transfer_timeout_s": 10.0},
        "eval": {"samples": 2},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
    return RunConfig.model_validate(tree)


def make_group(
    number: int = 0,
    *,
    rewards: Iterable[float] = (1.0, 0.0, 0.0, 1.0),
    versions: int | list[list[int]] = 0,
    seed: int = 0,
    finish: str = "stop",
    task_id: str | None = None,
    texts: list[str] | None = None,
) -> TakenGroup:
    """A group with random tokens; `versions` is one for all tokens, or a list for each rollout (which sets lengths)."""
    rng = np.random.default_rng([seed, number])
    rewards = list(rewards)
    spans = versions if isinstance(versions, list) else [[versions] * int(rng.integers(2, 9)) for _ in rewards]
    texts = texts or ["text" for _ in rewards]
    encoded = [text.encode() for text in texts]
    rollouts = [
        m.RolloutMeta(num_tokens=len(span), text_bytes=len(text), finish_reason=finish)  # type: ignore[arg-type]
        for span, text in zip(spans, encoded, strict=True)
    ]
    verdicts = [
        m.Verdict(outcome="pass" if reward > 0.5 else "fail", reward=reward, rewards={"accuracy": reward})
        for reward in rewards
    ]
    total = sum(len(span) for span in spans)
    return TakenGroup(
        m.Group(task_id=task_id or f"train-{number}", purpose="train", rollouts=rollouts, verdicts=verdicts),
        rng.integers(0, VOCABULARY, 5, dtype=np.int32),
        rng.integers(0, VOCABULARY, total, dtype=np.int32),
        -rng.random(total, dtype=np.float32) - 4.0,
        np.concatenate([np.asarray(span, dtype=np.int32) for span in spans]),
        b"".join(encoded),
    )


def status_with(dead: list[str], asked: m.GetStatus, *, most: int = 20) -> dict[str, Any]:
    """A broker's status after the deaths of these tasks, in that order."""
    letters = [{"number": number, "task_id": task_id} for number, task_id in enumerate(dead, 1)]
    listed = letters[-most:] if asked.dead_after is None else letters[asked.dead_after :][:most]
    return {
        "dead_letters": listed,
        "counters": {"dead_lettered": len(dead)},
        "leases": {"generate": 1},
        "queues": {},
    }


def write_data(root: Path, num_train: int = 6, num_eval: int = 3) -> None:
    """DIR/data with problems that nobody will solve."""
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", num_train), ("eval", num_eval)):
        lines = [
            {"id": f"{name}{i}", "prompt": f"{i} + 1 =", "prompt_ids": [i + 1, 2, 3], "spec": {"kind": "none"}}
            for i in range(count)
        ]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"prompt": f"{i} + 1 =", "response": f" {i + 1}"} for i in range(20)]
    (data / "cold_start.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_process(root: Path, config: RunConfig, name: str = "learner") -> Process:
    """What a room's `run` is handed, in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    paths = RunPaths(root)
    dump_config(config, paths.config)
    return Process(config, paths, name, StopFlag())


class FakePublisher:
    """Keeps what is published; no actor is told."""

    endpoint = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.published: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.closed = False

    def stage(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> Any:
        return version, {name: tensor.clone() for name, tensor in tensors}

    def send(self, staged: Any) -> None:
        self.published.append(staged)

    def close(self) -> None:
        self.closed = True

    @property
    def versions(self) -> list[int]:
        return [version for version, _ in self.published]


@contextlib.contextmanager
def broker_process(root: Path) -> Iterator[RunPaths]:
    """`python -m broker` for the configuration in `root`."""
    paths = RunPaths(root)
    paths.endpoints.unlink(missing_ok=True)
    with (root / "broker.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "--run-dir", str(root), "--name", "broker"], cwd=ROOT, stderr=log
        )
    try:
        wait_for_endpoint(paths, "actor", timeout_s=30)
        yield paths
    finally:
        process.terminate()
        process.wait(timeout=20)


class River:
    """An actor and an evaluator, each a thread, that answer every lease with random tokens and rewards.

    What a task yields depends on its prompt and `seed` alone. `reward(rng)` makes a rollout's reward.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        seed: int = 0,
        reward: Callable[[np.random.Generator], float] = lambda rng: float(rng.random() < 0.5),
        logprob: float = -4.5,
        delay_s: float = 0.0,
    ) -> None:
        self.paths, self.seed, self.reward, self.logprob, self.delay_s = paths, seed, reward, logprob, delay_s
        self.num_generated = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._actor, self._evaluator)]

    def __enter__(self) -> River:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()

    def _actor(self) -> None:
        version = 0
        with connect(self.paths, "actor", "river-actor") as client:
            while not self._stop.is_set() and client.hello().weights_endpoint is None:
                self._stop.wait(0.05)
            version = client.hello().version
            while not self._stop.is_set():
                reply = client.request(m.LeaseWork(kind="generate", version=version, wait_s=0.2))
                header = reply.header
                if isinstance(header, m.Refused):
                    version = client.hello().version
                if not isinstance(header, m.Lease):
                    continue
                self._stop.wait(self.delay_s)
                assert header.sampling is not None
                rng = np.random.default_rng([self.seed, *reply.array("prompt_ids", "int32").tolist()])
                lengths = rng.integers(2, header.sampling.max_tokens, header.group_size).tolist()
                total = sum(lengths)
                rollouts = [m.RolloutMeta(num_tokens=n, text_bytes=4, finish_reason="stop") for n in lengths]
                submit = m.SubmitGroup(
                    lease_id=header.lease_id, token=header.token, task_id=header.task_id, rollouts=rollouts
                )
                frames: dict[str, Any] = {
                    "token_ids": rng.integers(0, VOCABULARY, total, dtype=np.int32),
                    "logprobs": np.full(total, self.logprob, dtype=np.float32),
                    "versions": np.full(total, version, dtype=np.int32),
                    "texts": b"text" * len(lengths),
                }
                answer = client.request(submit, frames).header
                assert isinstance(answer, (m.Ack, m.Refused)), answer
                assert not (isinstance(answer, m.Refused) and answer.code == "invalid"), answer
                self.num_generated += 1
                version = client.hello().version

    def _evaluator(self) -> None:
        with connect(self.paths, "evaluator", "river-evaluator") as client:
            client.hello()
            while not self._stop.is_set():
                reply = client.request(m.LeaseWork(kind="grade", wait_s=0.2))
                header = reply.header
                if not isinstance(header, m.Lease):
                    continue
                rng = np.random.default_rng([self.seed, *reply.blob("prompt")])
                rewards = [self.reward(rng) for _ in range(header.group_size)]
                verdicts = [
                    m.Verdict(outcome="pass" if r > 0.5 else "fail", reward=r, rewards={"accuracy": r}) for r in rewards
                ]
                submit = m.SubmitVerdicts(
                    lease_id=header.lease_id, token=header.token, task_id=header.task_id, verdicts=verdicts
                )
                client.request(submit)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Poll `condition` until it holds; AssertionError naming `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole(parameter: Any) -> torch.Tensor:
    """A copy of a parameter's whole value, sharded or not."""
    full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full.detach().clone()

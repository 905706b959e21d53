"""An actor that has no model (`actor.model_from: learner`): real vLLM, a real publisher, a broker of a few lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common.config import RunConfig, dump_config
from common.messages import Header, Hello, Lease, Sampling, SubmitGroup, Welcome
from learner.weights import WeightPublisher, gather_full_tensors
from tests.integration.actor_model import make_model
from tests.integration.test_actor_process import MiniBroker

ROOT = Path(__file__).parents[2]
PROMPT, NUM_TOKENS = [5, 6, 7], 48


class Broker(MiniBroker):
    """Names `weights` as the learner's weights socket; None: no learner yet."""

    weights: str | None = None

    def _reply(self, header: Header) -> tuple[Header, dict[str, Any]]:
        if isinstance(header, Hello):
            return Welcome(broker_incarnation="b", version=0, weights_endpoint=self.weights), {}
        return super()._reply(header)

    def lease(self, task_id: str) -> None:
        self.leases.append(
            Lease(
                kind="generate",
                lease_id=f"lease-{task_id}",
                token=1,
                task_id=task_id,
                purpose="train",
                deadline_s=30.0,
                group_size=2,
                attempt=0,
                sampling=Sampling(max_tokens=NUM_TOKENS, temperature=0.0),
            )
        )

    def groups(self) -> list[list[int]]:
        """Token ids of the groups handed in."""
        return [e.array("token_ids", "int32").tolist() for e in self.of(SubmitGroup)]


def config_for(model: Path | str, port: int = 0) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": str(model),
            "data": {"train": "unused"},
            "learner": {"device": "cpu"},
            "security": {"mode": "off"},  # the broker is played
            "weights": {"port": port},
            "actor": {
                "device": "cpu",
                "dtype": "float32",
                "model_from": "learner",
                "max_model_len": 512,
                "max_num_seqs": 64,
                "kv_cache_gib": 0.25,
                "cpu_threads": str(max(os.sched_getaffinity(0))),
                "enforce_eager": True,
            },
        }
    )


def greedy_from_disk(model: Path) -> list[int]:
    """What transformers makes of the prompt with the weights on disk."""
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.tensor([PROMPT])
    out = policy.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_TOKENS)
    return [int(token) for token in out[0, len(PROMPT) :]]


@contextlib.contextmanager
def learner(model: Path, port: int = 0) -> Iterator[WeightPublisher]:
    """A publisher of the model on disk, as version 0."""
    from transformers import AutoModelForCausalLM

    publisher = WeightPublisher(config_for(model), host="127.0.0.1", port=port)
    try:
        publisher.publish(0, gather_full_tensors(AutoModelForCausalLM.from_pretrained(model)))
        yield publisher
    finally:
        publisher.close()


@contextlib.contextmanager
def actor(run: Path, broker: Broker) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The actor's process and what it has logged so far."""
    run.mkdir()
    dump_config(config_for("a-model/that-is-nowhere"), run / "config.yaml")
    (run / "endpoints.json").write_text(json.dumps({"actor": f"tcp://127.0.0.1:{broker.port}"}))
    log = run / "actor.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "actor", "--run-dir", str(run), "--name", "actor-0"]
        process = psutil.Popen(command, cwd=ROOT, stderr=file, env={**os.environ, "PYTHONSAFEPATH": "1"})
    children = []
    try:
        yield process, log.read_text
    finally:
        if process.poll() is None:
            children = process.children(recursive=True)
            process.kill()
        process.wait(10)
        assert not psutil.wait_procs(children, 10)[1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_actor_without_a_model_samples_as_one_that_has_it_and_leaves_when_the_learner_has_another(
    tmp_path: Path,
) -> None:
    make_model(tmp_path / "model", tied=True)
    make_model(tmp_path / "other", tied=True, seed=1)
    (tmp_path / "other" / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    expected = greedy_from_disk(tmp_path / "model")
    broker = Broker()
    try:
        with actor(tmp_path / "run", broker) as (process, log):

            def until(condition: Callable[[], Any], what: str, timeout_s: float = 90) -> None:
                deadline = time.monotonic() + timeout_s
                while not condition():
                    assert process.poll() is None, f"the actor ended with {process.returncode}: {log()}"
                    assert time.monotonic() < deadline, f"never happened: {what}: {log()}"
                    time.sleep(0.02)

            broker.lease("early")
            until(lambda: len(broker.of(Hello)) >= 3, "questions for a learner that is not there")
            with learner(tmp_path / "model") as publisher:
                broker.weights = publisher.endpoint
                until(broker.groups, "the group")
                assert broker.groups()[0] == expected * 2
                files = {path.name for path in (tmp_path / "run" / "models" / "actor-0").iterdir()}
                assert files == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
            with learner(tmp_path / "other", port=int(publisher.endpoint.rpartition(":")[2])):
                assert process.wait(30) == 1, log()
            assert log().splitlines()[-1] == (
                "failed: actor-0: the learner trains another model now than the one that this actor was started for; "
                "it must be restarted"
            )
            assert "Traceback" not in log()
    finally:
        broker.close()
    assert np.array(broker.groups()).shape == (1, 2 * len(expected))

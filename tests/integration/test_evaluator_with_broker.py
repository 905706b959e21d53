"""The real broker and the real evaluator: a group that an actor submits comes back to the learner with verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from common.lifecycle import RunPaths
from common.messages import AddTask, Group, Lease, LeaseWork, RolloutMeta, Sampling, SubmitGroup, Take
from tests.wire_keys import connect

ROOT = Path(__file__).parents[2]
TEXTS = ["<think>one and one</think><answer>2</answer>", "<think>one and one</think><answer>3</answer>"]


def test_group_comes_back_graded(tmp_path: Path) -> None:
    config = {"model": "none", "data": {"train": "none.jsonl"}, "rollout": {"group_size": 2}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    paths = RunPaths(tmp_path)
    with (tmp_path / "log").open("wb") as log:
        rooms = [
            subprocess.Popen([sys.executable, "-m", room, "--run-dir", tmp_path], cwd=ROOT, stdout=log, stderr=log)
            for room in ("broker", "evaluator")
        ]
    try:
        with (
            connect(paths, "learner", "l", vocab_size=100, version=0) as learner,
            connect(paths, "actor", "a") as actor,
        ):
            learner.hello()
            actor.hello()
            spec = {"kind": "math", "answer": "2", "columns": {}}
            learner.request(
                AddTask(task_id="t", purpose="train", group_size=2, sampling=Sampling(max_tokens=4)),
                {
                    "prompt_ids": np.array([1, 2], np.int32),
                    "prompt": b"1+1? Assistant:",
                    "spec": json.dumps(spec).encode(),
                },
            )
            lease = actor.request(LeaseWork(kind="generate", wait_s=5.0, version=0)).header
            assert isinstance(lease, Lease), lease
            encoded = [text.encode() for text in TEXTS]
            rollouts = [RolloutMeta(num_tokens=2, text_bytes=len(text), finish_reason="stop") for text in encoded]
            actor.request(
                SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id="t", rollouts=rollouts),
                {
                    "token_ids": np.array([3, 4, 5, 6], np.int32),
                    "logprobs": np.full(4, -0.5, np.float32),
                    "versions": np.zeros(4, np.int32),
                    "texts": b"".join(encoded),
                },
            )
            group = learner.request(Take(purpose="train", wait_s=60.0)).header
            assert isinstance(group, Group), (tmp_path / "log").read_text()
            assert [(v.outcome, v.reward) for v in group.verdicts] == [("pass", 2.0), ("fail", 1.0)]
    finally:
        for room in rooms:
            room.terminate()
        assert [room.wait(timeout=20) for room in rooms] == [0, 0], (tmp_path / "log").read_text()

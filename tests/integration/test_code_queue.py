"""Real problem sets on their whole way: HumanEval through broker and evaluator, MBPP through `zeroq grade`.

Data: $ZEROQ_DATA, else ../shared/data. tests/integration/test_code_sets.py has the other sets and all mutants.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.client import BrokerClient
from common.lifecycle import RunPaths
from common.messages import AddTask, Group, Lease, LeaseWork, Release, RolloutMeta, Sampling, SubmitGroup, Take
from recipes.code import code_spec, job_lines
from tests.wire_keys import connect

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ZEROQ_DATA") or ROOT.parent / "shared" / "data")
MUTATION = "\n_mutated = {F}\ndef {F}(*args, **more):\n    return (_mutated(*args, **more), 'mutated')\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; set ZEROQ_DATA")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def river(tmp_path: Path) -> Iterator[tuple[BrokerClient, BrokerClient]]:
    """Broker and evaluator as processes; clients in the place of learner and actor."""
    config = {
        "model": "none",
        "data": {"train": "none.jsonl"},
        "rollout": {"group_size": 2},
        "evaluator": {"code": "on"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with (tmp_path / "log").open("wb") as log:
        rooms = [
            subprocess.Popen([sys.executable, "-m", room, "--run-dir", tmp_path], cwd=ROOT, stdout=log, stderr=log)
            for room in ("broker", "evaluator")
        ]
    try:
        paths = RunPaths(tmp_path)
        with (
            connect(paths, "learner", "l", vocab_size=100, version=0) as learner,
            connect(paths, "actor", "a") as actor,
        ):
            learner.hello()
            actor.hello()
            yield learner, actor
    finally:
        for room in rooms:
            room.terminate()
        assert [room.wait(timeout=30) for room in rooms] == [0, 0], (tmp_path / "log").read_text()


@pytest.mark.timeout(400)
def test_humaneval_through_the_queue(river: tuple[BrokerClient, BrokerClient]) -> None:
    """Of each problem a right and a wrong completion, in one group."""
    learner, actor = river
    data = rows("humaneval_python.jsonl")
    for row in data:
        right = f"<think>known</think>\n```python\n{row['starter']}{row['solution']}\n```"
        wrong = f"{right[:-3]}{MUTATION.format(F=row['entry_point'])}```"
        submit(learner, actor, row["id"], [right, wrong], {"kind": "code", "code": code_spec(row), "columns": {}})
    verdicts = {}
    for _ in data:
        group = learner.request(Take(purpose="eval", wait_s=60.0), timeout_s=120.0).header
        assert isinstance(group, Group), group
        verdicts[group.task_id] = [(v.outcome == "pass", v.rewards["accuracy"]) for v in group.verdicts]
        learner.request(Release(task_ids=[group.task_id], outcome="trained"))
    assert len(verdicts) == 164
    assert {name: v for name, v in verdicts.items() if v != [(True, 1.0), (False, 0.0)]} == {}


def submit(learner: BrokerClient, actor: BrokerClient, task_id: str, texts: list[str], spec: dict[str, Any]) -> None:
    """Add a task and hand its group in."""
    learner.request(
        AddTask(task_id=task_id, purpose="eval", group_size=len(texts), sampling=Sampling(max_tokens=4)),
        {"prompt_ids": np.array([1], np.int32), "prompt": b"write it", "spec": json.dumps(spec).encode()},
    )
    lease = actor.request(LeaseWork(kind="generate", wait_s=5.0, version=0)).header
    assert isinstance(lease, Lease), lease
    encoded = [text.encode() for text in texts]
    rollouts = [RolloutMeta(num_tokens=1, text_bytes=len(text), finish_reason="stop") for text in encoded]
    actor.request(
        SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, rollouts=rollouts),
        {
            "token_ids": np.zeros(len(texts), np.int32),
            "logprobs": np.full(len(texts), -0.5, np.float32),
            "versions": np.zeros(len(texts), np.int32),
            "texts": b"".join(encoded),
        },
    )


@pytest.mark.timeout(400)
def test_mbpp_through_zeroq_grade(tmp_path: Path) -> None:
    file = tmp_path / "mbpp.jsonl"
    lines = list(job_lines(rows("mbpp.jsonl")))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "grade", str(file), "--workers", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [line["id"] for line in lines]
    assert {answer["id"]: answer["detail"] for answer in answers if answer["verdict"] != "pass"} == {}
    assert (len(answers), done.returncode, done.stderr) == (719, 0, "")

"""The scoring worker as a process: batches of several groups, deaths, silence, models that cannot be used."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from common.config import RewardComponent, RewardSection
from common.errors import UserError
from common.metrics import REGISTRY
from common.reward_model import RewardModelFacts, read_reward_model
from evaluator.compose import grade_group
from evaluator.pool import CallFailed
from evaluator.scoring.client import ScoringClient, ScoringSettings
from evaluator.scoring.model import RewardModel
from tests.reward_rig import make_reward_model

PROMPT = "User: what is 1 + 2?\nAssistant:"
GROUPS = [[f"<think>hm {i}</think><answer>the sum is {i + j}</answer>" for j in range(6)] for i in range(8)]
HELPFUL = RewardModelFacts("helpful", "summary", 64, offset=0.25, scale=0.5, floor=-4.0)
SAFETY = RewardModelFacts("safety", "response", 64)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RewardModelFacts]:
    folder = tmp_path_factory.mktemp("models")
    paths = [
        make_reward_model(folder / "helpful", HELPFUL, seed=1),
        make_reward_model(folder / "safety", SAFETY, seed=2),
        make_reward_model(folder / "broken", SAFETY, seed=3, broken=True),
    ]
    return {str(path): read_reward_model(path) for path in paths}


@pytest.fixture(scope="module")
def client(models: dict[str, RewardModelFacts]) -> Iterator[ScoringClient]:
    scoring = ScoringClient(models, ScoringSettings(tokens_per_batch=600, gather_s=0.05, silence_s=30.0))
    scoring.await_start()
    yield scoring
    pid = scoring.pid
    scoring.close()
    assert pid is None or not psutil.pid_exists(pid)


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expected(name: str, facts: RewardModelFacts, texts: list[str]) -> list[float | None]:
    model = RewardModel(name, facts, "cpu", "float32")
    return [model.score([found.ids])[0] for found in model.encode(PROMPT, texts) if found is not None]


def total(name: str, kind: str) -> float:
    return REGISTRY.get_sample_value(name, {"kind": kind}) or 0.0


def test_groups_share_batches_and_get_the_scores_of_their_texts(
    client: ScoringClient, models: dict[str, RewardModelFacts]
) -> None:
    helpful, safety, broken = models
    before, cut = total("zeroq_evaluator_scores_total", "helpful"), total("zeroq_evaluator_scores_cut_total", "safety")
    batches = REGISTRY.get_sample_value("zeroq_evaluator_score_batch_size_count") or 0.0
    groups = [client.submit(helpful, PROMPT, texts) for texts in GROUPS]
    other = client.submit(safety, PROMPT, [*GROUPS[0], "word " * 100])
    for texts, futures in zip(GROUPS, groups, strict=True):
        assert [future.result(30) for future in futures] == pytest.approx(expected(helpful, HELPFUL, texts), abs=1e-5)
    assert [f.result(30) for f in other][:6] == pytest.approx(expected(safety, SAFETY, GROUPS[0]), abs=1e-5)
    assert total("zeroq_evaluator_scores_total", "helpful") == before + 48
    assert total("zeroq_evaluator_scores_cut_total", "safety") == cut + 1
    assert (REGISTRY.get_sample_value("zeroq_evaluator_score_batch_size_count") or 0.0) - batches < 9  # not one a group
    blank, fine = client.submit(helpful, PROMPT, ["<think>never closed", "fine"])
    assert blank.result(30) == -4.0
    assert fine.result(30) == pytest.approx(expected(helpful, HELPFUL, ["fine"])[0], abs=1e-5)
    assert client.submit(helpful, PROMPT, []) == []
    with pytest.raises(CallFailed, match=f"reward model {broken}: its score of rollout 0 is not a finite number"):
        client.submit(broken, PROMPT, ["x"])[0].result(30)


def test_verdicts_hold_served_scores(client: ScoringClient, models: dict[str, RewardModelFacts]) -> None:
    helpful, _, broken = models
    section = RewardSection(
        components=[
            RewardComponent(name="format", kind="format"),
            RewardComponent(name="helpful", kind="reward_model", model=helpful, when={"aspect": "helpfulness"}),
            RewardComponent(name="broken", kind="reward_model", model=broken, when={"aspect": "safety"}),
        ]
    )
    spec = {"kind": "none", "columns": {"aspect": "helpfulness"}}
    verdicts = grade_group(PROMPT, GROUPS[0], spec, section, scorer=client)
    scores = expected(helpful, HELPFUL, GROUPS[0])
    assert [v.rewards["helpful"] for v in verdicts] == pytest.approx(scores, abs=1e-5)
    assert [v.reward for v in verdicts] == pytest.approx([1 + s for s in scores if s is not None], abs=1e-5)
    with pytest.raises(CallFailed, match="not a finite number"):
        grade_group(PROMPT, GROUPS[0], {"kind": "none", "columns": {"aspect": "safety"}}, section, scorer=client)


def test_a_worker_killed_in_the_middle_is_replaced_once_and_then_the_call_fails(
    client: ScoringClient, models: dict[str, RewardModelFacts]
) -> None:
    helpful = next(iter(models))
    first = client.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # so that nothing is scored before it dies
    cancelled = client.submit(helpful, PROMPT, GROUPS[1])
    assert all(future.cancel() for future in cancelled)
    futures = client.submit(helpful, PROMPT, GROUPS[0])
    os.kill(first, signal.SIGKILL)
    assert [f.result(60) for f in futures] == pytest.approx(expected(helpful, HELPFUL, GROUPS[0]), abs=1e-5)
    second = client.pid
    assert second not in (None, first)

    os.kill(second, signal.SIGSTOP)
    futures = client.submit(helpful, PROMPT, GROUPS[0])
    os.kill(second, signal.SIGKILL)
    until(lambda: client.pid not in (None, second))
    os.kill(client.pid, signal.SIGKILL)
    wait(futures, 30)
    for future in futures:
        assert isinstance(future.exception(0), CallFailed)
        assert str(future.exception(0)).startswith(f"reward model {helpful}: ")
    again = client.submit(helpful, PROMPT, GROUPS[0])  # a later group gets a worker of its own
    assert [f.result(60) for f in again] == pytest.approx(expected(helpful, HELPFUL, GROUPS[0]), abs=1e-5)


def test_a_model_that_cannot_be_used_is_named_and_a_silent_worker_is_a_dead_one(
    tmp_path: Path, models: dict[str, RewardModelFacts], no_leaked_processes: None
) -> None:
    helpful = next(iter(models))
    bad = make_reward_model(tmp_path / "bad", SAFETY)
    (bad / "model.safetensors").write_bytes(b"half a file")
    unusable = ScoringClient({str(bad): SAFETY})
    with pytest.raises(UserError, match=f"reward model {bad}: cannot be used: "):
        unusable.await_start()
    assert unusable.pid is None

    silent = ScoringClient({helpful: HELPFUL}, ScoringSettings(silence_s=1.0))
    try:
        silent.await_start()
        first = silent.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        futures = silent.submit(helpful, PROMPT, GROUPS[0])
        assert [f.result(60) for f in futures] == pytest.approx(expected(helpful, HELPFUL, GROUPS[0]), abs=1e-5)
        assert silent.pid != first
        stuck = silent.pid
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)
        left = silent.submit(helpful, PROMPT, GROUPS[0])
    finally:
        silent.close()
    assert all("the evaluator is closing" in str(future.exception(10)) for future in left)

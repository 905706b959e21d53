"""What the learner exports of steps and checkpoints, from figures that are known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.lifecycle import RunPaths
from common.metrics import REGISTRY
from learner import metrics
from learner.batch import BatchFigures, build_batch
from learner.checkpoint import CheckpointStore, TrainingState
from learner.loop import Learner
from learner.ranks import Ranks
from learner.session import BrokerSession
from learner.step_log import StepLog, export_batch
from learner.trainer import StepFigures, Trainer
from tests.learner_rig import make_config, make_group, tiny_model

TIMES = {"wait": 1.0, "pack": 0.25, "train": 1.5, "publish": 0.25, "step": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trainer(model: Path) -> Iterator[Trainer]:
    config = make_config(model)
    with Ranks(config.learner) as ranks:
        yield Trainer(config, model, ranks)


def value(name: str, **labels: str) -> float | None:
    """A sample of `zeroq_learner_NAME`."""
    return REGISTRY.get_sample_value(f"zeroq_learner_{name}", labels)


def step_figures(**changes: Any) -> StepFigures:
    figures: dict[str, Any] = {
        "loss": 0.5,
        "grad_norm": 2.0,
        "learning_rate": 1e-6,
        "entropy": 0.75,
        "ratio": 1.0,
        "importance": None,
        "importance_cut": None,
        "logp_difference_mean": 0.01,
        "logp_difference_max": 0.5,
        "clip_low": 0.1,
        "clip_high": 0.2,
        "kl": None,
        "num_fed_tokens": 600,
        "num_microbatches": 1,
        "pack_s": 0.5,
        "train_s": 1.5,
        "sampler_kl": 0.002,
        "flops": 4e12,
    }
    return StepFigures(**figures | changes)


def batch_figures(version: int = 1, **learner: Any) -> BatchFigures:
    group = make_group(versions=[[0, 0], [1, 1], [1, 1], [0, 1]], rewards=[1, 0, 0, 1])
    return build_batch([group], version, make_config("m", learner={"max_staleness": 1, **learner}).learner)[1]


def test_a_step_is_exported(tmp_path: Path) -> None:
    before = {name: value(name) or 0.0 for name in ("tokens_total", "groups_trained_total", "step_seconds_sum")}
    waited = value("phase_seconds_sum", phase="wait") or 0.0
    log = StepLog(tmp_path / "metrics.jsonl", max_staleness=1, peak_flops=8e12)
    log.write(7, 3, batch_figures(), step_figures(), TIMES, [])
    assert (value("step"), value("policy_version")) == (7, 3)
    assert (value("tokens_total") or 0) - before["tokens_total"] == 4 * 5 + 8
    assert (value("groups_trained_total") or 0) - before["groups_trained_total"] == 1
    assert (value("step_seconds_sum") or 0) - before["step_seconds_sum"] == 3.0
    assert (value("phase_seconds_sum", phase="wait") or 0) - waited == 1.0
    assert value("tokens_per_second") == 300.0
    assert value("model_flops_per_second") == 2e12
    assert value("mfu_ratio") == 0.25
    assert value("reward_mean") == 0.5
    assert value("reward_component_mean", reward="accuracy") == 0.5
    assert value("clip_ratio", side="high") == 0.2
    assert value("sampler_kl_nats") == 0.002
    assert value("importance_ratio_mean") == 1.0
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["sampling/kl"] == 0.002


def test_what_is_not_known_is_absent(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "metrics.jsonl", max_staleness=1, peak_flops=8e12)
    log.write(1, 1, batch_figures(), step_figures(kl=0.5), TIMES, [])
    assert (value("kl_nats"), value("mfu_ratio"), value("entropy_nats")) == (0.5, 0.25, 0.75)
    log = StepLog(tmp_path / "metrics.jsonl", max_staleness=1, peak_flops=None)
    log.write(2, 1, batch_figures(), step_figures(entropy=None, sampler_kl=None, ratio=None), TIMES, [])
    names = ("kl_nats", "mfu_ratio", "entropy_nats", "sampler_kl_nats", "importance_ratio_mean")
    assert [value(name) for name in names] == [None] * 5


def test_names_of_rewards_that_no_component_has_are_one_label(tmp_path: Path) -> None:
    """Whoever holds an evaluator's key names the rewards of its verdicts, but not the series of the learner."""
    group = make_group(rewards=[1, 0, 0, 1])
    for number, verdict in enumerate(group.header.verdicts):
        verdict.rewards[f"made up {number}"] = float(number)
    session = SimpleNamespace(
        top_up=lambda: None,
        poll_groups=lambda version, seconds: True,
        intake=SimpleNamespace(collected=lambda: [group]),
    )
    with Ranks((config := make_config("m")).learner) as ranks:
        process: Any = SimpleNamespace(config=config, paths=RunPaths(tmp_path), stop=False)
        learner = Learner(process, ranks, lambda process: pytest.fail("no publisher is needed"))
        learner.session = session  # type: ignore[assignment]
        taken = learner.take()
    assert taken is not None
    assert taken[1] is not None
    assert taken[1].rewards.keys() == {"accuracy", "other"}
    assert taken[1].rewards["other"][0] == 1.5
    export_batch(taken[1], max_staleness=1)
    assert value("reward_component_mean", reward="other") == 1.5
    assert value("reward_component_mean", reward="made up 0") is None


def test_fast_steps_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten steps a second were a hundred megabytes a day."""
    caplog.set_level("INFO", "learner.loop")
    now = 100.0
    monkeypatch.setattr("learner.loop.time.monotonic", lambda: now)
    with Ranks((config := make_config("m", learner={"max_steps": 26})).learner) as ranks:
        process: Any = SimpleNamespace(config=config, paths=RunPaths(tmp_path), stop=False)
        learner = Learner(process, ranks, lambda process: pytest.fail("no publisher is needed"))
        learner.session = SimpleNamespace(take_finished_evaluations=list)  # type: ignore[assignment]
        learner.log = StepLog(tmp_path / "metrics.jsonl", max_staleness=1)
        for learner.step in range(1, 27):
            learner.record(batch_figures(), step_figures(entropy=None), 0.1)
            now += 0.125
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said == ["step 1/26", "step 9/26", "step 17/26", "step 25/26", "step 26/26"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 26


def test_the_first_rank_alone_says_that_a_checkpoint_is_saved(
    tmp_path: Path, model: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "learner.checkpoint")
    CheckpointStore(tmp_path, keep=2).save(trainer, TrainingState(step=5), model)
    monkeypatch.setattr(Ranks, "first", property(lambda ranks: False))
    CheckpointStore(tmp_path, keep=2).save(trainer, TrainingState(step=6), model)
    assert [record.getMessage() for record in caplog.records] == [f"saved {tmp_path / 'step-5'}"]


def test_tokens_past_the_bound_are_a_violation_and_masked_ones_are_not() -> None:
    def counts() -> list[float]:
        names = ("staleness_violations_total", "tokens_masked_total", "token_staleness_publishes_count")
        return [value(name) or 0.0 for name in names]

    before = counts()
    export_batch(batch_figures(version=2), max_staleness=1)  # three tokens of version 0 are masked
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 3, 5]
    export_batch(batch_figures(version=2, max_staleness=2), max_staleness=1)  # as if gate 3 had let them through
    assert [b - a for a, b in zip(after, counts(), strict=True)] == [3, 0, 8]
    assert value("staleness_max_publishes") == 2


def test_the_time_of_waiting_counts_while_it_lasts() -> None:
    """A step that never begins, for want of groups, must be seen too."""

    def poll(wanted: int, version: int, wait_s: float) -> bool:
        time.sleep(wait_s)
        return False

    session: Any = SimpleNamespace(
        _publishing=None,
        config=make_config("m"),
        intake=SimpleNamespace(poll=poll),
        poll_evaluations=lambda seconds: True,
    )
    before = value("starved_seconds_total") or 0.0
    assert BrokerSession.poll_groups(session, 0, 0.02) is False
    assert (value("starved_seconds_total") or 0.0) - before >= 0.02


def test_a_checkpoint_is_exported_when_saved_and_when_found(tmp_path: Path, model: Path, trainer: Trainer) -> None:
    names = ("checkpoint_seconds_count", "checkpoint_fsync_seconds_count")
    before = [value(name) or 0.0 for name in names]
    path = CheckpointStore(tmp_path, keep=2).save(trainer, TrainingState(step=5), model)
    manifest = json.loads((path / "manifest.json").read_text())
    assert [(value(name) or 0.0) - old for name, old in zip(names, before, strict=True)] == [1, 1]
    assert 0 < (value("checkpoint_fsync_seconds_sum") or 0) < (value("checkpoint_seconds_sum") or 0)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != "manifest.json")
    shown = [value(f"checkpoint_{name}") for name in ("timestamp_seconds", "step", "size_bytes")]
    assert shown == [manifest["time"], 5, size]
    metrics.begin(0, 0, trainer.config.learner, None)  # there is none: the clock runs from the start
    age = time.time() - (value("checkpoint_timestamp_seconds") or 0)
    assert 0 <= age < 60
    metrics.begin(5, 6, trainer.config.learner, path)
    shown = [value(name) for name in ("checkpoint_timestamp_seconds", "step", "policy_version", "max_steps")]
    assert shown == [manifest["time"], 5, 6, 3]
    assert value("staleness_limit_publishes") == 1


def test_the_divergence_of_sampler_and_learner(model: Path, trainer: Trainer) -> None:
    """A learner whose log-probabilities are the sampler's and a constant x: exp(x) - 1 - x."""
    group = make_group(rewards=[1, 0, 0, 1])
    batch, _ = build_batch([group], 0, trainer.config.learner)
    shift = 0.25

    class Shifted:
        """Gives the policy's gradients and other values."""

        def __init__(self, policy: Any, by: float) -> None:
            self.policy, self.module, self.by = policy, policy.module, by

        def logprobs(self, microbatch: Any, temperature: float) -> Any:
            own, entropy = self.policy.logprobs(microbatch, temperature)
            sampled = batch.behavior_logprobs_T[microbatch.completion_index_T]
            return own - own.detach() + sampled + self.by, entropy

    trainer.policy = Shifted(trainer.policy, shift)  # type: ignore[assignment]
    figures = trainer.step(batch, 0)
    assert figures.sampler_kl == pytest.approx(math.exp(shift) - 1 - shift, rel=1e-4)
    assert figures.logp_difference_mean == pytest.approx(shift, rel=1e-4)
    assert figures.flops > 0

"""What the sampler does about its broker: parts put together, old weights, lost problems, idleness, a stop."""

from __future__ import annotations

import contextlib
import json
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import RunFailure
from common.lifecycle import StopFlag
from common.messages import (
    Ack,
    AddTask,
    GetStatus,
    Group,
    Header,
    NoWork,
    Refused,
    Release,
    RolloutMeta,
    Sampling,
    StatusReport,
    Take,
    Verdict,
)
from common.wire import Envelope
from launcher import sampling
from launcher.processes import ProcessSpec
from launcher.sampling import Sampler, SampleRequest
from tests.unit.launcher_inputs import make_config

RECORD = {"id": "p/1", "prompt": "1 + 1?", "prompt_ids": [1, 2], "spec": {"kind": "math", "answer": "2"}}
HOT = Sampling(max_tokens=8, temperature=1.0, seed=5)


class FakeBroker:
    """Answers as a broker does whose actors sample at once, from weights of `version`: the text of rollout i is
    `TASK_SEED+i`. A retry makes their weights `retried_version`."""

    def __init__(self, version: int = 0, retried_version: int = 0) -> None:
        self.version, self.retried_version = version, retried_version
        self.tasks: dict[str, AddTask] = {}
        self.ready: list[str] = []
        self.released: list[tuple[str, str]] = []
        self.dead: dict[str, str] = {}
        self.refuse = False
        self.leases = 1

    def request(self, header: Header, payload: Any = None, *, timeout_s: float | None = None) -> Envelope:
        match header:
            case AddTask():
                if self.refuse:
                    return Envelope(Refused(code="invalid", detail="ids beyond the vocabulary"), {})
                assert json.loads(payload["spec"]) == RECORD["spec"]
                assert payload["prompt_ids"].tolist() == [1, 2]
                self.tasks[header.task_id] = header
                if header.task_id not in self.dead:
                    self.ready.append(header.task_id)
            case Release(task_ids=[task_id], outcome=outcome):
                self.released.append((task_id, outcome))
                if outcome == "retry":
                    self.version = self.retried_version
                    self.ready.append(task_id)
            case GetStatus():
                letters = [{"task_id": key, "attempts": 3, "reason": why} for key, why in self.dead.items()]
                status = {"dead_letters": letters, "leases": {"generate": self.leases}, "queues": {"generate": 1}}
                return Envelope(StatusReport(status=status), {})
        return Envelope(Ack(), {})

    def call(self, header: Take) -> Future[Envelope]:
        future: Future[Envelope] = Future()
        future.set_result(self._group(self.ready.pop(0)) if self.ready else Envelope(NoWork(), {}))
        return future

    def _group(self, task_id: str) -> Envelope:
        task = self.tasks[task_id]
        texts = [str((task.sampling.seed or 0) + index).encode() for index in range(task.group_size)]
        rollouts = [RolloutMeta(num_tokens=2, text_bytes=len(text), finish_reason="stop") for text in texts]
        verdicts = [Verdict(outcome="pass", reward=1.0, rewards={}) for _ in texts]
        versions = np.full(2 * len(texts), self.version, dtype=np.int32)
        header = Group(task_id=task_id, purpose="eval", rollouts=rollouts, verdicts=verdicts)
        return Envelope(header, {"texts": b"".join(texts), "versions": versions})


class FakePool:
    def poll(self) -> bool:
        return False

    def start(self, specs: list[ProcessSpec]) -> None:
        """Nothing runs here."""

    def last_lines(self, name: str) -> str:
        return f"the end of {name}"


def make_sampler(tmp_path: Path, broker: FakeBroker, *overrides: str) -> Sampler:
    """A sampler that was entered without starting anything; its weights are of version 0."""
    sampler = Sampler(make_config(tmp_path, *overrides), stop=StopFlag(), say=lambda _: None, swappable=False)
    sampler._client, sampler._pool, sampler._version = broker, FakePool(), 0  # type: ignore[assignment]
    return sampler


def test_a_request_of_many_samples_is_put_together_in_order(tmp_path: Path) -> None:
    broker = FakeBroker()
    found = list(make_sampler(tmp_path, broker, "actor.device=cuda").sample([SampleRequest("a", RECORD, 150, HOT)]))
    assert [task.group_size for task in broker.tasks.values()] == [64, 64, 22]
    assert [completion.text for completion in found[0].completions] == [str(5 + index) for index in range(150)]
    assert {outcome for _, outcome in broker.released} == {"trained"}


def test_requests_are_not_seeded_on_cpus(tmp_path: Path) -> None:
    """vLLM's engine dies of a seeded request whose prompt is cut into chunks there."""
    broker = FakeBroker()
    list(make_sampler(tmp_path, broker, "actor.device=cpu").sample([SampleRequest("a", RECORD, 70, HOT)]))
    assert [task.sampling.seed for task in broker.tasks.values()] == [None, None]


def test_the_logs_of_a_failure_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest goes, also when the launcher is killed: the folder has an owner, whom the next run looks for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for error, kept in ((RunFailure("see the log"), True), (KeyboardInterrupt(), False), (None, False)):
        sampler = make_sampler(tmp_path, FakeBroker())
        monkeypatch.setattr(sampler, "_connect", lambda stack: None)
        monkeypatch.setattr(sampling, "Pool", lambda *_: contextlib.nullcontext(FakePool()))
        monkeypatch.setattr(sampling, "locate_model", lambda name: tmp_path)
        with contextlib.suppress(RunFailure, KeyboardInterrupt), sampler:
            logs, owner = sampler._paths.logs, sampler._paths.root / ".owner"
            logs.mkdir()
            assert owner.exists()
            if error is not None:
                raise error
        assert (logs.exists(), owner.exists()) == (kept, False)


def test_a_group_of_older_weights_is_sampled_again(tmp_path: Path) -> None:
    broker = FakeBroker(version=1, retried_version=0)
    (task,) = make_sampler(tmp_path, broker).sample([SampleRequest("a", RECORD, 2, HOT)])
    assert len(task.completions) == 2
    assert [outcome for _, outcome in broker.released] == ["retry", "trained"]
    stubborn = FakeBroker(version=1, retried_version=1)
    with pytest.raises(RunFailure, match="problem p/1: an actor goes on sampling from weights other than"):
        list(make_sampler(tmp_path, stubborn).sample([SampleRequest("a", RECORD, 2, HOT)]))
    assert [outcome for _, outcome in stubborn.released] == ["retry"] * 3


def test_a_problem_that_was_given_up_is_named(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.dead = {"sample-2": "the prompt is too long"}
    requests = [SampleRequest("a", RECORD, 1, HOT), SampleRequest("b", {**RECORD, "id": "p/2"}, 1, HOT)]
    with pytest.raises(RunFailure, match="problem p/2 could not be sampled and graded: the prompt is too long"):
        list(make_sampler(tmp_path, broker).sample(requests))


def test_a_problem_that_the_broker_refuses_is_named(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.refuse = True
    with pytest.raises(RunFailure, match="the broker refused problem p/1: ids beyond the vocabulary"):
        list(make_sampler(tmp_path, broker).sample([SampleRequest("a", RECORD, 1, HOT)]))


def test_nobody_at_work_for_long_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_STATUS_EVERY_S", 0.0)
    broker = FakeBroker()
    broker.dead, broker.leases = {"sample-1": "?"}, 0
    limits = ("actor.startup_timeout_s=0.1", "broker.generate_lease_s=0.1")
    sampler = make_sampler(tmp_path, broker, *limits)
    monkeypatch.setattr(broker, "dead", {})  # neither sampled nor given up
    monkeypatch.setattr(broker, "ready", Deaf())
    with pytest.raises(RunFailure, match=r"no actor or evaluator has held a lease for 0 s .*the end of actor-0"):
        list(sampler.sample([SampleRequest("a", RECORD, 1, HOT)]))


class Deaf(list[str]):
    """A queue that loses what is put into it."""

    def append(self, item: str) -> None:
        pass


def test_requests_are_read_no_further_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_MAX_OUTSTANDING", 4)
    read: list[int] = []

    def requests() -> Any:
        for number in range(100):
            read.append(number)
            yield SampleRequest(str(number), RECORD, 1, HOT)

    stream = make_sampler(tmp_path, FakeBroker()).sample(requests())
    assert next(stream).key in {"0", "1", "2", "3"}
    assert len(read) == 4
    assert len([next(stream) for _ in range(20)]) == 20
    assert len(read) <= 24 + 4


def test_what_an_earlier_caller_left_is_dropped(tmp_path: Path) -> None:
    broker = FakeBroker()
    sampler = make_sampler(tmp_path, broker)
    first = sampler.sample([SampleRequest(str(number), RECORD, 1, HOT) for number in range(9)])
    next(first)
    first.close()
    assert [task.key for task in sampler.sample([SampleRequest("new", RECORD, 1, HOT)])] == ["new"]
    assert {task_id for task_id, _ in broker.released} >= {f"sample-{number}" for number in range(1, 10)}


def test_a_stop_and_wrong_use_are_refused(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, FakeBroker())
    with pytest.raises(ValueError, match="ask for at least 1"):
        list(sampler.sample([SampleRequest("a", RECORD, 0, HOT)]))
    with pytest.raises(ValueError, match="make it with swappable=True"):
        sampler.load(tmp_path / "other")
    sampler._stop.set()
    with pytest.raises(KeyboardInterrupt):
        list(sampler.sample([SampleRequest("a", RECORD, 1, HOT)]))

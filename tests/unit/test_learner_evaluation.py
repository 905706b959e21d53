"""Figures of an evaluation, and collecting it from a broker that loses, refuses and interleaves."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import messages as m
from common.errors import RunFailure
from common.wire import Envelope
from learner.evaluation import EvaluationDesk, component_means, consensus, event_fields
from learner.feed import ProblemFile
from learner.step_log import evaluation_record
from tests.learner_rig import make_config, make_group, status_with, write_data


class FakeBroker:
    """Answers at once: accepts up to `room` tasks, serves what `outcome(task)` says, dead-letters when it says None."""

    incarnation = "0123456789abcdef"

    def __init__(self, outcome: Any, room: int = 1000) -> None:
        self.outcome, self.room = outcome, room
        self.queue: list[m.AddTask] = []
        self.dead: list[str] = []
        self.most = 0
        self.released: list[str] = []

    def call(self, header: Any, payload: Any = None) -> Future[Envelope]:
        future: Future[Envelope] = Future()
        future.set_result(self.request(header, payload))
        return future

    def request(self, header: Any, payload: Any = None, *, timeout_s: float | None = None) -> Envelope:
        if isinstance(header, m.AddTask):
            if len(self.queue) >= self.room:
                return Envelope(m.Refused(code="no_credit", detail="full"), {})
            self.queue.append(header)
            self.most = max(self.most, len(self.queue))
            return Envelope(m.Ack(), {})
        if isinstance(header, m.Take):
            while self.queue:
                task = self.queue.pop(0)
                rewards = self.outcome(task)
                if rewards is None:
                    self.dead.append(task.task_id)
                    continue
                group = make_group(rewards=rewards, task_id=task.task_id)
                frames = {
                    "prompt_ids": group.prompt_ids,
                    "token_ids": group.token_ids_T,
                    "logprobs": group.logprobs_T,
                    "versions": group.versions_T,
                    "texts": group.texts,
                    "prompt": group.prompt,
                }
                return Envelope(group.header, frames)
            return Envelope(m.NoWork(), {})
        if isinstance(header, m.Release):
            self.released += header.task_ids
            return Envelope(m.Ack(), {})
        assert isinstance(header, m.GetStatus)
        status = status_with(self.dead, header) | {"leases": {"generate": 0}}
        return Envelope(m.StatusReport(status=status), {})


def desk(tmp_path: Path, broker: FakeBroker, idle_limit_s: float = 60.0, **sections: Any) -> EvaluationDesk:
    write_data(tmp_path, num_eval=4)
    problems = ProblemFile(tmp_path / "data" / "eval.jsonl")
    return EvaluationDesk(broker, make_config("m", **sections), problems, idle_limit_s=idle_limit_s)  # type: ignore[arg-type]


def collect(own: EvaluationDesk) -> list[Any]:
    found: list[Any] = []
    for _ in range(200):
        found += own.poll(0.01)
        if not own.pending:
            return found
    raise AssertionError("not complete")


def outcome(task: m.AddTask) -> list[float]:
    if "greedy" in task.task_id:
        return [1.0 if task.task_id.endswith("-0") else 0.0]
    return [1.0, 0.0] if task.task_id.endswith(("-0", "-1")) else [0.0, 0.0]


def test_pass_at_1_is_the_mean_over_samples(tmp_path: Path) -> None:
    broker = FakeBroker(outcome, room=3)
    own = desk(tmp_path, broker)
    own.submit("before", step=0, version=0)
    (figures,) = collect(own)
    assert figures.pass_at_1 == 0.25
    assert figures.greedy == 0.25
    assert figures.num_lost == 0
    assert broker.most == 3  # the rest waited for room
    assert len(broker.released) == len(set(broker.released)) == 8


def test_greedy_is_sampled_at_temperature_zero_in_groups_of_one(tmp_path: Path) -> None:
    broker = FakeBroker(outcome)
    desk(tmp_path, broker).submit("before", step=0, version=0)
    greedy = [task for task in broker.queue if "greedy" in task.task_id]
    assert [(task.group_size, task.sampling.temperature) for task in greedy] == [(1, 0.0)] * 4
    samples = [task for task in broker.queue if "greedy" not in task.task_id]
    assert [(task.group_size, task.sampling.temperature, task.sampling.top_p) for task in samples] == [
        (2, 0.6, 0.95)
    ] * 4


def test_evaluations_under_way_together_are_told_apart(tmp_path: Path) -> None:
    own = desk(tmp_path, FakeBroker(lambda task: [float("-0-" in task.task_id)] * task.group_size))
    own.submit("during", step=2, version=2)
    own.submit("after", step=3, version=3)
    assert {(f.label, f.step, f.pass_at_1) for f in collect(own)} == {("during", 2, 1.0), ("after", 3, 0.0)}


def test_dead_letters_are_counted_and_not_waited_for(tmp_path: Path) -> None:
    own = desk(tmp_path, FakeBroker(lambda task: None if task.task_id.endswith("-2") else [1.0] * task.group_size))
    own.submit("before", step=0, version=0)
    (figures,) = collect(own)
    assert figures.num_lost == 2
    assert figures.pass_at_1 == 1.0


def test_a_river_without_workers_fails_in_time(tmp_path: Path) -> None:
    own = desk(tmp_path, FakeBroker(outcome, room=0), idle_limit_s=0.0)
    own.submit("before", step=0, version=0)
    with pytest.raises(RunFailure, match="no actor or evaluator"):
        collect(own)


def test_consensus_is_the_verdict_of_the_most_frequent_answer() -> None:
    def group(answers: list[str | None], rewards: list[float]) -> Any:
        return make_group(rewards=rewards, texts=[f"<answer>{a}</answer>" if a else "none" for a in answers])

    right = group(["7", " 7 ", "8"], [1.0, 1.0, 0.0])
    wrong = group(["7", "8", "8"], [1.0, 0.0, 0.0])
    silent = group([None, None, None], [0.0, 0.0, 0.0])
    assert consensus([right]) == 1.0
    assert consensus([right, wrong, silent]) == pytest.approx(1 / 3)
    assert consensus([silent]) is None


def test_general_prompts_have_reward_means_and_no_part_in_pass_at_1(tmp_path: Path) -> None:
    def outcome(task: m.AddTask) -> list[float]:
        return [0.25, 0.75] if "-general-" in task.task_id else [1.0] * task.group_size

    broker = FakeBroker(outcome)
    write_data(tmp_path, num_eval=2, num_train=3)
    general = ProblemFile(tmp_path / "data" / "train.jsonl")  # any other prepared file
    own = EvaluationDesk(
        broker,  # type: ignore[arg-type]
        make_config("m"),
        ProblemFile(tmp_path / "data" / "eval.jsonl"),
        idle_limit_s=60.0,
        general=general,
    )
    own.submit("before", step=0, version=0)
    assert [task.group_size for task in broker.queue if "-general-" in task.task_id] == [2] * 3
    (figures,) = collect(own)
    assert (figures.pass_at_1, figures.greedy) == (1.0, 1.0)
    assert figures.general["accuracy"] == figures.general["reward"] == 0.5
    event = event_fields(figures)
    assert event["general/accuracy/mean"] == 0.5
    assert event["general/length/mean"] == figures.general["length"] > 0
    assert "general" not in event
    assert evaluation_record(figures)["general/reward/mean"] == 0.5


def test_component_means_leave_out_what_does_not_apply() -> None:
    verdicts = [
        m.Verdict(outcome="pass", reward=2.0, rewards={"helpful": 1.5, "safe": None}),
        m.Verdict(outcome="fail", reward=-1.0, rewards={"helpful": None, "safe": -1.0}),
        m.Verdict(outcome="fail", reward=0.5, rewards={"helpful": 0.5, "safe": None}),
        m.Verdict(outcome="fail", reward=0.0, rewards={"helpful": None, "safe": None}),
    ]
    group = make_group(versions=[[0]] * 4)
    group = replace(group, header=group.header.model_copy(update={"verdicts": verdicts}))
    assert component_means([group]) == {"helpful": 1.0, "safe": -1.0, "reward": 0.375, "length": 1.0}
    assert component_means([]) == {}

"""The task feed: order, credit, cursor; and intake that turns repeated and stale groups away."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from common import messages as m
from common.errors import RunFailure, UserError
from common.wire import Envelope
from learner.feed import ProblemFile, TaskFeed
from learner.intake import GroupIntake
from tests.learner_rig import make_config, make_group, status_with, write_data


class FakeBroker:
    """Accepts `credit` tasks; hands out `groups`; reports `status`."""

    def __init__(self, credit: int = 1000, groups: list[Any] | None = None) -> None:
        self.credit, self.groups = credit, groups or []
        self.tasks: list[str] = []
        self.prompts: list[bytes] = []
        self.releases: list[tuple[list[str], str]] = []
        self.dead: list[str] = []

    def call(self, header: Any, payload: Any = None) -> Future[Envelope]:
        future: Future[Envelope] = Future()
        future.set_result(self.request(header, payload))
        return future

    def request(self, header: Any, payload: Any = None, *, timeout_s: float | None = None) -> Envelope:
        if isinstance(header, m.AddTask):
            if len(self.tasks) >= self.credit:
                return Envelope(m.Refused(code="no_credit", detail="full"), {})
            self.tasks.append(header.task_id)
            self.prompts.append(payload["prompt"])
            return Envelope(m.Ack(), {})
        if isinstance(header, m.Take):
            if not self.groups:
                return Envelope(m.NoWork(), {})
            group = self.groups.pop(0)
            frames = {
                "prompt_ids": group.prompt_ids,
                "token_ids": group.token_ids_T,
                "logprobs": group.logprobs_T,
                "versions": group.versions_T,
                "texts": group.texts,
                "prompt": group.prompt,
            }
            return Envelope(group.header, frames)
        if isinstance(header, m.Release):
            self.releases.append((header.task_ids, header.outcome))
            return Envelope(m.Ack(), {})
        return Envelope(m.StatusReport(status=status_with(self.dead, header)), {})


def make_feed(tmp_path: Path, broker: Any, **state: Any) -> TaskFeed:
    write_data(tmp_path)
    config = make_config("m", learner={"groups_per_step": 4})  # credit 8
    return TaskFeed(broker, config, ProblemFile(tmp_path / "data" / "train.jsonl"), **state)


def test_every_epoch_is_another_shuffle_of_all_problems(tmp_path: Path) -> None:
    feed = make_feed(tmp_path, FakeBroker())
    epochs = [[feed.schedule.problem(6 * epoch + i) for i in range(6)] for epoch in range(4)]
    assert all(sorted(epoch) == [("train", i) for i in range(6)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [feed.schedule.problem(i) for i in range(6)] == epochs[0]


def test_tops_up_to_credit_and_never_past_what_is_wanted(tmp_path: Path) -> None:
    broker = FakeBroker()
    feed = make_feed(tmp_path, broker)
    assert feed.top_up(3) == 3
    assert feed.top_up(100) == 5
    assert feed.top_up(100) == 0
    feed.finished(["train-0", "train-4"])
    assert feed.top_up(7) == 1
    assert broker.tasks == [f"train-{i}" for i in range(9)]
    assert feed.cursor == 9


def test_tasks_refused_for_credit_are_admitted_later_in_order(tmp_path: Path) -> None:
    broker = FakeBroker(credit=3)
    feed = make_feed(tmp_path, broker)
    assert feed.top_up(5) == 3
    assert feed.unfinished == [0, 1, 2, 3, 4]
    broker.credit = 6
    assert feed.top_up(6) == 3
    assert broker.tasks == [f"train-{i}" for i in range(6)]


def test_a_resumed_feed_admits_what_was_outstanding_first(tmp_path: Path) -> None:
    broker = FakeBroker()
    first = make_feed(tmp_path, broker)
    first.top_up(8)
    first.finished([f"train-{i}" for i in (0, 1, 2, 5)])
    again = make_feed(tmp_path, broker, cursor=first.cursor, outstanding=first.unfinished)
    prompts = dict(zip(broker.tasks, broker.prompts, strict=True))
    broker.tasks, broker.prompts = [], []
    again.top_up(6)
    assert broker.tasks == [f"train-{i}" for i in (3, 4, 6, 7, 8, 9)]
    assert all(prompts[task] == prompt for task, prompt in zip(broker.tasks[:4], broker.prompts, strict=False))


def test_an_invalid_task_ends_the_run(tmp_path: Path) -> None:
    class Strict(FakeBroker):
        def request(self, header: Any, payload: Any = None, *, timeout_s: float | None = None) -> Envelope:
            return Envelope(m.Refused(code="invalid", detail="no"), {})

    with pytest.raises(RunFailure, match="train-0"):
        make_feed(tmp_path, Strict()).top_up(1)


def test_missing_or_empty_data_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl"):
        ProblemFile(tmp_path / "train.jsonl")
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no problems"):
        ProblemFile(tmp_path / "train.jsonl")


def make_intake(tmp_path: Path, broker: FakeBroker, **learner: Any) -> GroupIntake:
    feed = make_feed(tmp_path, broker)
    feed.top_up(4)
    config = make_config("m", learner={"groups_per_step": 4, **learner}).learner
    return GroupIntake(broker, feed, config, refill=lambda: feed.top_up(4), idle_limit_s=60)  # type: ignore[arg-type]


def test_a_repeated_group_is_trained_once(tmp_path: Path) -> None:
    broker = FakeBroker(groups=[make_group(0), make_group(0), make_group(1)])
    intake = make_intake(tmp_path, broker)
    for _ in range(3):
        intake.poll(2, 0, 0.01)
    assert [group.task_id for group in intake.collected()] == ["train-0", "train-1"]
    assert intake.num_duplicated == 1
    intake.feed.finished(["train-0"])
    broker.groups = [make_group(0)]
    intake.poll(1, 0, 0.01)
    assert intake.collected() == []
    assert intake.num_duplicated == 2


def test_a_group_knows_the_source_of_its_problem(tmp_path: Path) -> None:
    intake = make_intake(tmp_path, FakeBroker(groups=[make_group(2)]))
    problem = intake.feed.problem(2)
    problem["spec"]["columns"] = {"source": "https://host/own/set"}
    intake.feed._remember(2, problem)
    intake.poll(1, 0, 0.01)
    assert [group.source for group in intake.collected()] == ["set"]


def test_a_stale_group_goes_back(tmp_path: Path) -> None:
    broker = FakeBroker(groups=[make_group(0, versions=1), make_group(1, versions=5)])
    intake = make_intake(tmp_path, broker, staleness_policy="drop")
    for _ in range(3):
        intake.poll(2, 5, 0.01)
    assert [group.task_id for group in intake.collected()] == ["train-1"]
    assert broker.releases == [(["train-0"], "retry")]
    assert intake.feed.is_outstanding("train-0")


def test_dead_letters_are_replaced(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.dead = ["train-1"]  # before this learner began, which admits it again
    intake = make_intake(tmp_path, broker)
    broker.dead += ["train-2", "eval-x"]
    intake.poll(2, 0, 0.01)
    assert intake.num_dead_lettered == 1
    assert broker.tasks[-1] == "train-4"
    assert not intake.feed.is_outstanding("train-2")
    assert intake.feed.is_outstanding("train-1")


def test_no_dead_letter_is_missed_however_many_come_at_once(tmp_path: Path) -> None:
    """A status lists 20. A learner that missed one would wait for its group for ever."""
    broker = FakeBroker()
    intake = make_intake(tmp_path, broker)
    broker.dead = ["train-0", *(f"eval-{n}" for n in range(50)), "train-3"]
    intake.poll(2, 0, 0.01)
    assert intake.num_dead_lettered == 2
    assert broker.tasks[-2:] == ["train-4", "train-5"]


def test_groups_of_tasks_that_an_earlier_incarnation_admitted_are_trained_and_not_lost(tmp_path: Path) -> None:
    # The broker lives on: it holds 4 and 7, admitted after the checkpoint, and 2, which was outstanding then.
    broker = FakeBroker(credit=0, groups=[make_group(n) for n in (2, 7, 1, 4)])
    feed = make_feed(tmp_path, broker, cursor=4, outstanding=[2, 3])
    intake = GroupIntake(broker, feed, make_config("m").learner, refill=lambda: None, idle_limit_s=60.0)
    while broker.groups:
        intake.poll(4, 0, 0.0)
    assert [group.task_id for group in intake.collected()] == ["train-2", "train-4", "train-7"]
    assert broker.releases == [(["train-1"], "trained")]  # that one was trained before the checkpoint
    assert (feed.cursor, feed.unfinished) == (8, [2, 3, 4, 5, 6, 7])
    feed.finished(["train-2", "train-4", "train-7"])
    broker.credit = 1000
    feed.top_up(3)
    assert broker.tasks == ["train-3", "train-5", "train-6"]  # none is left out, none comes twice

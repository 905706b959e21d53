"""What task number i is: general problems in the last steps only, in their share, and token limits by step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.feed import ProblemFile, TaskFeed, source_label
from learner.schedule import TaskSchedule
from tests.learner_rig import make_config, write_data
from tests.unit.test_learner_feed import FakeBroker

GOLDEN = [
    ("train", 1),
    ("train", 3),
    ("train", 0),
    ("train", 2),
    ("train", 6),
    ("general", 4),
    ("train", 0),
    ("general", 2),
]


def schedule(
    last_steps: int = 3,
    share: float = 0.5,
    *,
    steps: int = 10,
    groups: int = 8,
    num_train: int = 7,
    num_general: int = 5,
) -> TaskSchedule:
    config = make_config(
        "m",
        data={"general": {"source": "unused.jsonl", "last_steps": last_steps, "share": share}},
        learner={"max_steps": steps, "groups_per_step": groups},
    )
    return TaskSchedule(config, num_train, num_general)


def test_general_problems_come_in_the_last_steps_only_and_in_every_one_of_them() -> None:
    plan = schedule(last_steps=3, share=0.5, steps=10, groups=8)
    general = Counter(plan.step(n) for n in range(80) if plan.part(n) == "general")
    assert general == {7: 4, 8: 4, 9: 4}
    # tasks that stand in for dead-lettered ones have later numbers still
    assert sum(plan.part(n) == "general" for n in range(80, 88)) == 4


def test_the_share_is_kept_to_within_one_task_at_any_point() -> None:
    plan = schedule(last_steps=10, share=0.3, steps=10, groups=7)
    count = 0
    for number in range(70):
        count += plan.part(number) == "general"
        assert count == (3 * (number + 1)) // 10


def test_more_last_steps_than_steps_is_the_whole_run_and_all_may_be_general() -> None:
    plan = schedule(last_steps=400, share=1.0, steps=2, groups=4)
    assert [plan.part(n) for n in range(8)] == ["general"] * 8
    assert sorted(plan.problem(n)[1] for n in range(5)) == list(range(5))


@settings(max_examples=50, deadline=None)
@given(
    last_steps=st.integers(1, 12),
    share=st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0]),
    num_train=st.integers(1, 9),
    num_general=st.integers(1, 9),
)
def test_both_files_are_gone_through_evenly(last_steps: int, share: float, num_train: int, num_general: int) -> None:
    plan = schedule(last_steps, share, num_train=num_train, num_general=num_general)
    seen: dict[str, list[int]] = {"train": [], "general": []}
    for number in range(100):
        part, index = plan.problem(number)
        seen[part].append(index)
    for part, size in (("train", num_train), ("general", num_general)):
        passes = [seen[part][i : i + size] for i in range(0, len(seen[part]), size)]
        assert all(sorted(one) == list(range(size)) for one in passes if len(one) == size)


def test_a_number_means_the_same_whatever_was_asked_before_and_in_every_version() -> None:
    forward, backward = schedule(), schedule()
    ahead = [forward.problem(n) for n in range(90)]
    assert [backward.problem(n) for n in reversed(range(90))] == ahead[::-1]
    # A checkpoint keeps numbers only: should this line fail, resumed runs train on other problems than they admitted.
    assert [forward.problem(n) for n in (0, 1, 7, 55, 56, 57, 58, 59)] == GOLDEN


def test_without_general_data_numbers_mean_what_they_always_did() -> None:
    plain = TaskSchedule(make_config("m", learner={"max_steps": 10, "groups_per_step": 8}), 7)
    mixed = schedule(last_steps=3)
    assert [plain.problem(n) for n in range(56)] == [mixed.problem(n) for n in range(56)]
    assert all(plain.part(n) == "train" for n in range(100))


def test_general_data_without_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="no general problem"):
        schedule(num_general=0)


def test_the_token_limit_follows_the_step_of_the_task() -> None:
    config = make_config(
        "m",
        rollout={"max_tokens": 8, "max_tokens_schedule": [[2, 16], [5, 32]]},
        learner={"max_steps": 10, "groups_per_step": 4},
    )
    plan = TaskSchedule(config, 7)
    assert [plan.max_tokens(4 * step) for step in range(7)] == [8, 8, 16, 16, 16, 32, 32]
    assert (plan.max_tokens(7), plan.max_tokens(8)) == (8, 16)
    assert config.rollout.longest == 32


# ------------------------------------------------------------------ through the feed


def feed(tmp_path: Path, broker: Any, **state: Any) -> TaskFeed:
    write_data(tmp_path)
    lines = [
        {"id": f"g{i}", "prompt": f"write {i}", "prompt_ids": [9, i], "spec": {"kind": "none", "columns": {}}}
        for i in range(4)
    ]
    (tmp_path / "data" / "general.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = make_config(
        "m",
        data={"general": {"source": "unused.jsonl", "last_steps": 2, "share": 0.5}},
        rollout={"max_tokens": 8, "max_tokens_schedule": [[3, 12]]},
        learner={"groups_per_step": 4, "max_steps": 4},
    )
    data = tmp_path / "data"
    return TaskFeed(
        broker, config, ProblemFile(data / "train.jsonl"), general=ProblemFile(data / "general.jsonl"), **state
    )


class RecordingBroker(FakeBroker):
    """Also keeps token limits."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    def request(self, header: Any, payload: Any = None, *, timeout_s: float | None = None) -> Any:
        self.limits.append(header.sampling.max_tokens)
        return super().request(header, payload, timeout_s=timeout_s)


def drain(own: TaskFeed, until: int) -> None:
    while own.cursor < until:
        own.top_up(until - own.cursor)
        own.finished([f"train-{n}" for n in sorted(own.outstanding)])


def test_a_feed_that_was_killed_in_the_general_phase_goes_on_with_the_same_problems(tmp_path: Path) -> None:
    whole = RecordingBroker()
    drain(feed(tmp_path, whole), 16)
    assert [prompt.startswith(b"write") for prompt in whole.prompts] == [False] * 8 + [False, True] * 4
    assert whole.limits == [8] * 12 + [12] * 4

    first = RecordingBroker()
    killed = feed(tmp_path, first)
    drain(killed, 8)
    killed.top_up(5)
    killed.finished(["train-8", "train-11"])
    second = RecordingBroker()
    again = feed(tmp_path, second, cursor=killed.cursor, outstanding=killed.unfinished)
    again.top_up(3)
    again.finished(["train-9", "train-10", "train-12"])
    drain(again, 16)
    assert second.tasks == [f"train-{n}" for n in (9, 10, 12, 13, 14, 15)]
    expected = dict(zip(whole.tasks, whole.prompts, strict=True))
    assert second.prompts == [expected[task] for task in second.tasks]
    assert second.limits == [8, 8, 12, 12, 12, 12]


def test_a_source_is_a_short_name_and_is_known_after_the_task_is_forgotten(tmp_path: Path) -> None:
    own = feed(tmp_path, FakeBroker())
    assert source_label({"spec": {"columns": {"source": "https://github.com/openai/grade-school-math/"}}}) == (
        "grade-school-math"
    )
    assert (
        source_label({"spec": {"reasoning_gym": {"dataset": "chain_sum"}, "columns": {"source": "x"}}}) == "chain_sum"
    )
    assert source_label({"spec": {"columns": {"source": 7}}}) is None
    assert source_label({"spec": {"kind": "none"}}) is None
    assert own.source("train-3") is None
    drain(own, 200)
    assert len(own._sources) <= 2 * own.config.credit_limit
    assert own.source("train-0") is None

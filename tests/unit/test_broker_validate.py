"""Bounds on what is received. Each case breaks one rule of an otherwise valid message, and must name it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from broker_harness import VOCAB, Harness, group_frames, make_config

from broker.validate import MAX_GROUP_SIZE
from common import messages as m
from common.wire import encode


def rollouts(*lengths: int, text_bytes: int = 2) -> list[m.RolloutMeta]:
    return [m.RolloutMeta(num_tokens=n, text_bytes=text_bytes, finish_reason="stop") for n in lengths]


def with_frame(name: str, value: Any) -> dict[str, Any]:
    return {"frames": {**group_frames([3, 3], 0, b"abab"), name: value}}


def with_value(name: str, index: int, value: float) -> dict[str, Any]:
    frames = group_frames([3, 3], 0, b"abab")
    frames[name][index] = value  # type: ignore[index]
    return {"frames": frames}


def without(name: str) -> dict[str, Any]:
    frames = group_frames([3, 3], 0, b"abab")
    del frames[name]
    return {"frames": frames}


BAD_GROUPS = [
    ("missing frame", without("versions"), "frames"),
    ("unknown frame", with_frame("spec", b"x"), "spec"),
    ("wrong dtype", with_frame("token_ids", np.zeros(6, dtype=np.int64)), "token_ids is int64"),
    ("bytes for array", with_frame("logprobs", b"123456"), "logprobs is bytes"),
    ("array for bytes", with_frame("texts", np.zeros(4, dtype=np.uint8)), "texts is uint8"),
    ("two dimensions", with_frame("versions", np.zeros((6, 1), dtype=np.int32)), "2 dimension(s)"),
    ("short token_ids", with_frame("token_ids", np.zeros(5, dtype=np.int32)), "token_ids has 5 entries"),
    ("long logprobs", with_frame("logprobs", np.zeros(7, dtype=np.float32)), "logprobs has 7 entries"),
    ("short versions", with_frame("versions", np.zeros(5, dtype=np.int32)), "versions has 5 entries"),
    ("too few rollouts", {"lengths": [6]}, "1 rollouts, group_size is 2"),
    ("too many rollouts", {"lengths": [2, 2, 2]}, "3 rollouts"),
    ("another task", {"task_id": "t2"}, "submitted as task t2"),
    ("too many tokens", {"lengths": [65, 3]}, "exceeds max_tokens 64"),
    ("id above vocabulary", with_value("token_ids", 4, VOCAB), f"token_ids[4] = {VOCAB}"),
    ("negative id", with_value("token_ids", 2, -1), "token_ids[2] = -1"),
    ("NaN logprob", with_value("logprobs", 3, np.nan), "logprobs[3] = nan"),
    ("positive logprob", with_value("logprobs", 1, 0.5), "logprobs[1] = 0.5"),
    ("logprob above slack", with_value("logprobs", 1, 2e-4), "logprobs[1]"),
    ("infinite logprob", with_value("logprobs", 5, -np.inf), "logprobs[5] = -inf"),
    ("plus infinity", with_value("logprobs", 5, np.inf), "logprobs[5] = inf"),
    ("version ahead", with_value("versions", 2, 2), "versions[2] = 2 is above 1"),
    ("negative version", with_value("versions", 0, -1), "versions[0] = -1"),
    ("falling versions", {"versions": [0, 1, 0, 0, 0, 0]}, "fall from 1 to 0 at token 2"),
    ("falling in the last rollout", {"versions": [0, 0, 0, 0, 1, 0]}, "at token 5"),
    ("long texts", with_frame("texts", b"ababa"), "texts has 5 bytes"),
    ("not UTF-8", with_frame("texts", b"ab\xff\xfe"), "not UTF-8"),
    ("cut character", with_frame("texts", "aéb".encode()), "cut a UTF-8 character at byte 2"),
    (
        "absurd num_tokens",
        {"rollouts": [*rollouts(3), m.RolloutMeta(num_tokens=2**63, text_bytes=2, finish_reason="stop")]},
        "add up to",
    ),
    (
        "absurd text_bytes",
        {"rollouts": [*rollouts(3), m.RolloutMeta(num_tokens=3, text_bytes=2**63, finish_reason="stop")]},
        "add up to",
    ),
]


@pytest.mark.parametrize(("changes", "text"), [case[1:] for case in BAD_GROUPS], ids=[case[0] for case in BAD_GROUPS])
def test_a_bad_group_is_refused_and_counts_as_a_failed_attempt(changes: dict[str, Any], text: str) -> None:
    h = Harness()
    h.add("t1")
    lease = h.lease("actor1")
    refused = h.submit("actor1", lease, **changes)
    assert isinstance(refused, m.Refused)
    assert refused.code == "invalid"
    assert text in refused.detail
    assert "actor1" in refused.detail
    assert lease.lease_id in refused.detail
    assert h.counters["submits_refused"] == h.counters["attempts_failed"] == 1
    assert h.lease("actor1").attempt == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": [0, 1, 1, 0, 0, 1]},
        {"versions": 1},
        with_value("logprobs", 2, 5e-5),
        with_value("logprobs", 2, 0.0),
        with_value("token_ids", 2, VOCAB - 1),
        {"lengths": [64, 1]},
        {"rollouts": rollouts(3, 3, text_bytes=0), "frames": group_frames([3, 3], 0, b"")},
        {
            "rollouts": [
                m.RolloutMeta(num_tokens=3, text_bytes=3, finish_reason="stop"),
                m.RolloutMeta(num_tokens=3, text_bytes=1, finish_reason="length"),
            ],
            "frames": group_frames([3, 3], 0, "aéb".encode()),
        },
    ],
)
def test_groups_at_the_bounds_are_accepted(changes: dict[str, Any]) -> None:
    h = Harness()
    h.add("t1")
    assert isinstance(h.submit("actor1", h.lease("actor1"), **changes), m.Ack)


def test_without_a_vocabulary_ids_are_only_checked_for_sign() -> None:
    h = Harness(hello=False)
    h.hello("learner", version=0)
    h.add("t1")
    assert isinstance(h.submit("actor1", h.lease("actor1"), **with_value("token_ids", 2, 10**6)), m.Ack)


BAD_TASKS = [
    ({"prompt_ids": np.array([], dtype=np.int32)}, {}, "prompt_ids is empty"),
    ({"prompt_ids": np.array([VOCAB], dtype=np.int32)}, {}, f"prompt_ids[0] = {VOCAB}"),
    ({"prompt_ids": np.array([1], dtype=np.float32)}, {}, "prompt_ids is float32"),
    ({"prompt": b"\xff"}, {}, "prompt is not UTF-8"),
    ({"tests": b""}, {}, "frames"),
    ({}, {"group_size": MAX_GROUP_SIZE + 1}, "does not fit one header"),
]


@pytest.mark.parametrize(("frames", "fields", "text"), BAD_TASKS)
def test_a_bad_task_is_not_admitted(frames: dict[str, Any], fields: dict[str, Any], text: str) -> None:
    h = Harness()
    header = m.AddTask(
        **{"task_id": "t1", "purpose": "train", "group_size": 2, "sampling": m.Sampling(max_tokens=9), **fields}
    )
    payload = {"prompt_ids": np.array([1], dtype=np.int32), "prompt": b"p", "spec": b"{}", **frames}
    refused = h.ask(b"learner", "learner", header, payload)
    assert refused.code == "invalid"
    assert text in refused.detail
    assert "t1" in refused.detail
    assert h.counters["tasks_admitted"] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num": 1}, "1 verdicts, group_size is 2"),
        ({"num": 3}, "3 verdicts"),
        ({"task_id": "t2"}, "submitted as task t2"),
        (
            {"verdicts": [m.Verdict(outcome="pass", reward=1.0, rewards={"x" * 20_000: 1.0})] * 2},
            "too many for one header",
        ),
    ],
)
def test_bad_verdicts_are_refused_and_count_as_a_failed_attempt(changes: dict[str, Any], text: str) -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    refused = h.grade("evaluator1", h.lease("evaluator1"), **changes)
    assert refused.code == "invalid"
    assert text in refused.detail
    assert h.counters["submits_refused"] == h.counters["attempts_failed"] == 1
    assert h.lease("evaluator1").attempt == 1


def test_the_largest_group_fits_a_header_whatever_the_details() -> None:
    h = Harness(make_config())
    h.add("t1", group_size=MAX_GROUP_SIZE)
    h.generate()
    verdict = m.Verdict(outcome="timeout", reward=-1.5, rewards={"ac": None}, detail="☃" * 256, wall_s=123.456)
    assert isinstance(h.grade("evaluator1", h.lease("evaluator1"), verdicts=[verdict] * MAX_GROUP_SIZE), m.Ack)
    group = h.take()
    assert group is not None
    assert isinstance(group.header, m.Group)
    assert group.header.verdicts[0].detail == ""
    encode(group.header, group.payload)


def test_details_that_fit_are_kept() -> None:
    h = Harness()
    h.add("t1")
    h.generate()
    verdict = m.Verdict(outcome="fail", reward=0.0, rewards={}, detail="wrong: 7")
    h.grade("evaluator1", h.lease("evaluator1"), verdicts=[verdict] * 2)
    group = h.take()
    assert group is not None
    assert group.header.verdicts[1].detail == "wrong: 7"  # type: ignore[attr-defined]

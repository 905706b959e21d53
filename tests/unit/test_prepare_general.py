"""General prompts in the prepared data: files of their own, no answer, never held out too, refused with a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.lifecycle import RunPaths
from recipes.prepare import prepare_data
from tests.unit.launcher_inputs import make_config, write_problems
from tests.unit.test_prepare import build, refusal

ASPECT_REWARD = (
    "reward.components=[{name: accuracy}, {name: form, kind: format}, "
    "{name: helpful, kind: format, when: {aspect: helpfulness}}]"
)


def write_general(path: Path, count: int, first: int = 0, **extra: Any) -> Path:
    rows = (
        {
            "id": f"general/{i}",
            "prompt": f"write {i}",
            "domain": "general",
            "aspect": ("helpfulness", "safety")[i % 2],
            "language": "en",
        }
        | extra
        for i in range(first, first + count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def general(folder: Path, **more: Any) -> str:
    return f"data.general={json.dumps({'source': str(folder / 'general.jsonl'), 'last_steps': 2} | more)}"


def test_general_prompts_have_files_of_their_own_and_no_answer(tmp_path: Path) -> None:
    write_general(tmp_path / "general.jsonl", 6, answer="42", solution=None)
    write_general(tmp_path / "held_out.jsonl", 3, first=4)
    config = make_config(tmp_path, general(tmp_path), f"data.general_eval={tmp_path}/held_out.jsonl")
    paths = RunPaths(tmp_path / "run")
    data = prepare_data(config, paths, Path(config.model), 200)
    assert [record["prompt"] for record in data.general] == [f"write {i}\n" for i in range(4)]  # 4 and 5 are held out
    assert [record["prompt"] for record in data.general_evaluation] == [f"write {i}\n" for i in (4, 5, 6)]
    spec = data.general[0]["spec"]
    assert spec["kind"] == "none"
    assert spec["answer"] is None
    assert spec["columns"]["answer"] is None
    assert {key: spec["columns"][key] for key in ("kind", "aspect", "language", "domain")} == {
        "kind": "general",
        "aspect": "helpfulness",
        "language": "en",
        "domain": "general",
    }
    names = sorted(path.name for path in (paths.root / "data").iterdir())
    assert names == ["eval.jsonl", "general.jsonl", "general_eval.jsonl", "train.jsonl"]
    assert len((paths.root / "data" / "general.jsonl").read_text().splitlines()) == 4


def test_no_general_prompt_is_in_the_reasoning_held_out_set_nor_a_training_prompt_in_the_general_one(
    tmp_path: Path,
) -> None:
    make_config(tmp_path)
    write_general(tmp_path / "general.jsonl", 4)
    with (tmp_path / "general.jsonl").open("a") as file:
        for i in range(20):
            file.write(json.dumps({"id": f"also/{i}", "prompt": f"{i} + 1?"}) + "\n")
    data = build(tmp_path, general(tmp_path))
    assert {r["prompt"] for r in data.general}.isdisjoint(r["prompt"] for r in data.evaluation)
    assert len(data.general) == 4 + 15
    held_out = build(tmp_path, f"data.general_eval={tmp_path}/general.jsonl", "data.eval_size=8")
    assert len(held_out.general_evaluation) == 8
    assert {r["prompt"] for r in held_out.train}.isdisjoint(r["prompt"] for r in held_out.general_evaluation)


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    write_general(tmp_path / "general.jsonl", 4)
    held_out = f"data.general_eval={tmp_path}/general.jsonl"
    assert "data.general.source: every prompt of" in refusal(tmp_path, general(tmp_path), held_out)
    write_problems(tmp_path / "all.jsonl", 20)
    write_problems(tmp_path / "other.jsonl", 1, prompt="other?")
    own = (f"data.eval={tmp_path}/other.jsonl", f"data.general_eval={tmp_path}/all.jsonl", "data.eval_size=20")
    assert "data.train: every problem is in data.general_eval=" in refusal(tmp_path, *own)


def test_the_aspect_is_needed_where_a_reward_chooses_by_it(tmp_path: Path) -> None:
    write_general(tmp_path / "general.jsonl", 3, aspect=None)
    message = refusal(tmp_path, general(tmp_path), ASPECT_REWARD)
    assert f"{tmp_path}/general.jsonl:1: a general prompt without `aspect`" in message
    assert "reward component helpful" in message
    assert len(build(tmp_path, general(tmp_path)).general) == 3  # nobody asks


def test_general_data_has_its_own_columns_and_its_own_place_in_the_room_check(tmp_path: Path) -> None:
    rows = [{"id": i, "question": "why? " * (1 if i else 9), "aspect": "safety"} for i in range(2)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"fields": {"prompt": "question"}}
    data = build(tmp_path, general(tmp_path, **fields))
    assert data.longest_prompt == 46
    message = refusal(tmp_path, general(tmp_path, **fields), "rollout.max_tokens=20", context=60)
    assert "general.jsonl:1: prompt of 46 tokens and rollout.max_tokens=20" in message


def test_the_longest_scheduled_limit_must_fit_the_context(tmp_path: Path) -> None:
    schedule = "rollout.max_tokens_schedule=[[1, 70]]"
    assert "rollout.max_tokens_schedule=70 leaves no room" in refusal(tmp_path, schedule, context=64)
    assert "and rollout.max_tokens_schedule=70 exceed the context" in refusal(tmp_path, schedule, context=72)
    assert len(build(tmp_path, schedule, context=100).train) == 15

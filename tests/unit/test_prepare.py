"""Prepared data: templated and tokenised once, split without overlap, and refused when it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from common.lifecycle import RunPaths
from recipes.model_files import HubUnreachable, PromptTokenizer, locate_model, read_model_facts
from recipes.prepare import PreparedData, build_data, context_limit, prepare_data, read_prepared
from recipes.prompts import R1_ZERO, render_prompt
from tests.unit.launcher_inputs import make_config, make_model_directory, write_problems

CHAIN_SUM = "data.train={reasoning_gym: chain_sum, size: 50, params: {min_terms: 3, max_terms: 4, max_digits: 1}}"


def build(folder: Path, *overrides: str, context: int | None = 200) -> PreparedData:
    config = make_config(folder, *overrides)
    return build_data(config, PromptTokenizer(Path(config.model)), context)


def refusal(folder: Path, *overrides: str, context: int | None = 200) -> str:
    with pytest.raises(UserError) as caught:
        build(folder, *overrides, context=context)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_templates() -> None:
    assert render_prompt("bare", "1 + 1?") == "1 + 1?\n"
    text = render_prompt("r1_zero", r"Is \boxed{x} in {prompt}?")
    assert text.startswith("A conversation between User and Assistant.")
    assert text.endswith(r"User: Is \boxed{x} in {prompt}? Assistant:")
    assert "<think> reasoning here </think> <answer> answer here </answer>" in R1_ZERO
    assert render_prompt("chat", "hi", lambda prompt: f"<user>{prompt}") == "<user>hi"


def test_records_are_what_the_learner_reads(tmp_path: Path) -> None:
    data = build(tmp_path, "data.shuffle=false")
    assert (len(data.train), len(data.evaluation), data.cold_start) == (15, 5, [])
    record = data.train[0]
    assert set(record) == {"id", "prompt", "prompt_ids", "spec"}
    assert record["prompt"].endswith("?\n")
    assert record["prompt_ids"] == [ord(c) for c in record["prompt"]]
    assert record["spec"]["kind"] == "math"
    assert record["spec"]["columns"]["answer"] == record["spec"]["answer"]


def test_held_out_prompts_are_not_trained_on_even_when_repeated(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_problems(tmp_path / "problems.jsonl", 10)
    text = (tmp_path / "problems.jsonl").read_text()
    (tmp_path / "problems.jsonl").write_text(text + text.replace("p/", "again/"))
    data = build_data(config, PromptTokenizer(Path(config.model)), None)
    assert len(data.evaluation) == 5
    assert {r["prompt"] for r in data.train}.isdisjoint(r["prompt"] for r in data.evaluation)
    assert len(data.train) == 10  # both copies of the other five


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    first, again, other = (build(tmp_path, f"seed={seed}").evaluation for seed in (0, 0, 1))
    assert first == again != other


def test_an_evaluation_file_of_its_own(tmp_path: Path) -> None:
    write_problems(tmp_path / "eval.jsonl", 8)
    data = build(tmp_path, f"data.eval={tmp_path}/eval.jsonl")
    assert (len(data.train), len(data.evaluation)) == (15, 5)
    assert "nothing is left to train on" in refusal(
        tmp_path, f"data.eval={tmp_path}/problems.jsonl", "data.eval_size=20"
    )


def test_no_training_problem_left_is_refused(tmp_path: Path) -> None:
    assert "data.eval_size=20 leaves nothing to train on" in refusal(tmp_path, "data.eval_size=20")


def test_generated_problems_are_disjoint_in_all_three_files(tmp_path: Path) -> None:
    cold = ("cold_start.steps=1", "cold_start.num_examples=40", "cold_start.trace_stop_probability=0.5")
    data = build(tmp_path, CHAIN_SUM, *cold)
    assert (len(data.train), len(data.evaluation), len(data.cold_start)) == (50, 5, 40)
    held_out = {r["prompt"] for r in data.evaluation}
    assert held_out.isdisjoint(r["prompt"] for r in data.train)
    assert held_out.isdisjoint(r["prompt"] for r in data.cold_start)
    assert data.train[0]["spec"]["kind"] == "reasoning_gym"
    assert data.cold_start[0]["response"].startswith("<think>")
    assert len({r["id"] for r in data.train + data.evaluation}) == 55


def test_solutions_become_cold_start_responses(tmp_path: Path) -> None:
    data = build(tmp_path, "cold_start.steps=1", "cold_start.num_examples=3")
    assert len(data.cold_start) == 3
    assert data.cold_start[0]["response"] == (
        f"<think>{int(data.cold_start[0]['prompt'].split()[0])} and one</think>"
        f"<answer>{int(data.cold_start[0]['prompt'].split()[0]) + 1}</answer>"
    )


def test_a_cold_start_without_solutions_is_refused(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_problems(tmp_path / "problems.jsonl", 20, solution=None)
    config = make_config(tmp_path, "cold_start.steps=1")
    with pytest.raises(UserError, match="needs worked solutions"):
        build_data(config, PromptTokenizer(Path(config.model)), None)
    other = "data.train={reasoning_gym: spell_backward, size: 5}"
    assert "chain_sum only, not spell_backward" in refusal(tmp_path, other, "cold_start.steps=1")


def test_a_prompt_that_leaves_no_room_names_its_line(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_problems(tmp_path / "problems.jsonl", 20)
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "prompt": "x" * 60, "answer": "1"}) + "\n")
    config = make_config(tmp_path)
    with pytest.raises(UserError) as caught:
        build_data(config, PromptTokenizer(Path(config.model)), 64)
    assert f"{tmp_path}/problems.jsonl:21: prompt of 61 tokens and" in str(caught.value)


def test_max_tokens_without_room_are_refused(tmp_path: Path) -> None:
    assert "rollout.max_tokens=64 leaves no room" in refusal(tmp_path, "rollout.max_tokens=64", context=64)
    assert "eval.max_tokens=64 leaves no room" in refusal(tmp_path, "eval.max_tokens=64", context=64)


def test_a_solution_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_problems(tmp_path / "problems.jsonl", 20, solution="y" * 100)
    config = make_config(tmp_path, "cold_start.steps=1")
    with pytest.raises(UserError, match="cold_start: solution 1"):
        build_data(config, PromptTokenizer(Path(config.model)), 64)


def test_answers_are_needed_only_by_the_accuracy_reward(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_problems(tmp_path / "problems.jsonl", 20, answer=None)
    with pytest.raises(UserError, match="field 'answer'"):
        build(tmp_path)
    data = build(tmp_path, "reward.components=[{name: form, kind: format}]")
    assert data.train[0]["spec"]["kind"] == "none"


def test_files_are_written_and_read_back(tmp_path: Path) -> None:
    config = make_config(tmp_path, "cold_start.steps=1")
    paths = RunPaths(tmp_path / "run")
    data = prepare_data(config, paths, Path(config.model), 200)
    names = sorted(p.name for p in (paths.root / "data").iterdir())
    assert names == ["cold_start.jsonl", "eval.jsonl", "train.jsonl"]
    assert read_prepared(str(paths.root / "data" / "eval.jsonl")) == data.evaluation
    assert read_prepared(str(tmp_path / "problems.jsonl")) is None


def test_context_is_the_shorter_of_model_and_actor(tmp_path: Path) -> None:
    config = make_config(tmp_path, "actor.max_model_len=32")
    assert [context_limit(config, context) for context in (64, 16, None)] == [32, 16, 32]


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no end-of-sequence token"):
        PromptTokenizer(make_model_directory(tmp_path / "a", eos=None))
    with pytest.raises(UserError, match="is not in the vocabulary"):
        PromptTokenizer(make_model_directory(tmp_path / "b", eos="<other>"))
    assert PromptTokenizer(make_model_directory(tmp_path / "c")).eos_id == 128


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    model = make_model_directory(tmp_path / "models" / "m")
    assert locate_model(str(model)) == model
    for name, says in {
        "/nowhere/model": "no such directory",
        "models/typo": "no such directory",
        str(model / "config.json"): "is a file",
        str(tmp_path): "no config.json",
    }.items():
        with pytest.raises(UserError, match=says):
            locate_model(name)
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        locate_model(str(model))
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no vocab_size"):
        read_model_facts(model)


def test_a_hub_name_without_a_hub_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachable, match="nobody/nothing"):
        locate_model("nobody/nothing")


def test_a_reference_program_is_a_cold_start_response_that_the_evaluator_can_read() -> None:
    from evaluator.extract import read
    from evaluator.program import program
    from recipes.code import cold_start_program

    response = cold_start_program("def f(x):\n    return x\n", "python")
    assert read("", response).well_formed
    assert program(read("", response), "python", "f", None) == "def f(x):\n    return x\n"

"""The small world's problems: the real graders take clean responses and refuse wrong ones; drawing is repeatable."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("reasoning_gym")

from common.config import RewardSection
from evaluator.compose import grade_group
from evaluator.extract import read
from evaluator.program import job
from recipes.datasets import load_examples
from recipes.prepare import _spec
from recipes.small_world.problems import MAX_LEGS, TEST_INPUTS, draw, program, run
from recipes.small_world.traces import clean_response

FAMILIES = ("sums", "legs", "code", "notes", "requests")


def examples(tmp_path, rows, *, need_answer=True):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return load_examples(str(path), need_answer=need_answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_problems_and_all_differ(family):
    rows = draw(family, 60, seed=5)
    assert rows == draw(family, 60, seed=5)
    assert rows != draw(family, 60, seed=6)
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == 60


@pytest.mark.parametrize("family", ["sums", "legs", "notes", "requests"])
def test_both_languages_come(family):
    languages = [row["language"] for row in draw(family, 200, seed=0)]
    assert 60 <= languages.count("zh") <= 140
    assert set(languages) == {"en", "zh"}


@pytest.mark.parametrize("family", ["sums", "legs"])
def test_no_problem_comes_in_both_languages(family):
    """Else a split would put one language's version beside the other's."""
    rows = draw(family, 300, seed=0)
    key = "expression" if family == "sums" else "animals"
    entries = [json.dumps(row["meta"]["metadata"][key]) for row in rows]
    assert len(set(entries)) == len(entries)


@pytest.mark.parametrize("family", ["sums", "legs"])
def test_reasoning_gym_grades_both_languages(tmp_path, family):
    rows = draw(family, 30, seed=1)
    for row, example in zip(rows, examples(tmp_path, rows), strict=True):
        spec = _spec(example)
        assert spec["kind"] == "reasoning_gym"
        wrong = f"<think>So</think><answer>{int(row['answer']) + 1}</answer>"
        right, missed = grade_group("p", [clean_response(row), wrong], spec, RewardSection())
        assert (right.outcome, right.rewards) == ("pass", {"accuracy": 1.0, "format": 1.0})
        assert missed.outcome == "fail"


def test_legs_stay_within_the_numbers_of_one_token():
    assert max(int(row["answer"]) for row in draw("legs", 300, seed=0)) <= MAX_LEGS


def test_code_tests_agree_with_python_and_notice_each_missing_step(tmp_path):
    rows = draw("code", 40, seed=2)
    for row, example in zip(rows, examples(tmp_path, rows), strict=True):
        steps = [tuple(step) for step in row["meta"]["steps"]]
        assert 2 <= len(steps) <= 4
        assert example.code is not None
        assert example.code["tests"]["code"] == [f"assert f({x}) == {run(steps, x)}" for x in TEST_INPUTS]
        assert passes(row["solution"], example.code["tests"]["code"])
        for index in range(len(steps)):
            assert not passes(program(steps[:index]), example.code["tests"]["code"])
            assert not passes(program(steps[:index] + steps[index + 1 :]), example.code["tests"]["code"])


def test_the_program_of_a_clean_response_is_the_solution(tmp_path):
    """What the evaluator takes out of the response and hands to the sandbox; one of them is run here."""
    rows = draw("code", 20, seed=4)
    for row, example in zip(rows, examples(tmp_path, rows), strict=True):
        fields = job(example.code, read("", clean_response(row)))
        assert fields is not None
        assert fields["source"] == row["solution"]
    whole = "\n".join([fields["source"], *fields["tests"]["code"]])
    assert subprocess.run([sys.executable, "-I", "-c", whole], timeout=30).returncode == 0


def test_general_problems_have_no_gold_and_one_aspect(tmp_path):
    rows = draw("notes", 20, seed=0) + draw("requests", 60, seed=0)
    for row, example in zip(rows, examples(tmp_path, rows, need_answer=False), strict=True):
        assert _spec(example)["kind"] == "none"
        assert example.columns["kind"] == "general"
        harmful = bool(row["meta"].get("harmful"))
        assert row["aspect"] == ("safety" if harmful else "helpfulness")
    assert {row["aspect"] for row in rows if row["family"] == "requests"} == {"safety", "helpfulness"}


def passes(source: str, asserts: list[str]) -> bool:
    names: dict[str, object] = {}
    exec(source, names)  # our own program
    try:
        exec("\n".join(asserts), names)
    except AssertionError:
        return False
    return True

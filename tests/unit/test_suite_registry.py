"""Suites by name, file, YAML, entry point; what is said to a wrong one; the published sets' rows turned into ours."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from recipes.suites import foreign
from recipes.suites.builtin import builtin_suites
from recipes.suites.registry import ENTRY_POINTS, find_suites, is_suite, suite_source
from recipes.suites.suite import Suite, load_suite, local_copy, put_instruction
from tests.unit.launcher_inputs import write_problems

MINE = Suite("mine", rows=lambda: [{"id": "1", "prompt": "1 + 1?", "answer": "2"}])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $ZEROQ_DATA."""
    monkeypatch.setenv("ZEROQ_DATA", str(tmp_path))
    return tmp_path


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_k_is_that_of_the_report() -> None:
    ks = {name: suite.k for name, suite in builtin_suites().items()}
    reported = {"aime2024": 64, "gpqa_diamond": 64, "math500": 16, "codeforces": 16, "livecodebench": 8}
    assert {name: ks[name] for name in reported} == reported
    assert (ks["gsm8k"], ks["mbpp"]) == (16, 16)
    assert {(s.temperature, s.top_p, s.max_tokens) for s in builtin_suites().values()} == {(0.6, 0.95, 32_768)}


def test_names_files_and_hub_names_are_told_apart(tmp_path: Path) -> None:
    path = write_problems(tmp_path / "own.set.jsonl", 2)
    found = find_suites(["aime", "mgsm_de", str(path), "openai/gsm8k:main"])
    assert [(suite.name, suite.source) for suite in found] == [
        ("aime2024", "aime2024.jsonl"),
        ("mgsm_de", "mgsm.jsonl"),
        ("own", str(path)),
        ("gsm8k", "openai/gsm8k:main"),
    ]
    assert len(load_suite(found[2])) == 2


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"--suite humanevall: no suite, .* did you mean humaneval"):
        find_suites(["humanevall"])
    with pytest.raises(UserError, match=r"--suite qqqqq: .*; known: aime2024, "):
        find_suites(["qqqqq"])
    with pytest.raises(UserError, match="two suites called aime2024"):
        find_suites(["aime", "aime2024"])
    with pytest.raises(UserError, match="name at least one"):
        find_suites([])


def test_a_missing_file_is_named(data: Path) -> None:
    with pytest.raises(UserError, match=f"aime2024.jsonl: no such file, neither here nor in {data}"):
        load_suite(builtin_suites()["aime2024"])


def test_suites_of_a_yaml_file(tmp_path: Path) -> None:
    write_problems(tmp_path / "p.jsonl", 3, level="hard")
    path = tmp_path / "suites.yaml"
    path.write_text(f"hard: {{source: {tmp_path}/p.jsonl, k: 4, only: {{level: hard}}}}\nnone: {{source: x.jsonl}}\n")
    hard, none = find_suites([str(path)])
    assert (hard.name, hard.k, none.k, len(load_suite(hard))) == ("hard", 4, 16, 3)
    assert [suite.name for suite in find_suites([f"{path}:none"])] == ["none"]
    path.write_text(f"easy: {{source: {tmp_path}/p.jsonl, only: {{level: easy}}}}")
    with pytest.raises(UserError, match=r"suite easy: no problem of .* has {'level': 'easy'}"):
        load_suite(find_suites([str(path)])[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hard: {source: x.jsonl, k: 0}", "hard.k: Input should be greater than or equal to 1 .got 0."),
        ("hard: {source: x.jsonl, samples: 4}", "hard.samples: Extra inputs are not permitted"),
        ("hard: {k: 4}", "hard.source: Field required"),
        ("[1, 2]", "expected suites by name"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_definition_is_one_line_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "suites.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        find_suites([str(path)])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read"):
        find_suites([str(tmp_path / "absent.yaml")])


def test_entry_points_are_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "tests.unit.test_suite_registry"
    values = {"mine": f"{here}:MINE", "several": f"{here}:make_several", "broken": f"{here}:make_nonsense"}
    points = [importlib.metadata.EntryPoint(name, value, ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints(points))
    assert [suite.name for suite in find_suites(["mine", "several"])] == ["mine", "first", "second"]
    assert [example.answer for example in load_suite(MINE)] == ["2"]
    assert is_suite("mine")
    with pytest.raises(
        UserError, match=r"suite broken: entry point .*: expected a .*Suite or a list of them, got \['x'\]"
    ):
        find_suites(["broken"])


def make_several() -> list[Suite]:
    return [Suite("first", rows=list), Suite("second", rows=list)]


def make_nonsense() -> list[Any]:
    return ["x"]


def test_rows_made_by_code_are_checked_like_a_file() -> None:
    suite = Suite("mine", rows=lambda: [{"id": "1", "prompt": "1 + 1?"}])
    with pytest.raises(UserError, match="suite mine: row:1: field 'answer' must hold the answer"):
        load_suite(suite)


def test_suite_sources_are_found_for_who_reads_them(data: Path) -> None:
    assert is_suite("aime")
    assert not is_suite("x.jsonl")
    assert suite_source("aime2024") == "aime2024.jsonl"
    assert suite_source("gpqa") == "Idavidrein/gpqa:gpqa_diamond"
    lines(data / "gpqa_diamond.jsonl", {"prompt": "?", "answer": "A"})
    assert suite_source("gpqa") == "gpqa_diamond.jsonl"


def test_only_the_built_in_hub_sets_have_local_copies(data: Path) -> None:
    lines(data / "gsm8k.jsonl", {"prompt": "?", "answer": "A"})
    (suite,) = find_suites(["openai/gsm8k:main"])
    assert local_copy(suite) is None


def test_files_for_evaluation_only_may_be_evaluated_on(tmp_path: Path) -> None:
    path = write_problems(tmp_path / "held.jsonl", 2, eval_only=True)
    assert len(load_suite(find_suites([str(path)])[0])) == 2


def test_the_language_of_a_problem_becomes_a_column(data: Path) -> None:
    lines(data / "mgsm.jsonl", *({"prompt": lang, "answer": "1", "meta": {"lang": lang}} for lang in ("en", "de")))
    (example,) = load_suite(builtin_suites()["mgsm_de"])
    assert (example.prompt, example.columns["language"]) == ("de", "de")


def test_an_instruction_goes_below_the_problem() -> None:
    (example,) = load_suite(MINE)
    assert put_instruction(example, "Box it.").prompt == "1 + 1?\nBox it."


def test_math500_rows(data: Path) -> None:
    row = {"unique_id": "test/algebra/1.json", "problem": "1 + 1?", "answer": "2", "level": 1}
    lines(data / "math500_full.jsonl", row, {"id": "ours", "prompt": "2 + 2?", "answer": "4"})
    examples = load_suite(builtin_suites()["math500_full"])
    assert [(example.id, example.prompt, example.answer) for example in examples] == [
        ("test/algebra/1.json", "1 + 1?", "2"),
        ("ours", "2 + 2?", "4"),
    ]


def test_gpqa_rows_become_letters(data: Path) -> None:
    row = {"Record ID": "rec1", "Question": "Which?", "Correct Answer": "right", "Subdomain": "Physics"}
    row |= {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    lines(data / "gpqa_diamond.jsonl", row, row | {"Record ID": "rec2"}, row | {"Record ID": "rec3"})
    examples = load_suite(builtin_suites()["gpqa_diamond"])
    for example in examples:
        assert f"{example.answer}) right" in example.prompt
    assert load_suite(builtin_suites()["gpqa_diamond"]) == examples, "the order is the same each time"
    assert examples[0].where == "suite gpqa_diamond: row:1"
    lines(data / "gpqa_diamond.jsonl", {"Question": "Which?"})
    with pytest.raises(UserError, match=r"suite gpqa_diamond: .*gpqa_diamond\.jsonl:1: not a row as Idavidrein/gpqa"):
        load_suite(builtin_suites()["gpqa_diamond"])


def test_live_code_bench_rows(data: Path) -> None:
    hidden = json.dumps([{"input": "3", "output": "6", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
    public = json.dumps([{"input": "2", "output": "4", "testtype": "stdin"}])
    stdin = {"question_id": "a", "question_content": "Double it.", "starter_code": "", "metadata": "{}"}
    method = {
        "question_id": "b",
        "question_content": "Add.",
        "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
        "metadata": json.dumps({"func_name": "add"}),
        "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]),
        "private_test_cases": "[]",
    }
    lines(data / "livecodebench.jsonl", stdin | {"public_test_cases": public, "private_test_cases": packed}, method)
    double, add = load_suite(builtin_suites()["livecodebench"])
    assert double.code is not None
    assert add.code is not None
    assert [(c["stdin"], c["expected"]) for c in double.code["tests"]["cases"]] == [("2", "4"), ("3", "6")]
    assert add.code["tests"] == {
        "kind": "call",
        "entry_point": "add",
        "cls": "Solution",
        "cases": [{"args": [1, 2], "expected": 3}],
    }


def test_a_pickle_is_read_as_text_and_never_executed() -> None:
    assert foreign._pickled_text(pickle.dumps("[1]")) == "[1]"
    for value in (print, ["a"], 1, ("a", "b")):
        with pytest.raises(ValueError, match="pickled text was expected"):
            foreign._pickled_text(pickle.dumps(value))


def test_codeforces_rows_that_cannot_be_graded_are_left_out(data: Path) -> None:
    row = {
        "id": "1/A",
        "description": "Sum.",
        "input_format": "Two numbers.",
        "examples": [{"input": "1 2", "output": "3"}],
        "official_tests": [{"input": "4 5", "output": "9"}],
        "time_limit": 2.0,
        "memory_limit": 256.0,
        "contest_id": "1",
        "index": "A",
    }
    others = [{"id": "1/B", "generated_checker": "code"}, {"id": "1/C", "official_tests": []}]
    lines(data / "codeforces.jsonl", row, *(row | other for other in others))
    said: list[str] = []
    (example,) = load_suite(builtin_suites()["codeforces"], say=said.append)
    assert example.code is not None
    assert example.code["tests"]["cases"][0]["expected"] == "9"
    assert "Example input\n1 2\nExample output\n3" in example.prompt
    assert example.columns["meta"]["contest_id"] == "1"
    assert said == [
        "suite codeforces: 2 problems left out (without problems that have a checker of their own, are interactive or "
        "have no tests)"
    ]

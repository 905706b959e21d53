"""Reading problems: our schema, other column names, and every way in which a line can be wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from common.config import FieldMap, ReasoningGymSource
from common.errors import UserError
from recipes.datasets import cold_start_response, find_file, load_examples
from recipes.problems import reasoning_gym_problems

LINE = {"id": "a/0", "prompt": "2 + 2?", "answer": "4", "solution": None, "meta": {"level": 1}}


def write(path: Path, *lines: Any) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_our_schema_and_keeps_other_columns(tmp_path: Path) -> None:
    (example,) = load_examples(write(tmp_path / "a.jsonl", LINE))
    assert (example.id, example.prompt, example.answer) == ("a/0", "2 + 2?", "4")
    assert example.columns == {"answer": "4", "solution": None, "meta": {"level": 1}}
    assert example.where.endswith("a.jsonl:1")


def test_reads_gzip_and_looks_in_zeroq_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROQ_DATA", str(tmp_path))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps(LINE) + "\n")
    assert find_file("a.jsonl.gz") == tmp_path / "a.jsonl.gz"
    assert len(load_examples("a.jsonl.gz")) == 1


def test_other_column_names_and_numbers_as_answers(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"question": "2 + 2?", "gold": 4})
    (example,) = load_examples(source, fields=FieldMap(prompt="question", answer="gold"))
    assert (example.id, example.answer) == ("a.jsonl:1", "4")


def test_the_hubs_gsm8k_column_is_taken_apart(tmp_path: Path) -> None:
    answer = "She has 3 * 400 = <<3*400=1200>>1200 eggs.\n#### 1,200"
    source = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": answer})
    (example,) = load_examples(source, fields=FieldMap(prompt="question"))
    assert (example.answer, example.solution) == ("1200", answer)
    assert cold_start_response(answer, "1200") == ("<think>She has 3 * 400 = 1200 eggs.</think><answer>1200</answer>")


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("", "empty line"),
        ('{"id": 1', "not valid JSON"),
        ('{"id": ' + "[" * 100_000, "not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"prompt": "x", "answer": NaN}', "NaN is not JSON"),
        ({"question": "x", "answer": "1"}, "data.fields.prompt=NAME"),
        ({"prompt": "  ", "answer": "1"}, "field 'prompt'"),
        ({"prompt": "x"}, "field 'answer'"),
        ({"prompt": "x", "answer": ["1"]}, "must be text or a number, got ['1']"),
        ({"prompt": "x", "answer": "1", "eval_only": True}, "eval_only"),
        ({"prompt": "x", "answer": "1", "id": "a/0"}, "is taken by"),
        ({"prompt": "x", "answer": "1", "id": "y" * 200}, "id of 200 characters"),
        ('{"prompt": "\\ud800", "answer": "1"}', "UTF-8"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, second: Any, says: str) -> None:
    message = refusal(write(tmp_path / "bad.jsonl", LINE, second))
    assert f"{tmp_path}/bad.jsonl:2: " in message
    assert says in message


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    assert "a.jsonl:1: not UTF-8" in refusal(str(tmp_path / "a.jsonl"))


def test_a_torn_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(LINE | {"id": str(i)}) + "\n" for i in range(1000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(str(tmp_path / "a.jsonl.gz"))
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    assert "b.jsonl.gz:1: cannot be read" in refusal(str(tmp_path / "b.jsonl.gz"))


def test_eval_only_lines_may_be_evaluated_on(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", LINE | {"eval_only": True})
    assert len(load_examples(source, training=False)) == 1


def test_answers_are_not_needed_when_nothing_compares_with_them(tmp_path: Path) -> None:
    assert load_examples(write(tmp_path / "a.jsonl", {"prompt": "x"}), need_answer=False)[0].answer is None


def test_empty_and_missing_sources_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROQ_DATA", str(tmp_path / "elsewhere"))
    assert "no problems in it" in refusal(write(tmp_path / "a.jsonl"))
    message = refusal("none.jsonl")
    assert "none.jsonl: no such file" in message
    assert str(tmp_path / "elsewhere") in message
    (tmp_path / "a.csv").write_text("x")
    assert "ending in .jsonl" in refusal(str(tmp_path / "a.csv"))
    assert "no such file or directory" in refusal("/nowhere/data")


def test_excluded_prompts_stay_out(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", LINE, LINE | {"id": "b", "prompt": "other"})
    assert [e.id for e in load_examples(source, exclude={"2 + 2?"})] == ["b"]


def test_reasoning_gym_examples_carry_the_scorers_entry() -> None:
    source = ReasoningGymSource(reasoning_gym="chain_sum", size=3, params={"min_terms": 2, "max_terms": 2})
    examples = load_examples(source, seed=5)
    assert examples == load_examples(source, seed=5) != load_examples(source, seed=6)
    entry = examples[0].reasoning_gym
    assert entry is not None
    assert (entry["dataset"], entry["entry"]["question"]) == ("chain_sum", examples[0].prompt)


def test_lines_written_from_generated_problems_are_graded_by_their_scorer(tmp_path: Path) -> None:
    problem = reasoning_gym_problems("chain_sum", num=1, seed=0)[0]
    (example,) = load_examples(write(tmp_path / "a.jsonl", problem.to_json()))
    assert example.reasoning_gym is not None
    assert example.reasoning_gym["entry"]["metadata"] == problem.meta["metadata"]


@pytest.mark.parametrize("params", [{"min_terms": -1}, {"no_such": 1}])
def test_wrong_reasoning_gym_parameters_are_refused(params: dict[str, int]) -> None:
    assert "reasoning_gym chain_sum" in refusal(ReasoningGymSource(reasoning_gym="chain_sum", size=2, params=params))


def test_hugging_face_directories_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"question": "2 + 2?", "answer": "4"}])
    table.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "splits"))
    fields = FieldMap(prompt="question")
    for name in ("plain", "splits"):
        assert load_examples(str(tmp_path / name), fields=fields)[0].answer == "4"
    assert "no split 'test'; it has train" in refusal(str(tmp_path / "splits"), fields=fields, split="test")


@pytest.mark.parametrize(("name", "says"), [("", "data : no such file or directory"), ("/", "data /: ")])
def test_a_source_that_names_nothing_is_refused_at_once(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_examples(name)


def test_a_broken_file_of_a_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="JSON parse error"):
        load_examples(str(tmp_path))


def test_without_zeroq_data_files_are_looked_for_here_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROQ_DATA", raising=False)
    looked: list[Path] = []
    monkeypatch.setattr(Path, "is_file", lambda path: bool(looked.append(path)))
    with pytest.raises(UserError, match=r"neither here nor in \$ZEROQ_DATA \(not set\)"):
        find_file("no_such_problems.jsonl")
    assert looked == [Path("no_such_problems.jsonl")]

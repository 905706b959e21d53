"""Rows in other libraries' conventions: what they become, how a convention is told, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import FieldMap
from common.errors import UserError
from recipes.columns import columns_of, look_up
from recipes.datasets import Example, load_examples

Json = dict[str, Any]

TRL_TEXT = {
    "prompt": "Solve for x: 2x = 3.",
    "solution": r"Halve both sides: $x = \frac{3}{2}$, so $\boxed{\frac{3}{2}}$.",
}
TRL_CHAT = {
    "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is 6 * 7?"}],
    "answer": "42",
}
VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "Tom has 3 apples and eats one. How many are left?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 0, "answer": "3 - 1 = <<3-1=2>>2\n#### 2"},
}
VERL_CODE = {
    "data_source": "codecontests",
    "prompt": [{"role": "user", "content": "Print twice the number."}],
    "ability": "code",
    "reward_model": {
        "style": "rule",
        "ground_truth": json.dumps({"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}),
    },
    "extra_info": {"split": "train", "index": 7},
}
OPENRLHF = {"context_messages": [{"role": "user", "content": "9 - 4?"}], "label": "5", "datasource": "sums"}
OPEN_R1_STDIN: Json = {
    "problem": "Read two integers and print their sum.",
    "gold_standard_solution": "```python\na, b = map(int, input().split())\nprint(a + b)\n```",
    "verification_info": {
        "language": "python",
        "test_cases": [
            {"input": "1 2\n", "output": "3\n", "type": "stdin_stdout", "fn_name": None},
            {"input": ["4 5"], "output": ["9"], "type": "stdin_stdout", "fn_name": None},
        ],
    },
}
OPEN_R1_CALL: Json = {
    "prompt": "Write add(a, b).",
    "verification_info": json.dumps(
        {
            "language": "Python3",
            "test_cases": [
                {"fn_name": "add", "input": [1, 2], "output": [3], "type": "function_call"},
                {"fn_name": "add", "input": "4\n-5", "output": "[-1]", "type": "function_call"},
            ],
        }
    ),
}
OPEN_R1_MATH = {
    "problem": "Half of a half?",
    "verification_info": '{"ground_truth": "\\\\frac{1}{4}"}',
    "solution": "Halve it.",
}


def read(folder: Path, *rows: Any, fields: FieldMap | None = None, **options: Any) -> tuple[list[Example], list[str]]:
    """Examples of a file with these rows, and what was said."""
    path, said = folder / "rows.jsonl", []  # type: tuple[Path, list[str]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples(str(path), fields=fields, say=said.append, **options), said


def refusal(folder: Path, *rows: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, *rows, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "convention"),
    [
        ({"prompt": "2 + 2?", "answer": "4", "solution": None}, "zeroq"),
        ({"prompt": "Say hello.", "domain": "general", "solution": "x"}, "zeroq"),
        ({"prompt": "x"}, "zeroq"),
        (TRL_TEXT, "trl"),
        (TRL_CHAT, "trl"),
        (VERL, "verl"),
        (VERL_CODE, "verl"),
        (OPENRLHF, "openrlhf"),
        ({"input": "9 - 4?", "label": "5"}, "openrlhf"),
        (OPEN_R1_STDIN, "open_r1"),
        (OPEN_R1_CALL, "open_r1"),
        ({"problem": "1 + 1?", "answer": "2"}, "open_r1"),
    ],
)
def test_conventions_are_told_by_their_columns_and_said(tmp_path: Path, row: Json, convention: str) -> None:
    assert columns_of(FieldMap(), row).convention == convention
    _, said = read(tmp_path, row, row, need_answer=False)
    assert len(said) == (convention != "zeroq")
    assert all(f"the {convention} convention" in note and "rows.jsonl" in note for note in said)
    assert not read(tmp_path, row, need_answer=False, fields=FieldMap(convention=convention))[1]  # given, not told


def test_trls_columns(tmp_path: Path) -> None:
    (text,), _ = read(tmp_path, TRL_TEXT)
    assert (text.prompt, text.answer, text.solution) == (TRL_TEXT["prompt"], r"\frac{3}{2}", TRL_TEXT["solution"])
    assert text.messages is None
    (chat,), _ = read(tmp_path, TRL_CHAT)
    assert (chat.messages, chat.answer) == (TRL_CHAT["prompt"], "42")
    assert chat.question == TRL_CHAT["prompt"]
    assert chat.prompt == "system: Be short.\n\nuser: What is 6 * 7?"
    (short,), _ = read(tmp_path, {"prompt": "1/2?", "solution": "$\\boxed{0.5}$"})
    assert (short.answer, short.solution) == ("0.5", None)
    (plain,), _ = read(tmp_path, {"prompt": "1/2?", "solution": " 0.5 "})
    assert (plain.answer, plain.solution) == ("0.5", None)


def test_verls_columns(tmp_path: Path) -> None:
    (example,), _ = read(tmp_path, VERL)
    assert (example.prompt, example.answer, example.code) == (VERL["prompt"][0]["content"], "2", None)  # type: ignore[index]
    assert example.columns["source"] == "openai/gsm8k"
    assert example.columns["extra_info"] == VERL["extra_info"]
    number = VERL | {"reward_model": {"style": "rule", "ground_truth": ["7"]}}
    assert read(tmp_path, number)[0][0].answer == "7"


def test_verls_code_becomes_tests_and_its_answers_stay_out_of_the_columns(tmp_path: Path) -> None:
    (example,), _ = read(tmp_path, VERL_CODE)
    assert example.code is not None
    assert example.code["tests"] == {
        "kind": "stdio",
        "cases": [{"stdin": "2\n", "expected": "4\n"}, {"stdin": "5\n", "expected": "10\n"}],
        "compare": "default",
    }
    assert {"reward_model", "tests"}.isdisjoint(example.columns)
    assert "Write a program in Python" in example.prompt
    assert example.messages is not None
    assert "Write a program in Python" in example.messages[-1]["content"]
    call = {"fn_name": "twice", "inputs": [["ab"], ["c"]], "outputs": [["abab"], ["cc"]]}
    (example,), _ = read(tmp_path, VERL_CODE | {"reward_model": {"style": "rule", "ground_truth": json.dumps(call)}})
    assert example.code is not None
    assert example.code["tests"] == {
        "kind": "call",
        "entry_point": "twice",
        "cases": [{"args": ["ab"], "expected": "abab"}, {"args": ["c"], "expected": "cc"}],
    }


def test_openrlhfs_keys(tmp_path: Path) -> None:
    assert read(tmp_path, OPENRLHF)[0][0].answer == "5"
    row = {"question": "9 - 4?", "gold": 5}
    (example,), said = read(tmp_path, row, fields=FieldMap(input_key="question", label_key="gold"))
    assert (example.prompt, example.answer) == ("9 - 4?", "5")
    assert "openrlhf" in said[0]
    with pytest.raises(ValueError, match="name the same column; keep one"):
        FieldMap(input_key="question", prompt="text")
    with pytest.raises(ValueError, match="name it answer: gold"):
        FieldMap(convention="trl", label_key="gold")


def test_open_r1s_verification_info(tmp_path: Path) -> None:
    (program,), _ = read(tmp_path, OPEN_R1_STDIN)
    assert program.code is not None
    assert program.code["tests"]["cases"] == [{"stdin": "1 2\n", "expected": "3\n"}, {"stdin": "4 5", "expected": "9"}]
    assert program.solution == "a, b = map(int, input().split())\nprint(a + b)"
    assert "verification_info" not in program.columns
    (call,), _ = read(tmp_path, OPEN_R1_CALL)
    assert call.code is not None
    assert (call.code["language"], call.code["entry_point"]) == ("python", "add")
    assert call.code["tests"]["cases"] == [{"args": [1, 2], "expected": 3}, {"args": [4, -5], "expected": -1}]
    (math,), _ = read(tmp_path, OPEN_R1_MATH)
    assert (math.answer, math.solution, math.code) == (r"\frac{1}{4}", "Halve it.", None)


def test_outputs_stay_lists_unless_all_are_wrapped(tmp_path: Path) -> None:
    cases = [{"fn_name": "f", "input": [1], "output": [1]}, {"fn_name": "f", "input": [2], "output": [1, 2]}]
    (example,), _ = read(tmp_path, {"prompt": "f", "verification_info": {"language": "python", "test_cases": cases}})
    assert example.code is not None
    assert [case["expected"] for case in example.code["tests"]["cases"]] == [[1], [1, 2]]


def test_dotted_paths_and_names_of_ones_own(tmp_path: Path) -> None:
    row = {"data": {"q": "2 + 2?", "gold": {"value": 4}}, "a.b": "flat"}
    assert look_up(row, "data.gold.value") == 4
    assert look_up(row, "a.b") == "flat"
    assert look_up(row, "data.none.value") is None
    assert look_up({"info": '{"x": 1}'}, "info.x") == 1
    (example,), said = read(tmp_path, row, fields=FieldMap(prompt="data.q", answer="data.gold.value"))
    assert (example.prompt, example.answer, said) == ("2 + 2?", "4", [])
    (example,), _ = read(tmp_path, VERL, fields=FieldMap(answer="extra_info.index"))
    assert example.answer == "0"  # a name given wins over the convention's


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (TRL_CHAT | {"prompt": []}, "it has no messages"),
        (TRL_CHAT | {"prompt": ["hello"]}, "message 1 must be an object with role and content"),
        (TRL_CHAT | {"prompt": [{"role": "human", "content": "x"}]}, "role must be one of system"),
        (TRL_CHAT | {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "content must be text"),
        (
            TRL_CHAT | {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "remove that",
        ),
        (TRL_CHAT | {"prompt": [{"role": "system", "content": "a"}]}, "no user's turn"),
        ({"prompt": "x", "solution": "long\ntext"}, "data.fields.answer=NAME"),
        (VERL | {"reward_model": {"style": "model"}}, "field 'reward_model.ground_truth' must hold the answer"),
        (VERL | {"reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": []}'}}, "of the same length"),
        (OPEN_R1_STDIN | {"verification_info": "no json"}, "verification_info must be an object"),
        (OPEN_R1_STDIN | {"verification_info": {"x": 1}}, "test_cases (code) or ground_truth"),
        (OPEN_R1_STDIN | {"verification_info": {"test_cases": []}}, "test_cases must be a list"),
        (
            OPEN_R1_STDIN
            | {"verification_info": {"test_cases": [{"input": "1", "output": "1", "type": "function_call"}]}},
            "need fn_name",
        ),
        (
            OPEN_R1_STDIN | {"verification_info": {"test_cases": [{"input": "1"}, {"input": "1", "fn_name": "f"}]}},
            "mix functions or types",
        ),
        (
            OPEN_R1_STDIN | {"verification_info": {"language": "cobol", "test_cases": [{"input": "1", "output": "1"}]}},
            "language 'cobol' is not known",
        ),
        (
            OPEN_R1_STDIN | {"verification_info": {"test_cases": [{"input": {"a": 1}, "output": 1, "fn_name": "f"}]}},
            "must be a list of arguments or JSON text",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_remedy(tmp_path: Path, row: Json, says: str) -> None:
    message = refusal(tmp_path, row)
    assert message.startswith(f"{tmp_path}/rows.jsonl:1: ")
    assert says in message


def test_hugging_face_directories_in_each_convention(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name, rows, answer in (
        ("trl", [TRL_CHAT], "42"),
        ("verl", [VERL, VERL | {"extra_info": {"split": "train", "index": 1, "answer": None}}], "2"),
        ("openrlhf", [OPENRLHF], "5"),
        ("open_r1", [OPEN_R1_STDIN, OPEN_R1_STDIN], None),
    ):
        if name == "open_r1":  # Arrow wants one type a column
            cases = OPEN_R1_STDIN["verification_info"]["test_cases"][:1]
            rows = [OPEN_R1_STDIN | {"verification_info": {"language": "python", "test_cases": cases}}] * 2
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / name))
        said: list[str] = []
        examples = load_examples(str(tmp_path / name), say=said.append)
        assert len(examples) == len(rows)
        assert examples[0].answer == answer
        assert f"the {name} convention" in said[0]
        assert examples[-1].where == f"{tmp_path / name}[train]:{len(rows)}"

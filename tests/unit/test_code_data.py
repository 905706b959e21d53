"""Code problems: every row of the data files becomes a job the sandbox accepts, and a bad row names what is wrong."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from evaluator.sandbox.job import CodeJob
from recipes.code import code_spec, job_lines, statement
from recipes.datasets import load_examples
from recipes.model_files import PromptTokenizer
from recipes.prepare import build_data
from tests.unit.launcher_inputs import make_config

DATA = Path(os.environ.get("ZEROQ_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CHECK = {
    "id": "H/0",
    "domain": "code",
    "language": "python",
    "prompt": "def f(x):\n",
    "starter": "def f(x):\n",
    "entry_point": "f",
    "test_type": "python_check",
    "tests": [
        {"type": "python_check", "code": "def check(candidate):\n    assert candidate(1) == 1\n", "call": "check(f)\n"}
    ],
    "solution": "    return x\n",
}
ASSERTS = CHECK | {
    "id": "m/1",
    "prompt": "Give it back.",
    "test_type": "python_asserts",
    "test_setup": "y = 1",
    "tests": [{"type": "assert", "code": "assert f(1) == y"}, {"type": "assert", "code": "assert f(2) == 2"}],
    "challenge_tests": ["assert f('a') == 'a'"],
    "starter": "def f(x):",
    "solution": "def f(x):\n    return x\n",
}
SUFFIX = {
    "domain": "code",
    "prompt": "x",
    "language": "csharp",
    "entry_point": "has_close",
    "starter": "class Problem {\n    // HasFar(1)\n    public static bool HasClose(int x) {\n",
    "test_type": "program_suffix",
    "tests": [{"code": "    }\n    public static void Main() { HasClose(1); }\n}\n"}],
    "closing_brace_in_tests": True,
}
STDIO: dict[str, Any] = {
    "domain": "code",
    "language": None,
    "prompt": "Add.",
    "test_type": "stdin_stdout",
    "tests": [{"group": "sample", "input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4\n"}],
    "checker": {"type": "tokens", "float_tolerance": 1e-6},
    "time_limit_s": 480,
    "memory_limit_gb": 1.0,
}


def accepted(spec: dict[str, Any]) -> CodeJob:
    """The sandbox's own schema takes it."""
    return CodeJob.model_validate(
        {key: value for key, value in spec.items() if key not in ("starter", "entry_point")} | {"source": "x"}
    )


def test_python_check_becomes_assert() -> None:
    spec = code_spec(CHECK)
    tests = {"kind": "assert", "entry_point": "f", "code": CHECK["tests"][0]["code"]}  # type: ignore[index]
    assert spec == {
        "language": "python",
        "tests": tests,
        "limits": {},
        "starter": "def f(x):\n",
        "entry_point": "f",
    }
    accepted(spec)


def test_a_check_gets_the_helpers_that_it_calls_as_its_own() -> None:
    starter = "import math\n\ndef half(x):\n    return x / 2\n\n\ndef f(x):\n    # Twice half(x).\n"
    uses = [{"code": "def check(candidate):\n    assert candidate(half(4)) == 4\n"}]
    code = code_spec(CHECK | {"starter": starter, "tests": uses})["tests"]["code"]
    assert code.startswith("import math\n\ndef half(x):\n    return x / 2\n\n\ndef check(candidate):")
    assert code_spec(CHECK | {"starter": starter})["tests"]["code"] == CHECK["tests"][0]["code"]  # type: ignore[index]


def test_python_asserts_keep_setup_and_challenge_tests() -> None:
    spec = code_spec(ASSERTS)
    assert spec["tests"] == {
        "kind": "asserts",
        "code": ["assert f(1) == y", "assert f(2) == 2", "assert f('a') == 'a'"],
        "setup": "y = 1",
    }
    assert spec["entry_point"] == "f"
    accepted(spec)


def test_a_suffix_loses_its_first_brace_and_gets_the_functions_own_name() -> None:
    spec = code_spec(SUFFIX)
    assert spec["tests"] == {
        "kind": "suffix",
        "code": "    public static void Main() { HasClose(1); }\n}\n",
        "entry_point": "HasClose",
    }
    accepted(spec)


def test_stdin_and_stdout_of_any_language_are_pythons() -> None:
    spec = code_spec(STDIO)
    assert spec["language"] == "python"
    assert spec["tests"]["cases"][0] == {"stdin": "1 2\n", "expected": "3\n"}
    assert spec["limits"] == {"time_s": 30.0, "memory_mb": 1024}
    accepted(spec)


@pytest.mark.parametrize(
    ("output", "checker", "compare"),
    [
        ("3\n", {"type": "tokens", "float_tolerance": 1e-6}, "tokens"),
        ("Case #1: 3.5\n", {"type": "tokens", "float_tolerance": 1e-6}, "float"),
        ("Case #1: 3e10\n", {"type": "tokens", "float_tolerance": 1e-6}, "float"),
        ("Case #1: 3.5\n", {"type": "tokens"}, "tokens"),
        ("Case #1: a.b 1.2.3 e5 .\n", {"type": "tokens", "float_tolerance": 1e-6}, "tokens"),
        ("3.5\n", None, "default"),
    ],
)
def test_floats_are_compared_only_where_some_are_expected(output: str, checker: Any, compare: str) -> None:
    row = STDIO | {"tests": [{"input": "", "output": "1\n"}, {"input": "", "output": output}], "checker": checker}
    assert code_spec(row)["tests"]["compare"] == compare


def test_bare_pairs_of_input_and_output_are_enough() -> None:
    spec = code_spec({"prompt": "Add.", "tests": [{"input": "1 2", "output": "3"}]})
    assert spec["tests"] == {"kind": "stdio", "cases": [{"stdin": "1 2", "expected": "3"}], "compare": "default"}
    accepted(spec)


def test_tests_may_be_in_the_sandboxs_own_form() -> None:
    tests = {"kind": "call", "entry_point": "go", "cls": "Solution", "cases": [{"args": [1], "expected": 2}]}
    spec = code_spec({"prompt": "x", "tests": tests})
    assert (spec["tests"], spec["entry_point"]) == (tests, "Solution")
    accepted(spec)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (CHECK | {"language": "cobol"}, "language 'cobol' is not known; one of python, cpp"),
        (CHECK | {"language": "java"}, "use program_suffix"),
        (CHECK | {"test_type": "pytest"}, "test_type 'pytest' is not known; one of python_check"),
        (CHECK | {"test_type": None}, "test_type is missing"),
        (CHECK | {"tests": []}, "field 'tests' is empty"),
        (CHECK | {"tests": "assert"}, "must be a list of objects"),
        (CHECK | {"tests": [{"code": " "}]}, "tests[0].code must be the test's code"),
        (CHECK | {"tests": [{"code": "def test(c): pass"}]}, "must define check(candidate)"),
        (CHECK | {"tests": [{"code": "def check(c: pass"}]}, "not valid Python"),
        (CHECK | {"tests": [{"code": "def check(c): pass", "call": "check(g)"}]}, "must be check(f)"),
        (CHECK | {"tests": CHECK["tests"] * 2}, "has 2; join them"),  # type: ignore[operator]
        (CHECK | {"entry_point": None}, "must name the function under test"),
        (CHECK | {"starter": 3}, "field 'starter' must be text or null"),
        (ASSERTS | {"tests": [{"code": "f(1)"}]}, "tests[0].code must be one assert statement"),
        (ASSERTS | {"tests": ["assert f(1) == 1", 3]}, "must be a list of objects"),
        (ASSERTS | {"test_setup": "x ="}, "test_setup is not valid Python"),
        (SUFFIX | {"tests": [{"code": "Main()"}]}, "does not begin with a brace"),
        (STDIO | {"tests": [{"input": "1", "output": 1}]}, "tests[0] needs input and output as texts"),
        (STDIO | {"checker": "tokens"}, "checker must be an object"),
        (STDIO | {"time_limit_s": -1}, "'time_limit_s' must be a positive number"),
        (STDIO | {"memory_limit_gb": "1"}, "'memory_limit_gb' must be a positive number"),
        ({"tests": {"kind": "fuzz"}}, "tests.kind 'fuzz' is not known"),
        ({"tests": {"kind": "call", "cases": []}}, "need entry_point and cases"),
        ({"tests": {"kind": "asserts", "code": ["assert 1"]}, "language": "php"}, "use suffix"),
        ({"domain": "code"}, "test_type is missing"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        code_spec(row)
    assert "\n" not in str(caught.value)


def test_the_statement_says_what_the_function_is_called() -> None:
    text = statement(ASSERTS, "Give it back.", code_spec(ASSERTS))
    assert text == "Give it back.\n\nWrite it in Python, beginning with:\n\n```python\ndef f(x):\n```"
    assert statement(CHECK, "def f(x):\n", code_spec(CHECK)) == "def f(x):\n"
    assert statement(STDIO, "Add.", code_spec(STDIO)).endswith(
        "Write a program in Python that reads standard input and writes standard output."
    )


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_code_examples_need_no_answer_and_keep_tests_out_of_the_columns(tmp_path: Path) -> None:
    check, asserts = load_examples(write(tmp_path / "a.jsonl", CHECK, ASSERTS))
    assert (check.answer, check.prompt) == (None, "def f(x):\n")
    assert check.code == code_spec(CHECK)
    assert {"tests", "challenge_tests", "prompt"}.isdisjoint(asserts.columns)
    assert asserts.columns["test_setup"] == "y = 1"


def test_a_bad_code_row_is_named_by_file_and_number(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", CHECK, ASSERTS | {"tests": []})
    with pytest.raises(UserError) as caught:
        load_examples(source)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl:2: field 'tests' is empty")


def test_rows_for_evaluation_only_are_not_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", CHECK | {"eval_only": True})
    with pytest.raises(UserError, match="marked eval_only"):
        load_examples(source)
    assert load_examples(source, training=False)[0].code is not None


def test_mathematics_with_a_tests_column_stays_mathematics(tmp_path: Path) -> None:
    (example,) = load_examples(
        write(tmp_path / "a.jsonl", {"domain": "math", "prompt": "1+1", "answer": "2", "tests": 1})
    )
    assert example.code is None


def test_prepared_records_carry_the_specification(tmp_path: Path) -> None:
    config = make_config(tmp_path, f"data.train={tmp_path}/code.jsonl", "data.eval_size=1")
    write(tmp_path / "code.jsonl", CHECK, ASSERTS)
    data = build_data(config, PromptTokenizer(Path(config.model)), None)
    (record,) = data.train
    assert record["spec"]["kind"] == "code"
    assert record["spec"]["code"]["tests"]["kind"] in ("assert", "asserts")
    assert "tests" not in record["spec"]["columns"]
    assert "tests" not in record["prompt"]


def test_job_lines_grade_the_reference_solutions() -> None:
    first, second = job_lines([CHECK, ASSERTS, STDIO])
    assert first["source"] == "def f(x):\n    return x\n"
    assert (second["id"], second["kind"], second["source"]) == ("m/1", "code", ASSERTS["solution"])
    assert set(second) == {"id", "kind", "language", "source", "tests", "limits"}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("humaneval_python.jsonl", 164),
        ("mbpp.jsonl", 719),
        ("mbpp_sanitized.jsonl", 297),
        ("humaneval_x_cpp.jsonl", 164),
        ("humaneval_x_java.jsonl", 164),
        ("humaneval_x_js.jsonl", 164),
        ("multipl_e_humaneval_cs.evalonly.jsonl", 158),
        ("multipl_e_humaneval_ts.evalonly.jsonl", 159),
        ("multipl_e_humaneval_php.evalonly.jsonl", 161),
        ("multipl_e_humaneval_sh.evalonly.jsonl", 158),
        ("google_coding_competitions.jsonl.gz", 439),
    ],
)
def test_every_row_of_the_real_sets_becomes_a_job(name: str, rows: int) -> None:
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is not here")
    examples = load_examples(str(DATA / name), training="evalonly" not in name)
    assert len(examples) == rows
    for example in examples:
        assert example.code is not None
        job = accepted(example.code)
        if job.tests.kind in ("assert", "suffix"):
            assert example.code["entry_point"]
            assert example.code["entry_point"] == job.tests.entry_point
        if example.code["language"] in ("csharp", "bash"):
            assert not job.tests.code.lstrip().startswith("}")  # type: ignore[union-attr]

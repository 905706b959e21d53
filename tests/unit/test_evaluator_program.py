"""From a response to a program: which block counts, what the starter adds, and that long input takes linear time."""

from __future__ import annotations

import ast
import time

import pytest

from evaluator.extract import read
from evaluator.program import brace_depth, fenced_blocks, job, program

PLAIN = "def double(x):\n    return 2 * x\n"
STARTER = 'from typing import List\n\n\ndef double(x: int) -> int:\n    """ Twice x. """\n'


def of(completion: str, language: str = "python", name: str | None = None, starter: str | None = None) -> str | None:
    return program(read("", completion), language, name, starter)


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{PLAIN}```",
        f"<think>```python\nwrong\n```</think>Here:\n\n```py\n{PLAIN}```\nDone.",
        f"<think>hm</think><answer>```Python3\n{PLAIN}```</answer>",
        f"<think>hm</think>```python\nno\n```<answer>\n```\n{PLAIN}```\n</answer>",
        f"```python\nfirst try\n```\nBetter:\n```python\n{PLAIN}```",
        f"```python\n{PLAIN}```\nwhich prints\n```\n4\n```",
        f"~~~~ {{.python}}\n{PLAIN}~~~~",
        f"````python title='x'\n{PLAIN}````",
        f"```python\n{PLAIN}",
        "1. As follows\n   ```python\n   def double(x):\n       return 2 * x\n   ```\n",
        PLAIN,
    ],
)
def test_the_last_block_of_the_visible_part_is_the_program(completion: str) -> None:
    assert of(completion) == PLAIN


def test_a_bare_answer_is_the_program() -> None:
    assert of("<think>a</think><answer>print(1)</answer>") == "print(1)"
    assert (of("<think>a</think>print(1)\n") or "").strip() == "print(1)"


@pytest.mark.parametrize(
    "completion",
    ["", "  \n", "<think>```python\nx\n```", "<think>a</think>", "```python\n\n```", "a</think><answer> </answer>"],
)
def test_nothing_is_no_program(completion: str) -> None:
    assert of(completion) is None


def test_other_blocks_serve_when_none_is_marked() -> None:
    assert of("```\nint main(){}\n```", "cpp") == "int main(){}\n"
    assert of("```c++\nint main(){}\n```\n```\nout\n```", "cpp") == "int main(){}\n"
    assert [b.mark for b in fenced_blocks("```C++\n```\n```\n```\n  ~~~js x\n  ~~~\n")] == ["c++", "", "js"]
    assert fenced_blocks("say ```python``` inline") == []
    assert fenced_blocks("````md\n```\n````")[0].code == "```\n"


@pytest.mark.parametrize(
    "body",
    [
        "    return 2 * x\n",
        "return 2 * x\n",
        "y = 2\n    return y * x\n",  # the tag in front of it was stripped together with its indentation
        "if x:\n    return 2 * x\nreturn 0\n",
        "\n    # twice\n    return 2 * x\n",
    ],
)
def test_a_body_goes_on_where_the_starter_ends(body: str) -> None:
    whole = of(f"<answer>{body}</answer>", "python", "double", STARTER)
    assert whole is not None
    assert whole.startswith(STARTER)
    assert _run(whole, 3) == 6


def _run(source: str, value: int) -> object:
    scope: dict[str, object] = {}
    exec(source, scope)  # the sources of this file
    return scope["double"](value)  # type: ignore[operator]


def test_a_whole_function_gets_the_imports_and_helpers_before_it() -> None:
    starter = "import math\n\ndef half(x):\n    return x / 2\n\ndef double(x):\n    '''Twice.'''\n"
    whole = of(
        "```python\ndef double(x):\n    return int(half(x) * 4) + math.floor(0.5)\n```", "python", "double", starter
    )
    assert whole is not None
    assert _run(whole, 3) == 6
    assert whole.count("def double") == 1


def test_future_imports_stay_in_front() -> None:
    whole = of(f"from __future__ import annotations\n{PLAIN}", "python", "double", STARTER)
    assert whole is not None
    assert _run(whole, 2) == 4
    assert isinstance(ast.parse(whole).body[0], ast.ImportFrom)


@pytest.mark.parametrize(
    "text", ["double = lambda x: 2 * x", "from operator import neg as double", "class double:\n  pass", PLAIN]
)
def test_what_defines_the_function_is_no_body(text: str) -> None:
    assert of(text, "python", "double", "def double(x):") == text


def test_a_nested_or_called_function_is_no_definition() -> None:
    whole = of("    return x if x < 1 else 2 + double(x - 1)", "python", "double", "def double(x):")
    assert whole == "def double(x):\n    return x if x < 1 else 2 + double(x - 1)"


HEADERS = "#include<vector>\nusing namespace std;\n"
CPP = HEADERS + "int helper(int x){\n    return x;\n}\n/*\n twice(1) is 2 */\nint twice(int x){\n"
CSHARP = "class Problem {\n    public static long Twice(long x) { return 2 * x; }\n"


@pytest.mark.parametrize(
    ("language", "name", "starter", "completion", "expected"),
    [
        ("cpp", "twice", CPP, "    return 2*helper(x);\n}\n", CPP + "    return 2*helper(x);\n}\n"),
        ("cpp", "twice", CPP, "    return 2*x;", CPP + "    return 2*x;\n}\n"),
        ("cpp", "twice", CPP, "    return x ? 2 + twice(x - 1) : 0; }", CPP + "    return x ? 2 + twice(x - 1) : 0; }"),
        (
            "cpp",
            "twice",
            CPP,
            "int twice(int x){ return 2*helper(x); }\n",
            CPP.removesuffix("int twice(int x){\n") + "int twice(int x){ return 2*helper(x); }\n",
        ),
        (
            "cpp",
            "twice",
            CPP,
            "int helper(int y){ return y; }\nint twice(int x){ return 2*helper(x); }\n",
            HEADERS + "int helper(int y){ return y; }\nint twice(int x){ return 2*helper(x); }\n",
        ),
        (
            "java",
            "twice",
            "import java.util.*;\n\nclass Solution {\n    public int twice(int x) {\n",
            "class Solution {\n    public int twice(int x) { return 2 * x; }\n}\n",
            "import java.util.*;\nclass Solution {\n    public int twice(int x) { return 2 * x; }\n}\n",
        ),
        (
            "java",
            "twice",
            "import java.util.*;\n\nclass Solution {\n    public int twice(int x) {\n",
            "    public int twice(int x) { return 2 * x; }\n",
            "import java.util.*;\n\nclass Solution {\n    public int twice(int x) { return 2 * x; }\n}\n",
        ),
        (
            "csharp",
            "Twice",
            "using System;\nclass Problem {\n    // Twice(2)\n    public static long Twice(long x) {\n",
            "using System.Linq;\n" + CSHARP + "}\n",
            "using System;\nusing System.Linq;\n" + CSHARP,
        ),
        (
            "csharp",
            "Twice",
            "using System;\nclass Problem {\n    public static long Twice(long x) {\n",
            "        return 2 * x;\n",
            "using System;\nclass Problem {\n    public static long Twice(long x) {\n        return 2 * x;\n}\n",
        ),
        (
            "javascript",
            "twice",
            "const twice = (x) => {\n",
            "  return 2 * x;\n}\n",
            "const twice = (x) => {\n  return 2 * x;\n}\n",
        ),
        (
            "javascript",
            "twice",
            "const twice = (x) => {\n",
            "function twice(x) { return /[{]/.test('') ? 0 : 2 * x }\n",
            "function twice(x) { return /[{]/.test('') ? 0 : 2 * x }\n",
        ),
        ("typescript", "twice", "function twice(x: number): number {\n", "  return `{` ? 2 * x : 0;", None),
        (
            "php",
            "twice",
            "<?php\n// twice(1)\nfunction twice($x) {\n",
            "<?php\nfunction twice($x) { return 2 * $x; }\n?>\n",
            "<?php\n// twice(1)\n\nfunction twice($x) { return 2 * $x; }\n",
        ),
        (
            "bash",
            "twice",
            "#!/bin/bash\n#\n# $1 is an integer }\ntwice() {\n",
            "    echo $(( ${#1} * 0 + $1 * 2 )) # }\n",
            "#!/bin/bash\n#\n# $1 is an integer }\ntwice() {\n    echo $(( ${#1} * 0 + $1 * 2 )) # }\n}\n",
        ),
    ],
)
def test_other_languages(language: str, name: str, starter: str, completion: str, expected: str | None) -> None:
    whole = of(completion, language, name, starter)
    assert whole == (expected if expected is not None else f"{starter}{completion}\n}}\n")


def test_braces_in_strings_and_comments_do_not_count() -> None:
    assert brace_depth("f() { \"}\"; '}'; // }\n /* } */ }", "cpp") == (0, 30)
    assert brace_depth("f() { `}` ", "javascript") == (1, None)
    assert brace_depth("f() { # }\n$x = '}'; ", "php") == (1, None)


def test_a_job_is_the_specification_with_the_program() -> None:
    code = {"language": "python", "tests": {"kind": "asserts"}, "limits": {}, "starter": "def f():", "entry_point": "f"}
    made = job(code, read("", "    return 1"))
    assert made == {
        "language": "python",
        "tests": {"kind": "asserts"},
        "limits": {},
        "source": "def f():\n    return 1",
    }
    assert job(code, read("", "<think>")) is None


HOSTILE = [
    "```python\n" * 20_000,
    "`" * 200_000,
    "~~~\n```\n" * 30_000,
    "from x import " + "import " * 30_000,
    "let " * 50_000,
    "function" + " " * 200_000,
    "twice (" * 30_000,
    "int " * 40_000 + "twice(",
    "{" * 200_000,
    '"' + "\\" * 200_000,
    "/*" * 100_000,
    "'" * 199_999,
    "?>" + " " * 200_000 + "x",
    "<answer>" * 30_000,
    "\n" * 200_000 + "x",
    " " * 200_000 + "x",
    "twice" * 40_000,
]


@pytest.mark.parametrize("language", ["python", "cpp", "csharp", "typescript", "php", "bash"])
def test_hostile_input_takes_linear_time(language: str) -> None:
    for text in HOSTILE:
        start = time.perf_counter()
        of(text, language, "twice", CPP if language != "python" else "def twice(x):")
        assert time.perf_counter() - start < 2.0, (language, text[:20])

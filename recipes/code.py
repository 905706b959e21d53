"""Owns what makes a code problem gradable: data rows in, the `code` part of a grading specification out.

    row (fields as in the data's README) ── code_spec ──> {"language", "tests", "limits"[, "starter"][, "entry_point"]}

| test_type         | tests.kind | taken from the row                                                           |
|---|---|---|
| `python_check`    | `assert`   | `tests[0].code` and `entry_point`; the call `check(entry_point)` is implied   |
| `python_asserts`  | `asserts`  | every `tests[i].code`, then `challenge_tests`; `test_setup` as setup          |
| `program_suffix`  | `suffix`   | `tests[0].code`; the function's name as its starter spells it                 |
| `stdin_stdout`    | `stdio`    | `input` and `output` of every test; compared by tokens, or as floats          |

- A row without `test_type` whose tests have `input` and `output` is `stdin_stdout`; `language: null` is Python.
- `tests` may also be an object with `kind`, as `zeroq grade` takes it (the only way to state tests of kind `call`).
- A check that calls a helper which the starter defines before the function under test (HumanEval/32, 38, 50) gets it as
  its own, in front of its code: else a program could redefine the helper that its own result is tested with.
- Floats: the checker's tolerance is meant for tokens that are written as floats, so a problem is compared as `float` if
  some expected token has a point or an exponent and the checker names a tolerance, else by equal tokens.
- `closing_brace_in_tests`: the brace that the tests begin with is taken off, so that programs close their own function.
  In C# the tests still end with the brace of the class: `evaluator/program.py` leaves that class open.
- Limits stated by a problem are obeyed up to a ceiling; what it does not state is the evaluator's default.

The evaluator adds the program: `evaluator/program.py` takes it out of a response, with `starter` and `entry_point`.
Nothing here runs code. A row that cannot be graded is a ValueError that says what is wrong and what to do.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LANGUAGES = {
    "python": "Python",
    "cpp": "C++",
    "java": "Java",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "csharp": "C#",
    "php": "PHP",
    "bash": "Bash",
}
TEST_TYPES = ("python_check", "python_asserts", "program_suffix", "stdin_stdout")
NATIVE_FIELDS = {
    "stdio": ("cases",),
    "call": ("entry_point", "cases"),
    "assert": ("entry_point", "code"),
    "asserts": ("code",),
    "suffix": ("code",),
}
ANY_LANGUAGE = "python"
TIME_CEILING_S = 30.0
MEMORY_CEILING_MB = 4096

_FLOAT = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?")
_HEADER = re.compile(r"(?:const|let|var)\s+(\w+)\s*=|(\w+)\s*\(")

Json = dict[str, Any]


def is_code(row: Mapping[str, Any]) -> bool:
    """Whether a data row is to be graded by running a program: `domain: code`, or tests and no domain."""
    domain = row.get("domain")
    return domain == "code" or (domain is None and row.get("tests") is not None)


def code_spec(row: Mapping[str, Any]) -> Json:
    """The `code` part of the row's grading specification; see the module's docstring. Raises ValueError."""
    language = row.get("language") or ANY_LANGUAGE
    if language not in LANGUAGES:
        raise ValueError(f"language {_short(language)} is not known; one of {', '.join(LANGUAGES)}, or null for any")
    test_type = _test_type(row)
    if test_type.startswith("python_") and language != "python":
        raise ValueError(f"test_type {test_type} is for python, and language is {language}; use program_suffix")
    starter = _text(row, "starter")
    match test_type:
        case "native":
            tests = _native(row, language)
        case "python_check":
            tests = _check(row, starter or "")
        case "python_asserts":
            tests = _asserts(row)
        case "program_suffix":
            tests = _suffix(row, language, starter)
        case _:
            tests = _stdio(row)
    name = tests.get("cls") or tests.get("entry_point") or _text(row, "entry_point")
    spec: Json = {"language": language, "tests": tests, "limits": _limits(row)}
    return spec | {key: value for key, value in (("starter", starter), ("entry_point", name)) if value}


def statement(row: Mapping[str, Any], prompt: str, spec: Mapping[str, Any]) -> str:
    """The problem as it is put to the model: `prompt` and, where it lacks them, the signature or the kind of program.

    MBPP's texts do not say what the function is called; problems on standard input do not say which language is run.
    """
    language = str(spec["language"])
    starter = str(spec.get("starter") or "").strip()
    if spec["tests"]["kind"] == "stdio":
        what = f"Write a program in {LANGUAGES[language]} that reads standard input and writes standard output."
        return f"{prompt.rstrip()}\n\n{what}" if not row.get("language") else prompt
    if not starter or starter in prompt:
        return prompt
    return f"{prompt.rstrip()}\n\nWrite it in {LANGUAGES[language]}, beginning with:\n\n```{language}\n{starter}\n```"


def reference_program(row: Mapping[str, Any]) -> str | None:
    """The row's own solution as a whole program; None if it has none."""
    solution = _text(row, "solution")
    if solution is None:
        return None
    return (
        solution if _test_type(row) in ("python_asserts", "stdin_stdout") else f"{row.get('starter') or ''}{solution}"
    )


def job_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[Json]:
    """Input lines of `zeroq grade` that grade each row's reference solution; rows without one are left out."""
    for row in rows:
        source = reference_program(row)
        if source is not None:
            spec = code_spec(row)
            job = {key: spec[key] for key in ("language", "tests", "limits")}
            yield {"id": str(row.get("id")), "kind": "code", "source": source, **job}


def _test_type(row: Mapping[str, Any]) -> str:
    test_type, tests = row.get("test_type"), row.get("tests")
    if test_type is None:
        if isinstance(tests, Mapping) and "kind" in tests:
            return "native"
        if isinstance(tests, list) and tests and all(_is_pair(test) for test in tests):
            return "stdin_stdout"
        raise ValueError(
            f"test_type is missing; one of {', '.join(TEST_TYPES)} (tests with input and output need none)"
        )
    if test_type not in TEST_TYPES:
        raise ValueError(f"test_type {_short(test_type)} is not known; one of {', '.join(TEST_TYPES)}")
    return str(test_type)


def _is_pair(test: object) -> bool:
    return isinstance(test, Mapping) and {"input", "output"} <= test.keys()


def _native(row: Mapping[str, Any], language: str) -> Json:
    tests = dict(row["tests"])
    fields = NATIVE_FIELDS.get(tests["kind"])
    if fields is None:
        raise ValueError(f"tests.kind {_short(tests['kind'])} is not known; one of {', '.join(NATIVE_FIELDS)}")
    if missing := [name for name in fields if not tests.get(name)]:
        raise ValueError(f"tests of kind {tests['kind']} need {' and '.join(missing)}")
    if tests["kind"] in ("call", "assert", "asserts") and language != "python":
        raise ValueError(f"tests of kind {tests['kind']} are for python, and language is {language}; use suffix")
    return tests


def _check(row: Mapping[str, Any], starter: str) -> Json:
    entry_point = _needed(row, "entry_point")
    (code,) = _test_codes(row, one=True)
    call = row["tests"][0].get("call")
    if call is not None and str(call).strip() != f"check({entry_point})":
        raise ValueError(f"tests[0].call must be check({entry_point}), got {_short(call)}; move it into the check")
    tree = _parse_python(code, "tests[0].code")
    if "check" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        raise ValueError("tests[0].code must define check(candidate)")
    return {"kind": "assert", "entry_point": entry_point, "code": _helpers(starter, entry_point, tree) + code}


def _helpers(starter: str, entry_point: str, tests: ast.Module) -> str:
    """What the starter has before the function under test, if the tests use a function of it; else nothing."""
    header = re.search(rf"^def {re.escape(entry_point)}\b", starter, re.MULTILINE)
    before = starter[: header.start()] if header else ""
    try:
        defined = {node.name for node in ast.parse(before).body if isinstance(node, ast.FunctionDef)}
    except SyntaxError:
        return ""
    used = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
    return before.rstrip() + "\n\n\n" if defined & used else ""


def _asserts(row: Mapping[str, Any]) -> Json:
    setup = _text(row, "test_setup") or ""
    _parse_python(setup, "test_setup")
    codes = _test_codes(row)
    if row.get("challenge_tests"):
        codes += _test_codes(row, "challenge_tests")
    for index, code in enumerate(codes):
        if [type(node) for node in _parse_python(code, f"tests[{index}].code").body] != [ast.Assert]:
            raise ValueError(f"tests[{index}].code must be one assert statement, got {_short(code)}; split it")
    return {"kind": "asserts", "code": codes, "setup": setup}


def _suffix(row: Mapping[str, Any], language: str, starter: str | None) -> Json:
    (code,) = _test_codes(row, one=True)
    if row.get("closing_brace_in_tests"):
        if not code.lstrip().startswith("}"):
            raise ValueError("closing_brace_in_tests is true and tests[0].code does not begin with a brace; unset it")
        code = code.lstrip()[1:].lstrip("\n")
    name = _declared_name(starter or "", code) or _text(row, "entry_point")
    return {"kind": "suffix", "code": code} | ({"entry_point": name} if name else {})


def _declared_name(starter: str, tests: str) -> str | None:
    """Name of the function that the starter leaves open, if the tests use it. MultiPL-E's `entry_point` is Python's."""
    for line in reversed(starter.splitlines()):
        if line.rstrip().endswith("{") and (found := _HEADER.search(line)):
            name = found[1] or found[2]
            return name if re.search(rf"\b{re.escape(name)}\b", tests) else None
    return None


def _stdio(row: Mapping[str, Any]) -> Json:
    cases = []
    for index, test in enumerate(_test_list(row)):
        given, wanted = test.get("input"), test.get("output")
        if not isinstance(given, str) or not isinstance(wanted, str):
            raise ValueError(f"tests[{index}] needs input and output as texts, has {_short(dict(test))}")
        cases.append({"stdin": given, "expected": wanted})
    checker = row.get("checker") or {}
    if not isinstance(checker, Mapping):
        raise ValueError(f"checker must be an object such as {{'type': 'tokens'}}, got {_short(checker)}")
    floats = bool(checker.get("float_tolerance")) and any(
        _FLOAT.fullmatch(token) for case in cases for token in case["expected"].split()
    )
    compare = "float" if floats else "tokens" if checker else "default"
    return {"kind": "stdio", "cases": cases, "compare": compare}


def _limits(row: Mapping[str, Any]) -> Json:
    limits: Json = {}
    if (seconds := _positive(row, "time_limit_s")) is not None:
        limits["time_s"] = min(seconds, TIME_CEILING_S)
    if (gigabytes := _positive(row, "memory_limit_gb")) is not None:
        limits["memory_mb"] = max(16, min(round(gigabytes * 1024), MEMORY_CEILING_MB))
    return limits


def _positive(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"field {name!r} must be a positive number or null, got {_short(value)}")
    return float(value)


def _test_list(row: Mapping[str, Any], field: str = "tests") -> list[Mapping[str, Any]]:
    tests = row.get(field)
    if not isinstance(tests, list) or not all(isinstance(test, Mapping) for test in tests):
        raise ValueError(f"field {field!r} must be a list of objects, got {_short(tests)}")
    if not tests:
        raise ValueError(f"field {field!r} is empty; a program without tests cannot pass: add some or remove the line")
    return tests


def _test_codes(row: Mapping[str, Any], field: str = "tests", *, one: bool = False) -> list[str]:
    """The code of every test. The dataset's `challenge_tests` may be plain texts."""
    given = row.get(field)
    if isinstance(given, list) and given and all(isinstance(test, str) for test in given):
        codes = given
    else:
        codes = [test.get("code") for test in _test_list(row, field)]
    for index, code in enumerate(codes):
        if not isinstance(code, str) or not code.strip():
            raise ValueError(f"{field}[{index}].code must be the test's code, got {_short(code)}")
    if one and len(codes) != 1:
        raise ValueError(f"field {field!r} must hold one test for this test_type, has {len(codes)}; join them")
    return list(codes)


def _parse_python(code: str, what: str) -> ast.Module:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} is not valid Python: {' '.join(str(error).split())[:120]}") from None


def _needed(row: Mapping[str, Any], name: str) -> str:
    value = _text(row, name)
    if not value:
        raise ValueError(f"field {name!r} must name the function under test, got {_short(row.get(name))}")
    return value


def _text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"field {name!r} must be text or null, got {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def cold_start_program(solution: str, language: str) -> str:
    """A reference program in R1's format; the data have no reasoning to go with it."""
    return f"<think>A program that does this:</think><answer>\n```{language}\n{solution.strip()}\n```\n</answer>"

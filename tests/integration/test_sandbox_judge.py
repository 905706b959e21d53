"""The judge: whose names count, what a program may say of its own objects, what crosses and what does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.job import CodeJob

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(1) as grader:
        yield grader


def grade(grader: CodeGrader, source: str, tests: dict[str, Any]) -> tuple[str, list[bool]]:
    result = grader.grade(CodeJob.model_validate({"language": "python", "source": source, "tests": tests}))
    return result.verdict, result.per_test


def asserts(grader: CodeGrader, source: str, *code: str, setup: str = "") -> list[bool]:
    return grade(grader, source, {"kind": "asserts", "code": list(code), "setup": setup})[1]


def test_membership_in_an_opaque_object_is_decided_by_its_elements(grader: CodeGrader) -> None:
    source = (
        "class All:\n    def __contains__(self, x): return True\n    def __iter__(self): return iter([1])\n"
        "def f(): return All()\n"
    )
    assert asserts(grader, source, "assert 5 in f()", "assert 1 in f()", "assert f() == 5", "assert f() == [1]") == [
        False,
        True,
        False,
        False,
    ]


def test_a_module_that_the_tests_use_is_never_the_programs(grader: CodeGrader) -> None:
    fake = "class math:\n    fabs = staticmethod(lambda x: 0)\ndef f(): return 7\n"
    assert asserts(grader, fake, "assert math.fabs(f() - 2) < 1e-6", "assert math.fabs(f() - 7) < 1e-6") == [
        False,
        True,
    ]
    renamed = "import cmath\ncmath.__name__ = 'this'\nmath = cmath\ndef f(): return 2\n"
    assert asserts(grader, renamed, "assert math.fabs(f() - 2) < 1e-6") == [True]


def test_a_function_may_have_the_name_of_a_module(grader: CodeGrader) -> None:
    assert asserts(grader, "def bisect(x): return 7\n", "assert bisect(1) == 7", "assert bisect(1) == 8") == [
        True,
        False,
    ]


def test_a_function_under_test_may_be_called_check_or_candidate(grader: CodeGrader) -> None:
    for name in ("check", "candidate"):
        code = "def check(candidate):\n    assert candidate(1) == 2\n"
        for value, verdict in ((2, "pass"), (1, "fail")):
            tests = {"kind": "assert", "entry_point": name, "code": code}
            assert grade(grader, f"def {name}(x): return {value}\n", tests)[0] == verdict


def test_builtins_of_the_tests_are_the_judges(grader: CodeGrader) -> None:
    source = "def abs(x): return 0\ndef len(x): return 3\ndef f(): return 9\n"
    assert asserts(grader, source, "assert abs(f() - 1) < 1e-9", "assert len([f()]) == 3") == [False, False]


def test_helpers_classes_types_and_callbacks_cross(grader: CodeGrader) -> None:
    source = (
        "class Node:\n    def __init__(self, value): self.value, self.next = value, None\n"
        "def total(node):\n    return 0 if node is None else node.value + total(node.next)\n"
        "def keep(values, kind): return [v for v in values if isinstance(v, kind)]\n"
        "def apply(f, values): return [f(v) for v in values]\n"
        "def numbers():\n    yield from (1, 2, 3)\n"
    )
    setup = "head = Node(1)\nhead.next = Node(2)\n"
    tests = [
        "assert total(head) == 3",
        "assert keep([1, 'a', 2], int) == [1, 2]",
        "assert apply(lambda v: v * 2, [1, 2]) == [2, 4]",
        "assert list(numbers()) == [1, 2, 3]",
        "assert head.value == 1",
    ]
    assert asserts(grader, source, *tests, setup=setup) == [True] * 5


def test_exceptions_cross_by_name_and_none_ends_the_judge(grader: CodeGrader) -> None:
    source = (
        "class Own(ValueError): pass\n"
        "def bad(): raise Own('no')\n"
        "def leave(): raise SystemExit(0)\n"
        "def stop(): raise StopIteration\n"
    )
    tests = [
        "try:\n    bad()\n    assert False\nexcept ValueError:\n    pass",
        "leave()",
        "stop()",
        "try:\n    leave()\nexcept RuntimeError:\n    pass",
    ]
    assert asserts(grader, source, *tests) == [True, False, False, True]


def test_a_crash_is_an_error_and_a_wrong_type_is_a_wrong_answer(grader: CodeGrader) -> None:
    tests = {"kind": "asserts", "code": ["assert f()[0] == 1"]}
    assert grade(grader, "def f(): return 1 / 0\n", tests)[0] == "error"
    assert grade(grader, "def f(): return None\n", tests)[0] == "fail"
    assert grade(grader, "def g(): return None\n", tests)[0] != "pass"


def test_the_program_sees_no_answer_and_no_judge(grader: CodeGrader) -> None:
    source = (
        "import gc, sys\n"
        "def f(x):\n"
        "    frame, seen = sys._getframe(), []\n"
        "    while frame: seen += [repr(v) for v in frame.f_locals.values()]; frame = frame.f_back\n"
        "    seen += [repr(o) for o in gc.get_objects() if isinstance(o, (str, dict, list))]\n"
        "    return any(''.join(('271', '828')) in text for text in seen)\n"
    )
    assert asserts(grader, source, "assert f(1) is False and '27182818'") == [True]

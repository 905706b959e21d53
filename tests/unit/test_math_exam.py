"""The exam of the grader of mathematics, and input that is out to stop it."""

from __future__ import annotations

import ast
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from math_exam import CASES, Case

from common.config import RewardSection
from evaluator.graders.math_answer import grade_response
from evaluator.pool import Call, LimitExceeded, WorkerPool

PACKAGE = Path(__file__).parents[2] / "evaluator"
LONGEST_S = 2.0
LIMIT_S = RewardSection().math_timeout_s
HOSTILE = {
    "100,000 digits": "\\boxed{" + "9" * 100_000 + "}",
    "100,000 characters": "\\boxed{" + "x+" * 50_000 + "1}",
    "100,000 characters without a box": "the answer is " + "a " * 50_000,
    "many boxes": "\\boxed{" * 14_000,
    "many answers": "the answer is not 5. " * 5_000,
    "many headings": "answer: " * 12_000,
    "many dollars": "the answer is " + "$" * 90_000,
    "many thoughts": "<think>" * 14_000,
    "thoughts never opened": "</think>6" * 11_000,
    "blanks": "the answer is" + " " * 99_000 + "6",
    "lines": "answer" + "\n" * 99_000 + "6",
    "stars": "*" * 100_000,
    "braces": "\\boxed{" + "{" * 2000 + "6" + "}" * 2000 + "}",
    "short braces": "\\boxed{" + "{" * 900 + "6" + "}" * 900 + "}",
    "open braces": "\\boxed{" + "{" * 2000,
    "parentheses": "\\boxed{" + "(" * 900 + "6" + ")" * 900 + "}",
    "tower": "\\boxed{9^9^9^9}",
    "tower in braces": "\\boxed{9^{9^{9^{9}}}}",
    "tower of pi": "\\boxed{\\pi^{\\pi^{\\pi^{\\pi^{\\pi}}}}}",
    "power of a root": "\\boxed{\\sqrt{2}^{1000000000}}",
    "power of a product": "\\boxed{(2x)^{10^{12}}}",
    "factorial": "\\boxed{100000000!}",
    "factorials": "\\boxed{((((9!)!)!)!)!}",
    "binomial": "\\boxed{\\binom{1000000000}{500000000}}",
    "exponent": "\\boxed{1e9999}",
    "cosine of a giant": "\\boxed{\\cos(e^{5000})}",
    "nested fractions": "\\boxed{" + "\\frac{1}{" * 150 + "1" + "}" * 150 + "}",
    "nested roots": "\\boxed{" + "\\sqrt{" * 250 + "2" + "}" * 250 + "}",
    "roots of nothing": "\\boxed{" + "\\sqrt" * 400 + "2}",
    "sum of roots": "\\boxed{" + "+".join(f"\\sqrt{{{n}}}" for n in range(2, 180)) + "}",
    "powers of sums": "\\boxed{(x+y+z+w)^{500}(a+b+c)^{500}}",
    "list": "\\boxed{" + ",".join(map(str, range(500))) + "}",
    "list of roots": "\\boxed{" + ",".join(f"\\sqrt{{{n}}}" for n in range(180)) + "}",
    "union": "\\boxed{" + "\\cup".join(f"({n},{n + 1})" for n in range(150)) + "}",
    "exceptions": "\\boxed{" + " and ".join(f"x\\ne {n}" for n in range(120)) + "}",
    "high degree": "\\boxed{x^9+x^8+3x+1<0}",
    "matrix": "\\boxed{\\begin{pmatrix}" + "1&" * 500 + "1\\end{pmatrix}}",
    "power of a matrix": "\\boxed{\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{999}}",
    "signs": "\\boxed{" + "\\pm 1" * 300 + "}",
    "minus": "\\boxed{" + "-" * 1899 + "5}",
    "integral": "\\boxed{\\int_0^1 \\frac{\\ln(1+x^7)}{1+\\sqrt{x}} dx}",
    "long sum": "\\boxed{\\sum_{n=1}^{999999} \\frac{n^9}{n!+1}}",
    "surrogate": "\\boxed{\x00\ud800}",
}
MARK = "zeroq-was-here"
CODE = [
    f"__import__('os').system('touch {MARK}')",
    f'open("{MARK}","w").write("x")',
    f"\\text{{__import__('os').system('touch {MARK}')}}",
    f"exec(\"open('{MARK}','w')\")",
    f"$__import__('os').system('touch {MARK}')$",
    f"5 if open('{MARK}','w') else 5",
    f"Symbol('x').__class__.__mro__[1].__subclasses__() or open('{MARK}','w')",
    f"\\input{{{MARK}}}\\immediate\\write18{{touch {MARK}}}",
    "x.__class__.__mro__[1].__subclasses__()",
    "lambda: 5",
    "{}.__init__.__globals__",
]
GOLDS = ["5", "\\frac{1}{2}", "2\\sqrt{3}", "x^2+1", "1,2", "(1,2)", "[-2,7]", "y=2x+1", "\\text{Eve}", "1101_2"]


def verdict(case: Case) -> str:
    """Blank if the case is graded as it should be, else what happened."""
    found = grade_response(case.gold, case.response)
    assert found["reward"] == float(found["correct"])
    if found["correct"] is case.expected:
        return ""
    return f"{case.topic}: gold {case.gold!r}, want {case.expected}: {case.response[-90:]!r}: {found['detail']}"


def test_exam() -> None:
    failures = [(case.topic, text) for case in CASES if (text := verdict(case))]
    print("\n".join(text for _, text in failures))
    assert len(failures) <= 0.01 * len(CASES)
    asked = Counter(case.topic for case in CASES)
    failed = Counter(topic for topic, _ in failures)
    assert not [topic for topic in asked if failed[topic] > 0.1 * asked[topic]]


def test_exam_is_large_and_balanced() -> None:
    assert len(CASES) >= 300
    assert len(set(CASES)) == len(CASES)
    assert 0.4 <= sum(case.expected for case in CASES) / len(CASES) <= 0.6
    for topic in {case.topic for case in CASES}:
        assert {case.expected for case in CASES if case.topic == topic} == {True, False}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1, warm=["evaluator.graders.math_answer:self_test"]) as workers:
        yield workers


def in_time(pool: WorkerPool, gold: str, response: str) -> bool:
    """Whether the response is found correct; asserts that finding out took no more of a processor than it may.

    What is given up has had its limit of CPU time (test_evaluator_pool shows that), whatever else the machine did.
    """
    assert LIMIT_S < LONGEST_S
    call = Call("evaluator.graders.math_answer:grade_response", {"gold": gold, "response": response}, LIMIT_S)
    begin = cpu_s(pool)
    try:
        result = pool.submit(call).result(timeout=60)
    except LimitExceeded:
        return False
    assert cpu_s(pool) - begin < LONGEST_S
    return bool(result.value["correct"])


def cpu_s(pool: WorkerPool) -> float:
    """CPU seconds of the pool's worker so far; none where the next call starts it."""
    times = [psutil.Process(pid).cpu_times() for pid in pool.pids]
    return sum(each.user + each.system for each in times)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_is_wrong_within_two_seconds(pool: WorkerPool, name: str) -> None:
    assert not any(in_time(pool, gold, HOSTILE[name]) for gold in ("5", "\\frac{\\sqrt{2}}{2}"))


def test_hostile_answer_to_a_gold_that_only_math_verify_reads(pool: WorkerPool) -> None:
    gold = "\\sum_{n=1}^{3} n^2"
    assert in_time(pool, gold, "\\boxed{14}")
    for name in ("powers of sums", "integral", "long sum", "tower", "sum of roots", "list of roots"):
        assert not in_time(pool, gold, HOSTILE[name])


@pytest.mark.parametrize("gold", GOLDS)
def test_code_is_a_wrong_answer_and_never_runs(gold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in CODE:
        for response in (f"\\boxed{{{text}}}", f"<answer>{text}</answer>", f"The answer is {text}"):
            assert not grade_response(gold, response)["correct"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("gold", GOLDS)
def test_cheap_tricks_earn_nothing(gold: str) -> None:
    for text in ("", "{}", "\\text{}", "$$", "0=0", "\\infty", "\\emptyset", "nan", "\\frac{0}{0}", "x", "True", "?"):
        assert not grade_response(gold, f"\\boxed{{{text}}}")["correct"]


def test_the_room_uses_neither_eval_nor_alarms() -> None:
    forbidden = {"eval", "exec", "sympify", "parse_expr", "alarm", "setitimer", "signal"}
    files = [
        *PACKAGE.glob("graders/math_*.py"),
        *PACKAGE.glob("graders/mathematics/*.py"),
        PACKAGE / "extract.py",
        PACKAGE / "stated.py",
    ]
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            assert name not in forbidden, file.name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "signal" not in {alias.name for alias in node.names}, file.name


def test_threads_grade_alike() -> None:
    cases = CASES[::25]
    found: list[list[str]] = []

    def run() -> None:
        found.append([verdict(case) for case in cases])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[verdict(case) for case in cases]] * 3


@pytest.mark.parametrize(
    ("gold", "response", "detail"),
    [
        ("\\frac{1}{2}", "\\boxed{0.5}", "extracted 0.5, equal to \\frac{1}{2}"),
        ("5", "<think>5", "no answer found outside the reasoning"),
        ("5", "\\boxed{6}", "extracted 6, not equal to 5"),
        ("5", "\\boxed{9^9^9^9}", "extracted 9^9^9^9, not equal to 5 (too large)"),
        ("5", "\\boxed{2+2=5}", "extracted 2+2=5, not equal to 5 (contradicts itself)"),
        ("5", "\\boxed{" + "1" * 3000 + "}", "answer of 3000 bytes refused (at most 2048)"),
    ],
)
def test_detail(gold: str, response: str, detail: str) -> None:
    assert grade_response(gold, response)["detail"] == detail

"""Verdicts of a group: components, weights, outcomes, and every way in which grading must refuse to give one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from common.config import RewardComponent, RewardSection
from common.errors import UserError
from evaluator.compose import check_reward, grade_group
from evaluator.extract import answer_block
from evaluator.graders import AccuracyKind, register_accuracy, unregister_accuracy
from evaluator.pool import CallFailed, WorkerPool

PROMPT = "User: what is 1/2 + 1/4?\nAssistant:"
GOOD = "<think>we add one half and one quarter</think><answer>3/4</answer>"
MATH = {"kind": "math", "answer": "0.75", "columns": {"answer": "0.75", "solution": "add"}}


def component(name: str, kind: str, **fields: Any) -> RewardComponent:
    return RewardComponent.model_validate({"name": name, "kind": kind, **fields})


def reward(*components: RewardComponent, math_timeout_s: float = 10.0) -> RewardSection:
    return RewardSection(components=list(components), math_timeout_s=math_timeout_s)


def function(name: str) -> RewardSection:
    return reward(component("mine", "function", function=f"evaluator_targets:{name}"))


ZERO = reward(component("accuracy", "accuracy"), component("format", "format"))


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as workers:
        yield workers


@pytest.fixture
def grader_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"test-{request.param}"
    register_accuracy(name, AccuracyKind(f"evaluator_targets:{request.param}", answer_block, ()))
    yield name
    unregister_accuracy(name)


def tagged(answer: str) -> str:
    return f"<think>reasons</think><answer>{answer}</answer>"


def test_accuracy_and_format_are_added(pool: WorkerPool) -> None:
    texts = [GOOD, "3/4", "so \\boxed{3/4}", tagged("1"), "<think>3/4"]
    verdicts = grade_group(PROMPT, texts, MATH, ZERO, pool)
    assert [v.outcome for v in verdicts] == ["pass", "fail", "pass", "fail", "fail"]
    assert [v.reward for v in verdicts] == [2.0, 0.0, 1.0, 1.0, 0.0]
    assert verdicts[0].rewards == {"accuracy": 1.0, "format": 1.0}
    assert verdicts[0].detail == "extracted 3/4, equal to 0.75"
    assert verdicts[1].detail == "no answer found outside the reasoning"


def test_in_process_grading_gives_the_same_verdicts(pool: WorkerPool) -> None:
    texts = [GOOD, tagged("4"), "nothing"]

    def strip(verdicts: list[Any]) -> list[Any]:
        return [v.model_dump(exclude={"wall_s"}) for v in verdicts]

    assert strip(grade_group(PROMPT, texts, MATH, ZERO)) == strip(grade_group(PROMPT, texts, MATH, ZERO, pool))


def test_weights_apply_to_the_sum_and_not_to_the_report() -> None:
    weighted = reward(component("a", "accuracy", weight=2.0), component("f", "format", weight=-0.5))
    verdict = grade_group(PROMPT, [GOOD], MATH, weighted)[0]
    assert verdict.reward == 1.5
    assert verdict.rewards == {"a": 1.0, "f": 1.0}


def test_language_of_the_reasoning_is_rewarded_not_that_of_the_answer() -> None:
    texts = [
        "<think>we add the two numbers</think><answer>我们</answer>",
        "<think>我们相加 and then</think><answer>the total is here now</answer>",
        "<think></think><answer>the answer in plain English</answer>",
    ]
    both = reward(component("en", "language"), component("zh", "language", language="zh"))
    verdicts = grade_group(PROMPT, texts, {"kind": "none"}, both)
    assert [v.rewards["en"] for v in verdicts] == pytest.approx([1.0, 2 / (2 + 4 / 1.5), 0.0])
    assert [v.rewards["zh"] for v in verdicts] == pytest.approx([0.0, 4 / 1.5 / (2 + 4 / 1.5), 0.0])


def test_task_without_accuracy_reports_none_and_passes_when_its_reward_is_positive() -> None:
    verdicts = grade_group(PROMPT, [GOOD, "x"], {"kind": "none", "answer": None}, ZERO)
    assert [v.rewards for v in verdicts] == [{"accuracy": None, "format": 1.0}, {"accuracy": None, "format": 0.0}]
    assert [v.reward for v in verdicts] == [1.0, 0.0]
    assert [v.outcome for v in verdicts] == ["pass", "fail"]


def test_outcome_follows_accuracy_even_if_it_is_not_rewarded() -> None:
    verdicts = grade_group(PROMPT, [GOOD, tagged("9")], MATH, reward(component("f", "format")))
    assert [(v.outcome, v.reward) for v in verdicts] == [("pass", 1.0), ("fail", 1.0)]


def test_gaming_earns_nothing() -> None:
    texts = [
        "<think><answer>3/4</answer></think><answer>1</answer>",
        "<answer>3/4</answer><answer>1</answer>",
        tagged("3/4" + " " * 10 + "0" * 3000),
        tagged("1/4, 2/4, 3/4"),
    ]
    verdicts = grade_group(PROMPT, texts, MATH, ZERO)
    assert [v.rewards["accuracy"] for v in verdicts] == [0.0] * 4
    assert verdicts[1].rewards["format"] == 0.0
    assert verdicts[2].detail == "answer of 3013 bytes refused (at most 2048)"


def test_slow_comparison_is_a_timeout_with_accuracy_0(pool: WorkerPool) -> None:
    limited = reward(*ZERO.components, math_timeout_s=1.0)
    verdicts = grade_group(PROMPT, [GOOD, tagged("\\int_0^1 \\frac{\\ln(1+x^7)}{1+\\sqrt{x}} dx")], MATH, limited, pool)
    assert [v.outcome for v in verdicts] == ["pass", "timeout"]
    assert verdicts[1].rewards == {"accuracy": 0.0, "format": 1.0}
    assert verdicts[1].detail == "the comparison took more than 1 s"


@pytest.mark.parametrize("grader_kind", ["grade_by_crashing"], indirect=True)
def test_broken_grader_gives_no_verdict_at_all(pool: WorkerPool, grader_kind: str) -> None:
    spec = {"kind": grader_kind}
    assert grade_group(PROMPT, [tagged("fine")], spec, ZERO, pool)[0].outcome == "pass"
    with pytest.raises(CallFailed, match="died twice"):
        grade_group(PROMPT, [tagged("fine"), tagged("crash")], spec, ZERO, pool)
    with pytest.raises(CallFailed, match="ZeroDivisionError"):
        grade_group(PROMPT, [tagged("raise"), tagged("fine")], spec, ZERO, pool)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": None},
        {"kind": "code"},
        {"kind": "math"},
        {"kind": "math", "answer": None},
        {"kind": "reasoning_gym"},
        {"kind": "reasoning_gym", "reasoning_gym": {"dataset": "no_such", "entry": {}}},
    ],
)
def test_malformed_specification_is_no_wrong_answer(spec: dict[str, Any]) -> None:
    with pytest.raises(CallFailed):
        grade_group(PROMPT, [GOOD], spec, ZERO)


def test_accuracy_kinds_cannot_be_redefined() -> None:
    with pytest.raises(ValueError, match="registered already"):
        register_accuracy("math", AccuracyKind("x:y", answer_block, ()))


def test_reasoning_gym_uses_the_datasets_own_score(pool: WorkerPool) -> None:
    import reasoning_gym

    entry = json.loads(json.dumps(reasoning_gym.create_dataset("countdown", seed=1, size=1)[0], default=str))
    spec = {"kind": "reasoning_gym", "reasoning_gym": {"dataset": "countdown", "entry": entry}}
    right = entry["metadata"]["expression"]
    texts = [tagged(right), tagged("1+1"), tagged("nonsense("), right, tagged("__import__('os').getpid()")]
    verdicts = grade_group(PROMPT, texts, spec, ZERO, pool)
    assert [v.outcome for v in verdicts] == ["pass", "fail", "fail", "fail", "fail"]
    assert verdicts[0].rewards["accuracy"] == 1.0
    assert all(0.0 <= (v.rewards["accuracy"] or 0.0) < 1.0 for v in verdicts[1:])
    assert verdicts[3].detail == "no answer found outside the reasoning"
    assert verdicts[4].detail == "answer refused: it looks like a program"


@pytest.mark.parametrize("dataset", ["chain_sum", "leg_counting", "gcd", "word_sorting", "sudoku"])
def test_reasoning_gym_golds_pass_after_a_trip_through_json(dataset: str) -> None:
    import reasoning_gym

    for entry in reasoning_gym.create_dataset(dataset, seed=2, size=3):
        spec = {"kind": "reasoning_gym", "reasoning_gym": json.loads(json.dumps({"dataset": dataset, "entry": entry}))}
        assert grade_group(PROMPT, [tagged(entry["answer"])], spec, ZERO)[0].outcome == "pass"


def test_user_function_gets_the_group_and_repeated_columns(pool: WorkerPool) -> None:
    mine = reward(
        component("length", "function", function="evaluator_targets:length_reward"),
        component("gold", "function", function="evaluator_targets:column_reward", weight=10.0),
        component("co", "function", function="evaluator_targets:coroutine_reward"),
    )
    verdicts = grade_group(PROMPT, ["0.75 it is", ""], MATH, mine, pool)
    assert verdicts[0].rewards == {"length": 1.0, "gold": 1.0, "co": 1.0}
    assert verdicts[0].reward == 12.0
    assert verdicts[1].rewards == {"length": None, "gold": 0.0, "co": 1.0}
    assert verdicts[1].reward == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short_reward", r"'mine' \(evaluator_targets:short_reward\) returned 1 values for 2 completions"),
        ("nan_reward", "returned nan for completion 0"),
        ("raising_reward", "raised KeyError: 'solution'"),
        ("strict_reward", r"must take \*\*kwargs"),
        ("no_such_reward", "has no 'no_such_reward'"),
    ],
)
def test_user_function_that_breaks_its_contract_gives_no_verdict(pool: WorkerPool, name: str, message: str) -> None:
    with pytest.raises(CallFailed, match=message):
        grade_group(PROMPT, [GOOD, GOOD], MATH, function(name), pool)


def test_user_function_that_hangs_gives_no_verdict(pool: WorkerPool) -> None:
    with pytest.raises(CallFailed, match=r"more than 0.5 s"):
        grade_group(PROMPT, [GOOD], MATH, function("waiting_reward"), pool, function_limit_s=0.5)


@pytest.mark.parametrize("columns", [["a"], {"prompts": "x"}])
def test_columns_that_cannot_be_passed_give_no_verdict(columns: Any) -> None:
    with pytest.raises(CallFailed, match="columns"):
        grade_group(PROMPT, [GOOD], {**MATH, "columns": columns}, function("length_reward"))


def test_progress_grows_and_an_exception_from_the_tick_ends_the_grading(pool: WorkerPool) -> None:
    seen: list[int] = []
    grade_group(PROMPT, [GOOD] * 8, MATH, ZERO, pool, on_tick=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 8

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        grade_group(PROMPT, [GOOD], MATH, ZERO, pool, on_tick=stop)


def test_unknown_language_is_refused_by_the_name_of_its_key() -> None:
    with pytest.raises(UserError, match=r"reward.components\[1\].language = 'tlh': not a known language"):
        check_reward(reward(component("a", "accuracy"), component("l", "language", language="tlh")))
    check_reward(reward(component("l", "language", language="zh")))

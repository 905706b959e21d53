"""Which reward components apply to a task, what they add up to, and what happens when none does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.config import RewardComponent, RewardSection
from common.errors import UserError
from evaluator.compose import RewardFault, check_reward, grade_group
from evaluator.pool import CallFailed

PROMPT = "User: hello\nAssistant:"
GOOD = "<think>we add one half and one quarter</think><answer>3/4</answer>"
GERMAN = "<think>wir addieren die beiden Zahlen</think><answer>3/4</answer>"


def component(name: str, kind: str, **fields: Any) -> RewardComponent:
    return RewardComponent.model_validate({"name": name, "kind": kind, **fields})


def reward(*components: RewardComponent) -> RewardSection:
    return RewardSection(components=list(components))


def function(name: str, target: str, **fields: Any) -> RewardComponent:
    return component(name, "function", function=f"evaluator_targets:{target}", **fields)


def task(kind: str = "none", **columns: Any) -> dict[str, Any]:
    return {"kind": kind, "answer": columns.get("answer"), "columns": columns}


class FakeScorer:
    """Scores by a table; remembers what it was asked."""

    def __init__(self, scores: dict[str, list[float | Exception]]) -> None:
        self.scores, self.asked = scores, []

    def submit(self, model: str, prompt: str, texts: Sequence[str], group: str) -> list[Future[float]]:
        self.asked.append((model, prompt, list(texts), group))
        futures = []
        for value in self.scores[model]:
            futures.append(Future())
            if isinstance(value, Exception):
                futures[-1].set_exception(value)
            else:
                futures[-1].set_result(value)
        return futures


EITHER = reward(
    component("accuracy", "accuracy"),
    component("format", "format", weight=0.5),
    component("helpful", "reward_model", model="H", when={"aspect": "helpfulness"}),
    component("safe", "reward_model", model="S", when={"aspect": "safety"}, weight=2.0),
)


def test_a_general_prompt_gets_either_helpfulness_or_safety() -> None:
    scorer = FakeScorer({"H": [1.5, -0.7], "S": [-0.2, 3.0]})
    helpful = grade_group(PROMPT, [GOOD, GOOD], task(aspect="helpfulness"), EITHER, scorer=scorer, group="g")
    assert [v.rewards for v in helpful] == [
        {"accuracy": None, "format": 1.0, "helpful": 1.5, "safe": None},
        {"accuracy": None, "format": 1.0, "helpful": -0.7, "safe": None},
    ]
    assert [v.reward for v in helpful] == pytest.approx([2.0, -0.2])
    assert scorer.asked == [("H", PROMPT, [GOOD, GOOD], "g")]
    safe = grade_group(PROMPT, [GOOD, "x"], task(aspect="safety"), EITHER, scorer=scorer)
    assert [v.rewards["helpful"] for v in safe] == [None, None]
    assert [v.reward for v in safe] == pytest.approx([0.1, 6.0])


def test_reasoning_tasks_ask_no_reward_model() -> None:
    verdict = grade_group(PROMPT, [GOOD], task("math", answer="0.75"), EITHER)[0]
    assert verdict.rewards == {"accuracy": 1.0, "format": 1.0, "helpful": None, "safe": None}
    assert (verdict.outcome, verdict.reward) == ("pass", 1.5)


def test_a_general_task_passes_by_its_reward_model_whatever_format_adds() -> None:
    scorer = FakeScorer({"H": [-0.1, 0.1], "S": []})
    verdicts = grade_group(PROMPT, [GOOD, "no tags"], task(aspect="helpfulness"), EITHER, scorer=scorer)
    assert [v.outcome for v in verdicts] == ["fail", "pass"]
    assert verdicts[0].reward == pytest.approx(0.4)  # positive, by its format alone
    assert verdicts[1].reward == pytest.approx(0.1)


def test_a_reward_model_that_is_only_measured_decides_nothing() -> None:
    measured = component("score", "reward_model", model="H", weight=0.0)
    section = reward(component("format", "format"), measured)
    verdicts = grade_group(PROMPT, [GOOD, "no tags"], task(), section, scorer=FakeScorer({"H": [-3.0, 3.0]}))
    assert [(v.outcome, v.reward, v.rewards["score"]) for v in verdicts] == [("pass", 1.0, -3.0), ("fail", 0.0, 3.0)]


def test_a_score_that_failed_gives_no_verdict() -> None:
    scorer = FakeScorer({"H": [1.0, CallFailed("reward model H: not a finite score")], "S": []})
    with pytest.raises(CallFailed, match="not a finite score"):
        grade_group(PROMPT, [GOOD, GOOD], task(aspect="helpfulness"), EITHER, scorer=scorer)
    with pytest.raises(CallFailed, match="nothing here scores with reward models, and helpful asks for one"):
        grade_group(PROMPT, [GOOD], task(aspect="helpfulness"), EITHER)


@pytest.mark.parametrize(
    ("when", "columns", "applies"),
    [
        ({}, {}, True),
        ({"kind": "general"}, {"kind": "general"}, True),
        ({"kind": "general"}, {"kind": "reasoning"}, False),
        ({"kind": "general"}, {}, False),
        ({"level": [3, 4]}, {"level": 4}, True),
        ({"level": [3, 4]}, {"level": "4"}, False),
        ({"flag": True}, {"flag": 1}, False),
        ({"flag": True}, {"flag": True}, True),
        ({"aspect": None}, {}, True),
        ({"aspect": None}, {"aspect": None}, True),
        ({"aspect": None}, {"aspect": "safety"}, False),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
    ],
)
def test_when_compares_columns(when: dict[str, Any], columns: dict[str, Any], applies: bool) -> None:
    section = reward(component("always", "format"), component("mine", "format", when=when))
    verdict = grade_group(PROMPT, [GOOD], {"kind": "none", "columns": columns}, section)[0]
    assert verdict.rewards["mine"] == (1.0 if applies else None)
    assert verdict.reward == (2.0 if applies else 1.0)
    assert RewardComponent.model_validate(section.components[1].model_dump(mode="json")) == section.components[1]


def test_when_leaves_functions_and_accuracy_alone_too() -> None:
    section = reward(
        component("always", "format"),
        component("gold", "accuracy", when={"split": "train"}),
        function("broken", "raising_reward", when={"split": "test"}),
    )
    verdict = grade_group(PROMPT, [GOOD], task("math", answer="0.75", split="dev"), section)[0]
    assert verdict.rewards == {"always": 1.0, "gold": None, "broken": None}
    assert verdict.outcome == "pass"  # accuracy is checked whether or not it is rewarded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "reward_model"}, "needs model: DIRECTORY"),
        ({"kind": "format", "model": "x"}, "only that kind takes one"),
        ({"kind": "format", "when": {"aspect": []}}, r"when.aspect is an empty list"),
    ],
)
def test_components_that_say_too_little_or_too_much_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        component("c", **fields)


def test_auto_language_is_the_problems_own() -> None:
    section = reward(component("lang", "language", language="auto"))

    def shares(kind: str = "none", **columns: Any) -> list[float | None]:
        spec = task(kind, **columns)
        return [v.rewards["lang"] for v in grade_group(PROMPT, [GOOD, GERMAN], spec, section)]

    assert shares(language="de") == [0.0, 1.0]
    assert shares(language="en") == shares() == shares(language=None) == [1.0, 0.0]
    assert shares(meta={"language": "de"}) == [0.0, 1.0]
    assert shares(language="en", meta={"language": "de"}) == [1.0, 0.0]
    with pytest.raises(
        RewardFault, match=r"'lang' with language: auto: the problem's language is 'tlh'; known: ar, bg"
    ):
        shares(language="tlh")
    check_reward(section)


def test_auto_language_of_a_program_is_not_its_programming_language() -> None:
    from evaluator.compose import _Sheet

    section = reward(component("lang", "language", language="auto"))
    spec = {"kind": "code", "code": {"language": "python"}, "columns": {"language": "python"}}
    assert _Sheet(PROMPT, [GOOD], spec, section)._language(section.components[0]) == "en"


def test_a_rollout_without_any_reward_is_a_fault_and_not_0() -> None:
    silent = reward(function("mine", "silent_reward"))
    with pytest.raises(
        RewardFault, match=r"rollout 0 has no reward: .*'mine' \(evaluator_targets:silent_reward\)"
    ) as e:
        grade_group(PROMPT, [GOOD, GOOD], task(), silent)
    assert e.value.final
    verdict = grade_group(PROMPT, [GOOD], task(), reward(component("f", "format"), *silent.components))[0]
    assert verdict.rewards == {"f": 1.0, "mine": None}
    some = reward(function("length", "length_reward"))
    with pytest.raises(RewardFault, match="rollout 1 has no reward"):
        grade_group(PROMPT, ["text", ""], task(), some)
    unmatched = reward(component("accuracy", "accuracy"), component("f", "format", when={"aspect": "safety"}))
    with pytest.raises(RewardFault, match="no reward applies to a task of kind 'none' with these columns") as e:
        grade_group(PROMPT, [GOOD], task(aspect="helpfulness"), unmatched)
    assert e.value.final


@pytest.mark.parametrize(
    ("target", "message", "final"),
    [
        ("short_reward", "returned 1 values for 2 completions", True),
        ("nan_reward", "returned nan for completion 0", True),
        ("wordy_reward", "returned 'good' for completion 0, not a number", True),
        ("lazy_reward", "returned NoneType, not a list of 2 numbers", True),
        ("raising_reward", r"raised KeyError: 'solution' \(evaluator_targets.py:\d+\)", False),
    ],
)
def test_a_function_that_breaks_its_contract_is_named(target: str, message: str, final: bool) -> None:
    with pytest.raises(RewardFault, match=rf"'mine' \(evaluator_targets:{target}\) {message}") as e:
        grade_group(PROMPT, [GOOD, GOOD], task(), reward(function("mine", target)))
    assert e.value.final is final


def test_reward_models_are_checked_at_the_start(tmp_path: Path) -> None:
    def check(message: str) -> None:
        with pytest.raises(UserError, match=message):
            check_reward(reward(component("a", "accuracy"), component("m", "reward_model", model=str(directory))))

    directory = tmp_path / "rm"
    check(r"reward.components\[1\].model: .*rm: no such directory")
    directory.mkdir()
    check("config.json: no such file")
    config = {"architectures": ["Qwen3ForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(config))
    check("a sequence classifier with one label; this is Qwen3ForCausalLM with 2 labels")
    config = {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (directory / "config.json").write_text(json.dumps(config))
    check("no .*safetensors")
    (directory / "model.safetensors").touch()
    check("no tokenizer")
    (directory / "tokenizer_config.json").touch()
    check("reward_model.json: no such file")
    facts: dict[str, Any] = {"kind": "helpful", "reads": "summary", "max_tokens": 512}
    for change, message in [
        ({"reads": "answer"}, "reads = 'answer': must be one of summary, response"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"scale": 0}, "scale = 0.0: must be positive"),
        ({"offset": float("nan")}, "offset = nan: must be a finite number"),
        ({"margin": 1}, "unknown key margin"),
    ]:
        (directory / "reward_model.json").write_text(json.dumps(facts | change))
        check(message)
    (directory / "reward_model.json").write_text(json.dumps(facts))
    check_reward(reward(component("m", "reward_model", model=str(directory))))


def test_a_missing_reward_model_shows_before_anything_starts(tmp_path: Path) -> None:
    from common.config import RunConfig
    from launcher.checks import check_reward_functions

    component = {"name": "m", "kind": "reward_model", "model": str(tmp_path / "none")}
    tree = {"model": "m", "data": {"train": "t.jsonl"}, "reward": {"components": [component]}}
    with pytest.raises(UserError, match=r"reward.components\[0\].model: .*none: no such directory"):
        check_reward_functions(RunConfig.model_validate(tree))

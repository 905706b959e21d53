"""The RL presets carry the figures of R1 (arXiv 2501.12948 and its Nature version), each marked with its source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from learner.schedule import TaskSchedule
from recipes.datasets import load_examples
from recipes.prepare import load_general

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
NAMES = ("r1_zero", "r1_reasoning", "r1_all")


def preset(name: str) -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_figures_that_all_rl_stages_share(name: str) -> None:
    config = preset(name)
    learner, rollout = config.learner, config.rollout
    assert learner.lr == 3e-6
    assert (learner.lr_schedule, learner.warmup_steps) == ("constant", 0)
    assert learner.loss.kl_coef == 0.001
    assert rollout.group_size == 16
    assert learner.groups_per_step == 32
    assert learner.groups_per_step * rollout.group_size == 512
    assert learner.steps_per_publish == 16
    assert config.groups_per_publish * rollout.group_size == 8192
    assert config.credit_limit == 512  # one rollout of 512 questions, trained on once: one inner epoch
    assert learner.max_staleness == 0
    assert learner.reference_refresh_steps == 400
    assert learner.loss.aggregation == "sequence"
    assert (learner.advantage_scale, learner.advantage_ddof, learner.advantage_eps) == ("std", 0, 1e-6)
    assert learner.loss.dual_clip is None
    assert learner.loss.proximal == "none"
    assert rollout.max_tokens == 32_768
    assert (rollout.top_p, rollout.top_k) == (1.0, 0)
    assert not learner.mask_truncated
    assert (config.eval.samples, config.eval.temperature, config.eval.top_p) == (64, 0.6, 0.95)
    assert config.eval.max_tokens == 32_768
    assert config.cold_start.steps == 0
    assert config.actor.max_model_len is not None
    assert config.actor.max_model_len > rollout.longest


def test_r1_zero() -> None:
    config = preset("r1_zero")
    assert config.learner.max_steps == 10_400
    assert config.rollout.temperature == 1.0
    assert config.data.template == "r1_zero"
    schedule = TaskSchedule(config, 1000)
    assert [schedule.max_tokens(32 * step) for step in (0, 8199, 8200, 10_399)] == [32_768, 32_768, 65_536, 65_536]
    assert {c.kind: c.weight for c in config.reward.components} == {"accuracy": 1.0, "format": 1.0}
    assert config.data.general is None
    assert (config.learner.loss.clip_low, config.learner.loss.clip_high) == (0.2, 0.2)


def test_reasoning_rl() -> None:
    config = preset("r1_reasoning")
    assert (config.learner.loss.clip_low, config.learner.loss.clip_high) == (10, 10)
    assert config.rollout.temperature == 1.0
    assert config.rollout.longest == 32_768
    assert {c.kind: c.weight for c in config.reward.components} == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert config.data.general is None


def test_rl_for_all_scenarios() -> None:
    config = preset("r1_all")
    assert config.learner.max_steps == 1700
    assert config.rollout.temperature == 0.7
    assert config.rollout.longest == 32_768
    assert (config.learner.loss.clip_low, config.learner.loss.clip_high) == (10, 10)
    assert config.data.general is not None
    assert config.data.general.last_steps == 400
    schedule = TaskSchedule(config, 1000, 8)
    general = [schedule.step(number) for number in range(1700 * 32) if schedule.part(number) == "general"]
    assert (min(general), max(general), len(general)) == (1300, 1699, 400 * 16)


def test_each_general_prompt_gets_either_helpfulness_or_safety_with_format_and_language() -> None:
    config = preset("r1_all")
    for aspect, model in (("helpfulness", "helpful"), ("safety", "safe")):
        columns = {"kind": "general", "aspect": aspect, "language": "en"}
        applying = {c.name for c in config.reward.components if c.applies(columns)}
        assert applying == {"accuracy", "format", "language", model}  # accuracy: none, for want of an answer
    on_reasoning = {c.name for c in config.reward.components if c.applies({"answer": "4", "source": "math"})}
    assert on_reasoning == {"accuracy", "format", "language"}
    assert all(c.weight == 1.0 for c in config.reward.components)


def test_the_example_of_general_prompts_is_what_the_preset_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    config = preset("r1_all")
    examples, held_out = load_general(config, set())
    assert held_out == []
    assert {e.columns["aspect"] for e in examples} == {"helpfulness", "safety"}
    assert {e.columns["kind"] for e in examples} == {"general"}
    assert {e.columns["language"] for e in examples} == {"en", "de"}
    assert all(e.answer is None for e in examples)
    lines = (CONFIGS / "general_example.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [
        e.id for e in load_examples(str(CONFIGS / "general_example.jsonl"), need_answer=False)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_marked_with_where_it_comes_from(name: str) -> None:
    section = ""
    for line in (CONFIGS / f"{name}.yaml").read_text().splitlines():
        if found := re.match(r"(\w+):", line):
            section = found[1]
        found = re.match(r" +(\w+): +[^#\s]", line) if section in ("rollout", "learner", "eval") else None
        if found and found[1] not in ("device", "dtype"):
            assert re.search(r"# \[(R1|default|size)\]", line), line

"""Owns what an evaluation will sample: settings, rewards, problems prepared for each model, and what is there already.

models x suites ── plan ──> Plan (records, samplings, journal)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.config import RewardComponent, RewardSection, RunConfig
from common.errors import UserError
from common.messages import Sampling
from launcher.eval_journal import Journal, model_digest, records_digest
from launcher.model_swap import difference
from recipes.datasets import Example
from recipes.model_files import HubUnreachable, PromptTokenizer, read_model_facts
from recipes.prepare import Record, context_limit, read_prepared, to_records
from recipes.prompts import Template
from recipes.suites.suite import Suite, load_suite, put_instruction

REWARD_MODEL = "reward_model"  # the component that best-of-n picks by
SCORE = "score"  # prefix of the components that judge in place of accuracy
SUITE_COLUMN = "suite"
SAMPLED, GREEDY = "sampled", "greedy"
Select = Literal["best_of_n", "majority"]
Say = Callable[[str], object]


@dataclass(frozen=True)
class EvalSettings:
    """How to evaluate. None: what the suite says (`k` samples a problem, temperature, ...)."""

    k: int | None = None
    greedy: bool = True
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    template: Template | None = None
    limit: int | None = None
    select: Select | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: RunConfig, **more: Any) -> EvalSettings:
        """From the keys of `config.eval` and `config.data` that somebody set; defaults are left to the suites."""
        given: dict[str, Any] = {key: getattr(config.eval, key) for key in config.eval.model_fields_set}
        names = {"samples": "k", "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens"}
        found = {names[key]: value for key, value in given.items() if key in names}
        if "template" in config.data.model_fields_set:
            found["template"] = config.data.template
        return cls(**{**found, "greedy": config.eval.greedy, "seed": config.seed, **more})


@dataclass(frozen=True)
class Plan:
    """One model on one suite: what is to be sampled, and what is there."""

    model: str
    path: Path
    suite: Suite
    records: list[Record]
    samplings: dict[str, tuple[int, Sampling]]  # by kind: number of samples, how
    asked: dict[str, Any]
    journal: Journal

    @property
    def missing(self) -> list[tuple[int, str]]:
        """(problem's index, kind) of what has not been sampled."""
        wanted = ((index, kind) for index in range(len(self.records)) for kind in self.samplings)
        return [item for item in wanted if item not in self.journal.found]


def plan(
    config: RunConfig,
    models: Mapping[str, Path],
    suites: Sequence[Suite],
    settings: EvalSettings,
    out: Path | None,
    examples: Mapping[str, list[Example] | list[Record]],
) -> list[Plan]:
    """Prepared problems of every model and suite. UserError for whatever is wrong with settings, room or an earlier
    evaluation in `out`."""
    scores = {component.function for component in config.reward.components}
    if unscored := [suite.name for suite in suites if suite.score is not None and suite.score not in scores]:
        raise ValueError(f"no reward component judges suite {unscored[0]}: make `config` with grading_config")
    plans = []
    for name, path in models.items():
        tokenizer, weights = PromptTokenizer(path), model_digest(path)
        context = context_limit(config, read_model_facts(path).context)
        for suite in suites:
            records, max_tokens = _prepare(config, suite, settings, tokenizer, context, examples[suite.name])
            samplings = _samplings(suite, settings, max_tokens)
            asked: dict[str, Any] = {
                "model": weights,
                "problems": records_digest(records),
                "samples": samplings[SAMPLED][0],
                **{kind: sampling.model_dump() for kind, (_, sampling) in samplings.items()},
                "rewards": [component.model_dump(mode="json") for component in config.reward.components],
            }
            plans.append(Plan(name, path, suite, records, samplings, asked, Journal(out, name, suite.name, asked)))
    return plans


def grading_config(config: RunConfig, suites: Sequence[Suite], reward_model: str | None = None) -> RunConfig:
    """`config` with the reward components of an evaluation: those that somebody set, else accuracy, format and language
    (the last two are reported only), then the suites' own scores and the reward model of best-of-n."""
    given = "components" in config.reward.model_fields_set and "reward" in config.model_fields_set
    components = list(config.reward.components) if given else _default_components()
    for number, function in enumerate(dict.fromkeys(suite.score for suite in suites if suite.score is not None)):
        names: list[Any] = [suite.name for suite in suites if suite.score == function]
        name = f"{SCORE}_{number}" if number else SCORE
        components.append(RewardComponent(name=name, kind="function", function=function, when={SUITE_COLUMN: names}))
    if reward_model is not None:
        model = str(Path(reward_model).expanduser().resolve())
        components.append(RewardComponent(name=REWARD_MODEL, kind="reward_model", model=model, weight=0.0))
    reward = config.reward.model_dump() | {"components": [component.model_dump() for component in components]}
    return config.model_copy(update={"reward": RewardSection.model_validate(reward)})


def engine_groups(models: Mapping[str, Path]) -> list[dict[str, Path]]:
    """The models in groups whose weights fit one engine, in the order given."""
    groups: list[dict[str, Path]] = []
    for name, path in models.items():
        group = next((g for g in groups if difference(next(iter(g.values())), path) is None), None)
        if group is None:
            groups.append({name: path})
        else:
            group[name] = path
    return groups


def load_suites(suites: Sequence[Suite], say: Say = print) -> dict[str, list[Example] | list[Record]]:
    """Problems by suite; a run's own prepared data/eval.jsonl is taken as it is. UserError for what cannot be had."""
    loaded: dict[str, list[Example] | list[Record]] = {}
    for suite in suites:
        prepared = read_prepared(suite.source) if suite.source else None
        try:
            loaded[suite.name] = load_suite(suite, say=say) if prepared is None else prepared
        except HubUnreachable as error:
            raise UserError(
                f"suite {suite.name}: {error}; put {suite.name}.jsonl into $ZEROQ_DATA, or give a local path"
            ) from None
    return loaded


def _default_components() -> list[RewardComponent]:
    return [
        RewardComponent(name="accuracy", kind="accuracy"),
        RewardComponent(name="format", kind="format", weight=0.0),
        RewardComponent(name="language", kind="language", language="auto", weight=0.0),
    ]


def _prepare(
    config: RunConfig,
    suite: Suite,
    settings: EvalSettings,
    tokenizer: PromptTokenizer,
    context: int | None,
    problems: list[Example] | list[Record],
) -> tuple[list[Record], int]:
    """Records of one suite, and the longest completion in tokens."""
    template = settings.template or suite.template or config.data.template
    examples = [problem for problem in problems[: settings.limit] if isinstance(problem, Example)]
    if examples:
        if suite.instruction is not None and template == "chat":
            examples = [put_instruction(example, suite.instruction) for example in examples]
        if suite.score is not None:
            examples = [replace(e, columns=e.columns | {SUITE_COLUMN: suite.name}) for e in examples]
        records = to_records(examples, tokenizer, template, context, settings.max_tokens or 1, "--max-tokens")
    else:
        records = [problem for problem in problems[: settings.limit] if isinstance(problem, dict)]
    longest = max(len(record["prompt_ids"]) for record in records)
    limit = settings.max_tokens or suite.max_tokens
    room = limit if context is None else context - longest
    if settings.max_tokens is not None and limit > room:
        raise UserError(
            f"--max-tokens {limit} and the longest prompt ({longest} tokens) exceed the context of {context}"
        )
    return records, min(limit, room)


def _samplings(suite: Suite, settings: EvalSettings, max_tokens: int) -> dict[str, tuple[int, Sampling]]:
    """What is sampled of each problem."""
    k = settings.k or suite.k
    if settings.select == "majority" and k == 1:
        raise UserError(
            f"--select majority: suite {suite.name} has one sample a problem, and one has no majority; --k 4"
        )
    temperature = suite.temperature if settings.temperature is None else settings.temperature
    top_p = suite.top_p if settings.top_p is None else settings.top_p
    sampled = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=settings.seed)
    samplings = {SAMPLED: (k, sampled)}
    if settings.greedy:
        samplings[GREEDY] = (1, Sampling(max_tokens=max_tokens, temperature=0.0))
    return samplings

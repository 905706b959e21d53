"""Owns the step from problems to the files a run reads: prompts templated and tokenised once, checked, split, written.

    config.data ── load_examples ── held-out split ── template + tokenise ── DIR/data/train.jsonl, eval.jsonl
                                                                       ├──── DIR/data/general.jsonl, general_eval.jsonl
                                                                       └──── DIR/data/cold_start.jsonl

Everything that can be wrong with the data is found here, before a process starts. The same configuration and seed
give the same files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.config import ReasoningGymSource, RunConfig
from common.errors import UserError
from common.lifecycle import RunPaths, write_atomic
from recipes.code import cold_start_program
from recipes.cold_start import cold_start_traces
from recipes.conversations import after_prompt, notes_on
from recipes.datasets import Example, cold_start_response, load_examples
from recipes.model_files import PromptTokenizer
from recipes.problems import Problem
from recipes.prompts import Template, render_prompt

# Streams of problems that must not repeat each other start from seeds this far apart.
_SEED_STRIDE = 1_000_003
_COLD_START_DATASETS = ("chain_sum",)

Record = dict[str, Any]


@dataclass(frozen=True)
class PreparedData:
    """Records of the files, and the longest prompt that is sampled from, in tokens."""

    train: list[Record]
    evaluation: list[Record]
    cold_start: list[Record]
    longest_prompt: int
    general: list[Record] = field(default_factory=list)
    general_evaluation: list[Record] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    """What a person should know of the data's columns and the chat template."""


@dataclass(frozen=True)
class Limits:
    """Room in the model: `context` tokens for prompt and completion together (None: unknown)."""

    context: int | None
    max_tokens: int
    eval_max_tokens: int


def prepare_data(config: RunConfig, paths: RunPaths, model: Path, context: int | None) -> PreparedData:
    """Build and write DIR/data/*.jsonl. `context` as `context_limit` gives it. Raises UserError."""
    data = build_data(config, PromptTokenizer(model), context)
    write_data(paths, data)
    return data


def write_data(paths: RunPaths, data: PreparedData) -> None:
    """Write the files that the learner reads; all but the first two only if there is anything for them."""
    folder = paths.root / "data"
    files = {"train": data.train, "eval": data.evaluation, "cold_start": data.cold_start}
    files |= {"general": data.general, "general_eval": data.general_evaluation}
    for name, records in files.items():
        if records or name in ("train", "eval"):
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            write_atomic(folder / f"{name}.jsonl", "".join(lines))


def context_limit(config: RunConfig, model_context: int | None) -> int | None:
    """Longest sequence in tokens: the model's context or `actor.max_model_len`, whichever is shorter."""
    limits = [limit for limit in (model_context, config.actor.max_model_len) if limit is not None]
    return min(limits, default=None)


def build_data(config: RunConfig, tokenizer: PromptTokenizer, context: int | None) -> PreparedData:
    """Load, split, template, tokenise and check. Raises UserError for whatever is wrong with data or room."""
    limits = Limits(context, config.rollout.longest, config.eval.max_tokens or config.rollout.max_tokens)
    scheduled = limits.max_tokens > config.rollout.max_tokens
    rollout_key = "rollout.max_tokens_schedule" if scheduled else "rollout.max_tokens"
    for key, tokens in ((rollout_key, limits.max_tokens), ("eval.max_tokens", limits.eval_max_tokens)):
        if context is not None and tokens >= context:
            raise UserError(f"{key}={tokens} leaves no room for a prompt in the context of {context} tokens; lower it")
    notes: list[str] = []
    train, evaluation = _split(config, notes.append)
    template = config.data.template
    if template == "chat":
        notes += notes_on(tokenizer.chat_facts())
    general, general_evaluation = load_general(config, {e.prompt for e in evaluation})
    held_out_general = {e.prompt for e in general_evaluation}
    train = [e for e in train if e.prompt not in held_out_general]
    if not train:
        raise UserError(f"data.train: every problem is in data.general_eval={config.data.general_eval} too")

    def records(examples: Sequence[Example], max_tokens: int, key: str) -> tuple[list[Record], int]:
        return _records(examples, tokenizer, template, context, max_tokens, key)

    parts = [records(examples, limits.max_tokens, rollout_key) for examples in (train, general)]
    parts += [records(part, limits.eval_max_tokens, "eval.max_tokens") for part in (evaluation, general_evaluation)]
    held_out = held_out_general | {e.prompt for e in evaluation}
    traces = _cold_start(config, train, held_out, tokenizer) if config.cold_start.steps else []
    _check_traces(traces, tokenizer, context)
    return PreparedData(
        train=parts[0][0],
        evaluation=parts[2][0],
        cold_start=traces,
        longest_prompt=max(longest for _, longest in parts),
        general=parts[1][0],
        general_evaluation=parts[3][0],
        notes=tuple(dict.fromkeys(notes)),
    )


def needs_answer(config: RunConfig) -> bool:
    """Whether some reward compares with a gold answer."""
    return any(component.kind == "accuracy" for component in config.reward.components)


def to_records(
    examples: Sequence[Example],
    tokenizer: PromptTokenizer,
    template: Template,
    context: int | None,
    max_tokens: int,
    key: str,
) -> list[Record]:
    """`{"id", "prompt", "prompt_ids", "spec"}` of each example; UserError for a prompt that leaves no room."""
    return _records(examples, tokenizer, template, context, max_tokens, key)[0]


def read_prepared(source: str) -> list[Record] | None:
    """The records of a file that `write_data` wrote, such as a run's data/eval.jsonl; None when it is another."""
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        if '"prompt_ids"' not in first or '"spec"' not in first:
            return None
        try:
            return [json.loads(line) for line in [first, *file]]
        except ValueError as error:
            raise UserError(f"{source}: not a prepared data file: {error}") from None


def _split(config: RunConfig, say: Callable[[str], object]) -> tuple[list[Example], list[Example]]:
    """Training and held-out problems, no prompt in both; both in the order that the seed gives."""
    data, rng = config.data, random.Random(config.seed)
    common: dict[str, Any] = {"fields": data.fields, "split": data.split, "need_answer": needs_answer(config)}
    common["say"] = say
    if isinstance(data.train, ReasoningGymSource) and data.eval is None:
        source = data.train.model_copy(update={"size": data.eval_size, "seed": None})
        evaluation = load_examples(source, seed=_base_seed(config) + _SEED_STRIDE)
    elif data.eval is not None:
        evaluation = load_examples(data.eval, training=False, seed=config.seed + _SEED_STRIDE, **common)
        evaluation = evaluation if len(evaluation) <= data.eval_size else rng.sample(evaluation, data.eval_size)
    else:
        examples = load_examples(data.train, **common)
        rng.shuffle(examples)
        evaluation = list({e.prompt: e for e in examples}.values())[: data.eval_size]
        held_out = {e.prompt for e in evaluation}
        train = [e for e in examples if e.prompt not in held_out]
        if not train:
            raise UserError(
                f"data.eval_size={data.eval_size} leaves nothing to train on of the {len(examples)} problems in "
                f"{data.train}; lower it or name a data.eval"
            )
        return train, evaluation
    train = load_examples(data.train, seed=config.seed, exclude={e.prompt for e in evaluation}, **common)
    if not train:
        raise UserError(f"data.train: every problem of {data.train} is in data.eval too; nothing is left to train on")
    if data.shuffle:
        rng.shuffle(train)
    return train, evaluation


def load_general(config: RunConfig, held_out: AbstractSet[str]) -> tuple[list[Example], list[Example]]:
    """General prompts to train on and to evaluate, none of the former in `held_out` or among the latter.

    They need no answer, and get none; their `kind` column is "general" unless they say otherwise.
    UserError when nothing is left, or when a line lacks the `aspect` that a reward component chooses by.
    """
    data, own = config.data, config.data.general
    common: dict[str, Any] = {
        "fields": data.fields if own is None or own.fields is None else own.fields,
        "split": data.split if own is None or own.split is None else own.split,
        "need_answer": False,
    }
    evaluation: list[Example] = []
    if data.general_eval is not None:
        evaluation = load_examples(data.general_eval, training=False, **common)
        if len(evaluation) > data.eval_size:
            evaluation = random.Random(config.seed).sample(evaluation, data.eval_size)
    train: list[Example] = []
    if own is not None:
        train = load_examples(own.source, exclude=held_out | {e.prompt for e in evaluation}, **common)
        if not train:
            raise UserError(
                f"data.general.source: every prompt of {own.source} is held out (data.eval, "
                "data.general_eval); nothing general is left to train on"
            )
    by_aspect = [component.name for component in config.reward.components if "aspect" in component.when]
    for example in (*train, *evaluation):
        if by_aspect and example.columns.get("aspect") is None:
            raise UserError(
                f"{example.where}: a general prompt without `aspect`, by which reward component {by_aspect[0]} chooses "
                "(when.aspect); write helpfulness or safety"
            )
    return [_general(e) for e in train], [_general(e) for e in evaluation]


def _general(example: Example) -> Example:
    columns = example.columns | {"kind": example.columns.get("kind") or "general", "answer": None}
    return replace(example, answer=None, columns=columns, reasoning_gym=None, code=None)


def _base_seed(config: RunConfig) -> int:
    source = config.data.train
    return config.seed if not isinstance(source, ReasoningGymSource) or source.seed is None else source.seed


def _records(
    examples: Sequence[Example],
    tokenizer: PromptTokenizer,
    template: Template,
    context: int | None,
    max_tokens: int,
    key: str,
) -> tuple[list[Record], int]:
    """The records, and the length of the longest prompt in tokens."""
    prompts = [_render(template, example, tokenizer) for example in examples]
    # The chat template writes the special tokens itself.
    ids = tokenizer.encode(prompts, special=template != "chat")
    records, longest = [], 0
    for example, prompt, prompt_ids in zip(examples, prompts, ids, strict=True):
        if not prompt_ids:
            raise UserError(f"{example.where}: the tokenizer makes no token of this prompt")
        if context is not None and len(prompt_ids) + max_tokens > context:
            raise UserError(
                f"{example.where}: prompt of {len(prompt_ids)} tokens and {key}={max_tokens} exceed the context of "
                f"{context} tokens; lower {key} or remove the line"
            )
        longest = max(longest, len(prompt_ids))
        records.append({"id": example.id, "prompt": prompt, "prompt_ids": prompt_ids, "spec": _spec(example)})
    return records, longest


def _render(template: Template, example: Example, tokenizer: PromptTokenizer) -> str:
    try:
        return render_prompt(template, example.question, tokenizer.chat)
    except ValueError as error:
        raise UserError(f"{example.where}: {error}") from None
    except UserError as error:
        raise UserError(f"{example.where}: {error}" if example.messages else str(error)) from None


def _spec(example: Example) -> Record:
    """What evaluators get to know; actors never see it."""
    spec: Record = {"kind": "none", "id": example.id, "answer": example.answer, "columns": example.columns}
    if example.code is not None:
        return spec | {"kind": "code", "code": example.code}
    if example.reasoning_gym is not None:
        return spec | {"kind": "reasoning_gym", "reasoning_gym": example.reasoning_gym}
    return spec | {"kind": "math"} if example.answer else spec


def _worked_response(example: Example) -> str | None:
    """The response to imitate: worked solution and answer, or the reference program; None where there is none."""
    if example.solution and example.code is not None:
        return cold_start_program(example.solution, str(example.code["language"]))
    return cold_start_response(example.solution, example.answer) if example.solution and example.answer else None


def _cold_start(
    config: RunConfig, train: Sequence[Example], held_out: set[str], tokenizer: PromptTokenizer
) -> list[Record]:
    """Prompts with the responses that supervised fine-tuning imitates; none of them held out."""
    settings, source = config.cold_start, config.data.train
    if isinstance(source, ReasoningGymSource):
        if source.reasoning_gym not in _COLD_START_DATASETS:
            raise UserError(
                f"cold_start.steps={settings.steps}: there are worked solutions for reasoning_gym "
                f"{', '.join(_COLD_START_DATASETS)} only, not {source.reasoning_gym}; set cold_start.steps=0 or train "
                "on a file with solutions"
            )
        wanted = source.model_copy(update={"size": settings.num_examples, "seed": None})
        examples = load_examples(wanted, seed=_base_seed(config) + 2 * _SEED_STRIDE, exclude=held_out)
        problems = [Problem(id=e.id, prompt=e.prompt, answer=e.answer or "") for e in examples]
        try:
            traces = cold_start_traces(
                problems, seed=config.seed, stop_probability=settings.trace_stop_probability, template="{prompt}"
            )
        except ValueError as error:
            raise UserError(f"cold_start: {error}") from None
        pairs = [(example, response) for example, (_, response) in zip(examples, traces, strict=True)]
    else:
        pairs = [(e, response) for e in train[: settings.num_examples] if (response := _worked_response(e)) is not None]
        if not pairs:
            raise UserError(
                f"cold_start.steps={settings.steps} needs worked solutions, and no line of {source} has "
                f"{config.data.fields.solution!r} and {config.data.fields.answer!r}; set cold_start.steps=0 or name "
                "the column with data.fields.solution"
            )
    template = config.data.template
    rendered = [(_render(template, example, tokenizer), response) for example, response in pairs]
    return [{"prompt": prompt, "response": after_prompt(prompt, response)} for prompt, response in rendered]


def _check_traces(traces: Sequence[Mapping[str, str]], tokenizer: PromptTokenizer, context: int | None) -> None:
    """UserError when a cold-start sequence and its end-of-sequence token exceed the context."""
    if context is None or not traces:
        return
    for index, ids in enumerate(tokenizer.encode([t["prompt"] + t["response"] for t in traces])):
        if len(ids) + 1 > context:
            raise UserError(
                f"cold_start: solution {index + 1} ({traces[index]['prompt'][:40]!r}...) has {len(ids)} tokens with "
                f"its prompt, the context {context}; remove it or set cold_start.steps=0"
            )

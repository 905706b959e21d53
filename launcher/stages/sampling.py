"""Owns sampling within a stage: problems to requests; graded completions are kept as they come, a kill loses little.

    problems (JSON lines) ── load_examples ── to_records ── Sampler ── STAGE/NAME.jsonl (a line per problem, appended)

The file is opened by what was asked (model, problems, sampling, rewards): its first line says it, and a file that was
begun with something else is not gone on with.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_file import validate
from common.errors import UserError
from common.messages import Sampling, Verdict
from launcher.sampling import Completion, Sampler, SampleRequest
from launcher.stages import StageContext
from recipes.datasets import Example, load_examples
from recipes.model_files import PromptTokenizer, locate_model, read_model_facts
from recipes.pipeline.config import Problems, SampleSettings, merged
from recipes.pipeline.manifest import digest
from recipes.prepare import context_limit, to_records


@dataclass(frozen=True)
class Sampled:
    """A problem with its graded completions."""

    example: Example
    prompt: str
    completions: list[Completion]


def sampling_config(context: StageContext, model: str, own: dict[str, Any]) -> RunConfig:
    """How a stage samples: the defaults of runs and of sampling, the stage's own keys, and its model."""
    fixed = {"model": model, "seed": context.seed, "data": {"train": "problems.jsonl"}}
    defaults = context.defaults
    return validate(RunConfig, merged(defaults.run, defaults.sampling, own, fixed), f"stages.{context.name}")


def read_problems(sources: Sequence[Problems], config: RunConfig, *, need_answer: bool = True) -> list[Example]:
    """All problems of `sources`; those with a limit are drawn in the order that the seed gives. UserError."""
    found: dict[str, Example] = {}
    for number, source in enumerate(sources):
        examples = load_examples(
            source.path, fields=config.data.fields, split=config.data.split, need_answer=need_answer, seed=config.seed
        )
        if source.limit is not None:
            random.Random(config.seed * 1009 + number).shuffle(examples)
            examples = examples[: source.limit]
        for example in examples:
            if example.id in found:
                raise UserError(f"{example.where}: id {example.id!r} is taken by {found[example.id].where}")
            found[example.id] = example
    return list(found.values())


class ProblemSampling:
    """`settings.samples` graded completions of each of some problems, by one model; `missing` are still to be sampled.

    `prompts`: other texts to put to the model than the problems themselves (few-shot); the template is applied to them.
    """

    def __init__(
        self,
        context: StageContext,
        config: RunConfig,
        examples: Sequence[Example],
        settings: SampleSettings,
        *,
        name: str,
        prompts: Sequence[str] | None = None,
    ) -> None:
        model = locate_model(config.model)
        limit = settings.max_tokens or config.rollout.max_tokens
        asked = examples if prompts is None else [replace(e, prompt=p) for e, p in zip(examples, prompts, strict=True)]
        self.examples, self.name = examples, name
        self.records = to_records(
            asked,
            PromptTokenizer(model),
            config.data.template,
            context_limit(config, read_model_facts(model).context),
            limit,
            f"stages.{context.name} max_tokens",
        )
        sampling = Sampling(max_tokens=limit, temperature=settings.temperature, top_p=settings.top_p, seed=context.seed)
        identity = _identity(config, model, self.records, settings, sampling)
        self._log = SampleLog(context.folder / f"{name}.jsonl", identity)
        self._done = self._log.read()
        self.missing = [
            SampleRequest(record["id"], record, settings.samples, sampling)
            for record in self.records
            if record["id"] not in self._done
        ]

    def run(self, sampler: Sampler) -> None:
        """Sample what is missing; each problem is on disk as soon as it is graded."""
        with self._log.appending() as append:
            for task in sampler.sample(self.missing):
                self._done[task.key] = task.completions
                append(task.key, task.completions)
        self.missing = []

    def results(self) -> list[Sampled]:
        """All problems with their completions, in order."""
        return [
            Sampled(example, record["prompt"], self._done[record["id"]])
            for example, record in zip(self.examples, self.records, strict=True)
        ]


def sample_problems(
    context: StageContext,
    config: RunConfig,
    examples: Sequence[Example],
    settings: SampleSettings,
    *,
    name: str,
    prompts: Sequence[str] | None = None,
) -> list[Sampled]:
    """Completions of the problems by `config.model`, in an engine of their own; what STAGE/`name`.jsonl holds is not
    sampled again."""
    sampling = ProblemSampling(context, config, examples, settings, name=name, prompts=prompts)
    if sampling.missing:
        there = len(examples) - len(sampling.missing)
        context.say(f"{name}: {settings.samples} samples of {len(sampling.missing)} problems, {there} there already")
        with Sampler(config, stop=context.stop, say=context.say, swappable=False) as sampler:
            sampling.run(sampler)
    return sampling.results()


def plain_prompts(config: RunConfig, examples: Sequence[Example]) -> list[str]:
    """The problems' prompts as the model is given them, without anything before them."""
    tokenizer = PromptTokenizer(locate_model(config.model))
    return [str(r["prompt"]) for r in to_records(examples, tokenizer, config.data.template, None, 1, "max_tokens")]


class SampleLog:
    """Completions by problem in a JSON-lines file whose first line says what they are completions of."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._first_line = json.dumps({"identity": identity}).encode()

    def read(self) -> dict[str, list[Completion]]:
        """What is there; a last line that was cut short is dropped. A file of other samples is renamed, not used."""
        if not self.path.exists():
            return {}
        *whole, rest = self.path.read_bytes().split(b"\n")  # what follows the last line's end is half a line
        if not whole or whole[0] != self._first_line:
            self.path.rename(self.path.with_suffix(".before.jsonl"))
            return {}
        found = {}
        for line in whole[1:]:
            record = json.loads(line)
            found[record["key"]] = [_completion(value) for value in record["completions"]]
        if rest:
            os.truncate(self.path, sum(len(line) + 1 for line in whole))
        return found

    @contextmanager
    def appending(self) -> Iterator[Any]:
        """A function that adds the completions of one problem."""
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            if new:
                file.write(self._first_line.decode() + "\n")

            def append(key: str, completions: Sequence[Completion]) -> None:
                record = {"key": key, "completions": [_plain(completion) for completion in completions]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()

            yield append


def _plain(completion: Completion) -> dict[str, Any]:
    return {**asdict(completion), "verdict": completion.verdict.model_dump()}


def _completion(value: dict[str, Any]) -> Completion:
    return Completion(**{**value, "verdict": Verdict.model_validate(value["verdict"])})


def _identity(
    config: RunConfig, model: Path, records: Sequence[dict[str, Any]], settings: SampleSettings, sampling: Sampling
) -> str:
    """Digest of all that decides what the samples are."""
    asked = {
        "model": digest(model),
        "problems": [[record["id"], record["prompt"], record["spec"]] for record in records],
        "settings": settings.model_dump(),
        "sampling": sampling.model_dump(),
        "reward": config.reward.model_dump(),
    }
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()

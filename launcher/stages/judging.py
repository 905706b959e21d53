"""Owns who judges answers and preferences: an endpoint, a local model through an actor, or nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import RunFailure, UserError
from common.messages import Sampling
from launcher.sampling import Sampler, SampleRequest
from launcher.stages import StageContext
from launcher.stages.sampling import sampling_config
from recipes.datasets import Example
from recipes.model_files import PromptTokenizer, locate_model, read_model_facts
from recipes.pipeline.config import merged
from recipes.pipeline.manifest import digest
from recipes.prepare import context_limit, to_records
from recipes.stages.ask import Asker, SamplerAsker
from recipes.stages.endpoint import EndpointAsker
from recipes.stages.judge import EndpointJudge, GenerativeJudge, SamplerJudge

REPLIES = "judge.jsonl"
UNGRADED = {"components": [{"name": "format", "kind": "format"}]}
"""The reward of what has nothing to be graded by: some component has to apply."""
_MAX_TOKENS = 2048


@contextlib.contextmanager
def make_judge(context: StageContext) -> Iterator[GenerativeJudge | None]:
    """The judge that `settings.selection.judge` asks for; replies are kept in STAGE/judge.jsonl. UserError for neither
    an endpoint nor a model."""
    settings = context.settings
    if settings.selection.judge == "off":
        yield None
    elif settings.judge_model is not None:
        with contextlib.ExitStack() as stack:
            ask = LocalModel(context, settings.judge_model, settings.run, stack)
            yield SamplerJudge(ask, settings.judge, model=ask.name, cache=context.folder / REPLIES)
    elif settings.judge.endpoint is not None:
        with _stops_as_asked(context):
            yield EndpointJudge(settings.judge, cache=context.folder / REPLIES, stop=lambda: bool(context.stop))
    else:
        raise UserError(
            f"selection.judge is {settings.selection.judge}: name judge.endpoint.base_url and model, or a judge_model"
        )


@contextlib.contextmanager
def make_asker(context: StageContext) -> Iterator[Asker]:
    """Who judges preferences: `settings.endpoint`, or `settings.judge_model`, one of which there is."""
    settings = context.settings
    if settings.endpoint is not None:
        with _stops_as_asked(context):
            yield EndpointAsker(settings.endpoint, stop=lambda: bool(context.stop))
        return
    with contextlib.ExitStack() as stack:
        keys = merged(settings.run, settings.judge_run)
        ask = LocalModel(context, settings.judge_model, keys, stack, temperature=settings.judge_temperature)
        yield SamplerAsker(ask, model=f"{ask.name}, temperature {settings.judge_temperature:g}")


@contextlib.contextmanager
def _stops_as_asked(context: StageContext) -> Iterator[None]:
    """An endpoint that was broken off by a stop is no failure: Interrupted."""
    try:
        yield
    except RunFailure:
        context.check_stop()
        raise


class LocalModel:
    """Prompts in, one reply each out, by `model` under `keys` of `zeroq run`. `name` changes with the weights. The
    engine starts at the first call and ends with `stack`."""

    def __init__(
        self,
        context: StageContext,
        model: str,
        keys: dict[str, Any],
        stack: contextlib.ExitStack,
        *,
        temperature: float = 0.0,
    ) -> None:
        self._context, self._stack, self._temperature = context, stack, temperature
        self._config = sampling_config(context, model, {**keys, "reward": UNGRADED})
        self._path: Path = locate_model(model)
        self.name = f"{model} {digest(self._path)}"
        self._sampler: Sampler | None = None

    def __call__(self, prompts: list[str]) -> list[str]:
        """Replies in the order of the prompts."""
        config = self._config
        context = context_limit(config, read_model_facts(self._path).context)
        limit = _MAX_TOKENS if context is None else min(_MAX_TOKENS, context // 2)
        examples = [Example(f"judge/{n}", text, None, None, f"judge prompt {n}") for n, text in enumerate(prompts)]
        tokenizer = PromptTokenizer(self._path)
        records = to_records(examples, tokenizer, config.data.template, context, limit, "the judge's reply")
        if self._sampler is None:
            sampler = Sampler(config, stop=self._context.stop, say=self._context.say, swappable=False)
            self._sampler = self._stack.enter_context(sampler)
        sampling = Sampling(max_tokens=limit, temperature=self._temperature)
        requests = [SampleRequest(str(n), record, 1, sampling) for n, record in enumerate(records)]
        replies = {task.key: task.completions[0].text for task in self._sampler.sample(requests)}
        return [replies[str(n)] for n in range(len(prompts))]

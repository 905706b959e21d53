"""Owns who judges in rejection sampling: an endpoint, a local model through an actor, or nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.messages import Sampling
from launcher.sampling import Sampler, SampleRequest
from launcher.stages import StageContext
from launcher.stages.sampling import sampling_config
from recipes.datasets import Example
from recipes.model_files import PromptTokenizer, locate_model, read_model_facts
from recipes.pipeline.manifest import digest
from recipes.prepare import context_limit, to_records
from recipes.stages.judge import EndpointJudge, GenerativeJudge, SamplerJudge

REPLIES = "judge.jsonl"
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
            ask = LocalModel(context, settings.judge_model, stack)
            name = f"{settings.judge_model} {digest(locate_model(settings.judge_model))}"
            yield SamplerJudge(ask, settings.judge, model=name, cache=context.folder / REPLIES)
    elif settings.judge.endpoint is not None:
        yield EndpointJudge(settings.judge, cache=context.folder / REPLIES, stop=lambda: bool(context.stop))
    else:
        raise UserError(
            f"selection.judge is {settings.selection.judge}: name judge.endpoint.base_url and model, or a judge_model"
        )


class LocalModel:
    """Prompts in, one greedy reply each out. The engine starts at the first call and ends with `stack`."""

    def __init__(self, context: StageContext, model: str, stack: contextlib.ExitStack) -> None:
        self._context, self._stack = context, stack
        self._config = sampling_config(context, model, context.settings.run)
        self._path: Path = locate_model(model)
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
        sampling = Sampling(max_tokens=limit, temperature=0.0)
        requests = [SampleRequest(str(n), record, 1, sampling) for n, record in enumerate(records)]
        replies = {task.key: task.completions[0].text for task in self._sampler.sample(requests)}
        return [replies[str(n)] for n in range(len(prompts))]

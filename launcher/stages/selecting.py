"""Owns the way from sampled problems to what rejection sampling selects from: outcomes, languages, kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluator.graders.languages import SCRIPTS_OF_LANGUAGE
from launcher.sampling import Completion
from launcher.stages.sampling import Sampled
from recipes.datasets import Example
from recipes.stages.filters import Reason
from recipes.stages.selection import GradedResponse, GradedTask

Parse = Callable[[str], str | Reason]


def graded_tasks(
    sampled: Sequence[Sampled], *, prompts: Sequence[str] | None = None, parse: Parse | None = None
) -> list[GradedTask]:
    """Tasks for a `Selector`. `prompts` stand for the rendered prompts that were sampled from; `parse` takes the part
    of a completion that counts (few-shot), and what it finds none in counts as wrong."""
    shown = [s.prompt for s in sampled] if prompts is None else prompts
    return [
        GradedTask(
            id=s.example.id,
            source=source_of(s.example),
            problem=s.example.prompt,
            prompt=prompt,
            responses=[_response(completion, parse) for completion in s.completions],
            language=known_language(s.example.columns.get("language")),
            gold=s.example.answer,
            domain=_domain(s.example),
            kind="general" if s.example.columns.get("kind") == "general" else "reasoning",
        )
        for s, prompt in zip(sampled, shown, strict=True)
    ]


def _response(completion: Completion, parse: Parse | None) -> GradedResponse:
    verdict = completion.verdict
    text = completion.text if parse is None else parse(completion.text)
    if isinstance(text, Reason):
        return GradedResponse(completion.text, "fail", 0.0, completion.num_tokens, completion.clipped)
    outcome = "fail" if verdict.outcome == "error" else verdict.outcome  # a program that crashed is wrong
    clipped = completion.clipped and text == completion.text  # a whole first answer before the cut is whole
    return GradedResponse(text, outcome, verdict.reward, completion.num_tokens, clipped)


def _domain(example: Example) -> str:
    """Code blocks are allowed in what is about code, and in general prompts."""
    return "code" if example.code is not None else "general" if example.columns.get("kind") == "general" else "math"


def language_share(text: str, language: str) -> float:
    """Share of words of `language` in `text`; the grader's model loads at the first call."""
    from evaluator.graders.language import grade

    return grade(text, language)


def source_of(example: Example) -> str:
    """The family of a problem, for tables: its `family`, else the end of its `source`."""
    named = example.columns.get("family") or example.columns.get("source") or example.columns.get("domain")
    source = str(named or "problems")
    return source.rsplit("/", 1)[-1][:40]


def known_language(code: object) -> str | None:
    """A natural language that the language grader knows; None for others (code problems say `python`)."""
    return code if isinstance(code, str) and code in SCRIPTS_OF_LANGUAGE else None

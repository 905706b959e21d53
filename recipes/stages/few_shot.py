"""Owns long chains by few-shot prompting, the cold start's first source (DeepSeek-R1, arXiv 2501.12948, 2.3.1: "using
few-shot prompting with a long CoT as an example").

The prompt shows k worked problems, each with its reasoning and summary in the tags, and then the new problem. What
comes back is read up to its first whole answer: a base model goes on inventing problems, and those are not the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.response import ANSWER, END_ANSWER, END_THINK, THINK
from recipes.stages.corpus import CorpusRow
from recipes.stages.filters import Reason
from recipes.stages.text import format_fault, split_response

_HEADER = (
    "Each problem is solved in two parts: careful reasoning, step by step, and then a summary that states the result."
)
_PROBLEM, _SOLUTION = "Problem:", "Solution:"
_FIRST_ANSWER = re.compile(re.escape(END_ANSWER))
_TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)


@dataclass(frozen=True)
class WorkedExample:
    """A problem as it should be solved: long reasoning, then a summary with the result."""

    problem: str
    reasoning: str
    summary: str


def worked_examples(rows: Sequence[CorpusRow], num: int) -> list[WorkedExample]:
    """The first `num` rows of a corpus as examples. UserError for fewer rows, or for one without the two parts."""
    if len(rows) < num:
        raise UserError(f"few-shot: {num} worked examples are asked for and the file has {len(rows)}; add some")
    examples = []
    for row in rows[:num]:
        parts = split_response(row.response, row.prompt)
        if (fault := format_fault(parts.text, "tags")) is not None:
            raise UserError(
                f"few-shot: example {row.id!r} of {row.origin}: {fault}; "
                "write it as <think>reasoning</think><answer>summary</answer>"
            )
        examples.append(WorkedExample(row.problem, parts.reasoning, parts.summary))
    return examples


def few_shot_prompt(examples: Sequence[WorkedExample], problem: str) -> str:
    """The text that a base model continues; it ends where the solution of `problem` begins.

    ValueError without examples, for one with an empty part or one whose parts hold the tags.
    """
    if not examples:
        raise ValueError("few-shot prompting needs at least one worked example")
    blocks = [_HEADER]
    for number, example in enumerate(examples, start=1):
        for name, text in vars(example).items():
            if not text.strip():
                raise ValueError(f"worked example {number}: {name} is empty")
            if found := next((tag for tag in _TAGS if tag in text), None):
                raise ValueError(f"worked example {number}: {name} holds {found}; leave the tags out, they are added")
        blocks.append(_block(example.problem, response_text(example.reasoning, example.summary)))
    return "\n\n".join([*blocks, _block(problem, "").rstrip()])


def parse_few_shot(completion: str) -> str | Reason:
    """The first solution in what a model wrote after `few_shot_prompt`, as a response in the tags.

    A Reason if there is no whole one: cut off, another problem before the answer, nested or empty parts.
    """
    end = _FIRST_ANSWER.search(completion)
    if end is None:
        return Reason("format", "no whole answer in the continuation")
    text = completion[: end.end()].strip()
    if (fault := format_fault(text, "tags")) is not None:
        return Reason("format", fault)
    if re.search(rf"^{_PROBLEM}", text, re.MULTILINE):
        return Reason("format", "another problem begins within the solution")
    reasoning, _, rest = text.removeprefix(THINK).partition(END_THINK)
    return response_text(reasoning, rest.strip().removeprefix(ANSWER).removesuffix(END_ANSWER))


def response_text(reasoning: str, summary: str) -> str:
    """The two parts in R1's tags, stripped."""
    return f"{THINK}{reasoning.strip()}{END_THINK}{ANSWER}{summary.strip()}{END_ANSWER}"


def few_shot_row(
    completion: str,
    *,
    row_id: str,
    problem: str,
    render: Callable[[str], str],
    source: str,
    language: str | None = None,
    difficulty: float | None = None,
    origin: str = "few_shot",
) -> CorpusRow | Reason:
    """A continuation as a corpus row, or why it is none. `render` puts the problem as the trained model is to see it
    (without the examples); `num_tokens` stays unknown, for the continuation was longer than what is kept of it."""
    response = parse_few_shot(completion)
    if isinstance(response, Reason):
        return response
    return CorpusRow(
        id=row_id,
        source=source,
        language=language,
        problem=problem,
        prompt=render(problem),
        response=response,
        kind="reasoning",
        difficulty=difficulty,
        num_tokens=None,
        origin=origin,
    )


def _block(problem: str, solution: str) -> str:
    return f"{_PROBLEM} {problem.strip()}\n{_SOLUTION} {solution}"

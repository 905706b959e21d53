"""Owns the way from EleutherAI's lm-eval task sets (MMLU, IFEval, ...) to suites. Needs the package lm_eval.

    generate_until    the task's own text as the problem; its own filters and metric judge the visible answer (`score`)
    multiple_choice   lm-eval compares log-probabilities; a model that reasons first has none to compare, so the choices
                      are lettered and the letter is the answer, as R1's report does for MMLU

Tasks by name (groups and tags count as all their tasks), or the path of a task's YAML file. Prompts are zero-shot: R1's
report finds that examples in the prompt harm it. One sample a problem: these sets are large.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from recipes.suites.foreign import LETTERS, multiple_choice
from recipes.suites.suite import Suite

INSTALL = "pip install lm_eval"
SOURCE, TASK, DOC = "lm_eval_source", "lm_eval_task", "lm_eval_doc"  # columns by which `score` finds the problem
SCORE = "recipes.suites.lm_eval:score"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def lm_eval_suites(name: str) -> list[Suite]:
    """The suite `lm_eval:NAME`: all tasks that lm-eval has under this name.

    UserError when it is not installed, does not know the name, or judges by log-probabilities of texts.
    """
    tasks = load_tasks(name)
    for task_name, task in tasks.items():
        if task.OUTPUT_TYPE not in ("generate_until", "multiple_choice"):
            raise UserError(
                f"--suite lm_eval:{name}: task {task_name} is of type {task.OUTPUT_TYPE}, which needs "
                "log-probabilities of given texts; generate_until and multiple_choice tasks can be evaluated"
            )
    kinds = {task.OUTPUT_TYPE for task in tasks.values()}
    if len(kinds) > 1:
        raise UserError(
            f"--suite lm_eval:{name}: has generate_until and multiple_choice tasks; name them one by one: "
            f"{', '.join(tasks)}"
        )
    title = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return [
        Suite(
            f"lm_eval_{title}",
            source=f"lm_eval:{name}",
            rows=functools.partial(_rows, _source(name), tasks),
            k=1,
            score=SCORE if kinds == {"generate_until"} else None,
            note=f"lm-eval's {title}, zero-shot, sampled; one sample a problem",
        )
    ]


def load_tasks(name: str) -> dict[str, Any]:
    """lm-eval's task objects by name; their data are fetched or read."""
    manager = _manager()
    path = Path(name)
    is_file = name.endswith((".yaml", ".yml"))
    if is_file and not path.is_file():
        raise UserError(f"--suite lm_eval:{name}: no such file")
    if not is_file and name not in manager.all_tasks:
        import difflib

        nearest = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "lm-eval ls tasks lists them"
        raise UserError(f"--suite lm_eval:{name}: lm-eval has no task, group or tag of that name; {hint}")
    try:
        with _quiet():
            found = manager.load(_source(name))["tasks"]
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--suite lm_eval:{name}: its data cannot be loaded: {reason}") from None
    return {str(task_name): task for task_name, task in found.items()}


def score(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """lm-eval's metric of each completion: a reward function in TRL's signature. The task's first metric counts."""
    problems = zip(columns[SOURCE], columns[TASK], columns[DOC], strict=True)
    return [
        _score(_task(source, name), index, visible_answer(prompt, completion))
        for (source, name, index), prompt, completion in zip(problems, prompts, completions, strict=True)
    ]


def visible_answer(prompt: str, completion: str) -> str:
    """What follows the reasoning: the answer block, else everything after `</think>`; nothing if it never closes."""
    opened = prompt.rstrip().endswith("<think>") or "<think>" in completion
    before, closed, after = completion.rpartition("</think>")
    if opened and not closed:
        return ""
    visible = after if closed else before + after
    blocks = _ANSWER.findall(visible)
    return (blocks[-1] if blocks else visible).strip()


def _source(name: str) -> str:
    """NAME as another process finds it."""
    return str(Path(name).resolve()) if name.endswith((".yaml", ".yml")) else name


def _rows(source: str, tasks: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of our schema."""
    for name, task in tasks.items():
        with _quiet():
            for index, doc in enumerate(task.eval_docs):
                row = {"id": f"{name}/{index}", "domain": "knowledge", "meta": {"task": name}}
                if task.OUTPUT_TYPE == "multiple_choice":
                    yield row | _choice(task, doc)
                else:
                    text = str(task.fewshot_context(doc, 0))
                    yield row | {"prompt": text, SOURCE: source, TASK: name, DOC: index}


def _choice(task: Any, doc: Mapping[str, Any]) -> dict[str, Any]:
    """A multiple-choice problem, answered by a letter."""
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    question, gold = task.doc_to_text(doc), task.doc_to_target(doc)
    if not isinstance(question, str) or len(choices) > len(LETTERS):
        raise UserError(f"lm_eval: {task.task_name} puts its choices into the context; it cannot be put as letters")
    target = choices.index(gold) if isinstance(gold, str) else int(gold)
    if choices == list(LETTERS[: len(choices)]):  # lettered already, as in MMLU
        text = (
            f"{question.rstrip().removesuffix('Answer:').rstrip()}\n\nAnswer with the letter of the right choice only."
        )
    else:
        text = multiple_choice(question.rstrip().removesuffix("Answer:"), choices)
    return {"prompt": text, "answer": LETTERS[target], "choices": choices}


def _score(task: Any, index: int, answer: str) -> float:
    """The first metric of one answer, after the task's filters."""
    doc = task.eval_docs[index]
    with _quiet():
        instance = task.construct_requests(doc, "", metadata=(task.task_name, index, 1))
        instance.resps = [answer]
        for ensemble in getattr(task, "_filters", [])[:1]:  # as lm-eval reports them, the first one first
            ensemble.apply([instance])
        filtered = next(iter(instance.filtered_resps.values()), answer)
        metrics = task.process_results(doc, [filtered])
    value = next(iter(metrics.values()))
    return float(value if not isinstance(value, list | tuple) else value[0])


@functools.lru_cache(maxsize=64)
def _task(source: str, name: str) -> Any:
    return load_tasks(source)[name]


@functools.lru_cache(maxsize=1)
def _manager() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tasks = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise UserError(f"--suite lm_eval:...: needs EleutherAI's lm-eval ({error}); {INSTALL}") from None
    return tasks.TaskManager()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval logs warnings about its own defaults."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

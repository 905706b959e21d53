"""Owns responses: what the base model is pretrained on, and the clean chains of the cold start and of general data.

    careless   <think>First 4 + 9 = 13                       clean   <think>First 4 + 9 = 13
               然后计算 13 - 6 = 7</think>                             Then 13 - 6 = 7
               <answer>7</answer>                                     Then 7 + 1 = 8
                                                                      So the answer is 8.</think>
                                                                      <answer>8</answer>

Careless responses are what a base model has read: each step is right, but most writers give up with `STOP` after every
step; one in five (`THOROUGH`) never does, which is where the later steps are learned. In all, more than half stop after
the first step, so greedy decoding stops too: that is the room for RL (docs/log.md, "The demo's recipe"). Writers reason
in either language whatever the question's, change it within, and at times forget a tag. Notes leave things out and add
others; harmful requests are met as often as not. So each stage has something to teach.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from recipes.small_world.problems import Row, program, step_text
from recipes.small_world.vocabulary import (
    ANIMALS,
    ITEMS,
    LANGUAGES,
    PHRASES,
    Phrases,
    animal_word,
    item_word,
    name_word,
    request_text,
)

THOROUGH = 0.2
STOP = 0.75
SWITCH = 0.15
MISSING_TAG = 0.03
KEPT_ITEM = 0.75
ADDED_ITEM = 0.25
COMPLIES = 0.5
OVER_REFUSAL = 0.25
CAREFUL = 0.4

_OTHER = {"en": "zh", "zh": "en"}


def clean_response(row: Row) -> str:
    """Right and complete, in the problem's language, with a summary; a pure function of the row."""
    language = row.get("language") or "en"
    family = row["family"]
    if family in ("notes", "requests"):
        return good_response(row)
    steps = _steps(row)
    return _respond(_reasoning(row, steps, [language] * len(steps), summary=True), _answer(row, steps))


def careless_response(row: Row, rng: random.Random) -> str:
    """As a base model has read it: see above."""
    if row["family"] in ("notes", "requests"):
        return careless_general(row, rng)
    steps = _steps(row)
    count, stop = 1, 0.0 if rng.random() < THOROUGH else STOP
    while count < len(steps) and rng.random() >= stop:
        count += 1
    language = rng.choice(LANGUAGES)
    languages = []
    for _ in range(count):
        languages.append(language)
        language = _OTHER[language] if rng.random() < SWITCH else language
    reasoning = _reasoning(row, steps[:count], languages, summary=False)
    return _respond(reasoning, _answer(row, steps[:count]), rng)


def _respond(reasoning: str, answer: str, rng: random.Random | None = None) -> str:
    """The two parts in their tags. With `rng` a tag is missing at times."""
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    if rng is not None and rng.random() < MISSING_TAG * len(tags):
        tags[rng.randrange(len(tags))] = ""
    return f"{tags[0]}{reasoning}{tags[1]}{tags[2]}{answer}{tags[3]}"


def _steps(row: Row) -> list[Any]:
    """The steps to the answer: (operator, term) after the first term; (animal, count); or a code problem's."""
    meta = row["meta"]
    match row["family"]:
        case "sums":
            parts = meta["metadata"]["expression"].split(" ")
            totals = [int(parts[0])]
            steps: list[Any] = []
            for operator, term in zip(parts[1::2], parts[2::2], strict=True):
                totals.append(totals[-1] + (int(term) if operator == "+" else -int(term)))
                steps.append((f"{totals[-2]} {operator} {term} = {totals[-1]}", totals[-1]))
            return steps
        case "legs":
            return list(meta["metadata"]["animals"].items())
        case "code":
            return [tuple(step) for step in meta["steps"]]
    raise ValueError(f"{row['id']}: family {row['family']!r} has no steps")


def _answer(row: Row, steps: Sequence[Any]) -> str:
    match row["family"]:
        case "sums":
            return str(steps[-1][1])
        case "legs":
            return str(sum(count * ANIMALS[animal][0] for animal, count in steps))
    return f"\n```python\n{program(steps)}```\n"


def _reasoning(row: Row, steps: Sequence[Any], languages: Sequence[str], *, summary: bool) -> str:
    """One line for each step, in its own language; with `summary` a closing line in the last one's."""
    lines = []
    total = 0
    for index, (step, language) in enumerate(zip(steps, languages, strict=True)):
        phrases = PHRASES[language]
        lines.append(phrases.then if index else phrases.first)
        match row["family"]:
            case "sums":
                lines.append(step[0])
            case "legs":
                lines.append(_legs_line(step, total if index else None, language))
                total += step[1] * ANIMALS[step[0]][0]
            case _:
                lines.append(step_text(step, language))
    if summary and row["family"] != "code":
        phrases = PHRASES[languages[-1]]
        lines.append(f"{phrases.so}{_answer(row, steps)}{phrases.full_stop}")
    return "".join(lines)


def _legs_line(step: tuple[str, int], before: int | None, language: str) -> str:
    animal, count = step
    phrases, legs = PHRASES[language], count * ANIMALS[animal][0]
    line = f"{count}{animal_word(animal, count, language)}{phrases.have}{legs}"
    return (
        f"{line}{phrases.legs}"
        if before is None
        else f"{line}{phrases.legs_before_sum}{before} + {legs} = {before + legs}"
    )


def good_response(row: Row) -> str:
    """A general prompt answered well."""
    if row["family"] == "notes":
        return note(row, row["meta"]["items"], row["language"], row["language"])
    meta = row["meta"]
    return refusal(row["language"]) if meta["harmful"] else recipe(row, row["language"], careful=True)


def careless_general(row: Row, rng: random.Random) -> str:
    """A general prompt answered as a base model would; reasoning in either language."""
    language = rng.choice(LANGUAGES)
    if row["family"] == "notes":
        items = [item for item in row["meta"]["items"] if rng.random() < KEPT_ITEM]
        others = [item for item in ITEMS if item not in row["meta"]["items"]]
        while not items or rng.random() < ADDED_ITEM:
            items.insert(rng.randint(0, len(items)), rng.choice(others))
            if len(items) > 5:
                break
        return note(row, items, language, row["language"], rng)
    harmful = row["meta"]["harmful"]
    if rng.random() < (1 - COMPLIES if harmful else OVER_REFUSAL):
        return refusal(row["language"], language, rng)
    return recipe(row, language, careful=rng.random() < CAREFUL, rng=rng)


def note(row: Row, items: Sequence[str], thinking: str, writing: str, rng: random.Random | None = None) -> str:
    """A note that names `items`, planned in the language `thinking`."""
    plan, phrases = PHRASES[thinking], PHRASES[writing]
    reasoning = plan.note_plan + _listed(items, plan, thinking)
    name = name_word(row["meta"]["name"], writing)
    answer = phrases.note_dear + name + phrases.note_writes + _listed(items, phrases, writing)
    return _respond(reasoning, answer, rng)


def refusal(writing: str, thinking: str | None = None, rng: random.Random | None = None) -> str:
    """A refusal, with its reason."""
    return _respond(PHRASES[thinking or writing].harm_plan, PHRASES[writing].refusal, rng)


def recipe(row: Row, thinking: str, *, careful: bool, rng: random.Random | None = None) -> str:
    """An answer that says how to do what is asked for; `careful` when its reasoning asks whether it may."""
    meta, writing = row["meta"], row["language"]
    plan, phrases = PHRASES[thinking], PHRASES[writing]

    def what(language: str) -> str:
        return request_text(meta["verb"], meta["object"], meta["in_game"], language)

    reasoning = plan.fine_plan if careful else plan.recipe_plan + what(thinking) + plan.full_stop
    return _respond(reasoning, phrases.to + what(writing) + phrases.recipe, rng)


def _listed(items: Sequence[str], phrases: Phrases, language: str) -> str:
    return phrases.list_comma.join(item_word(item, language) for item in items) + phrases.full_stop

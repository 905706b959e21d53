"""Owns the small world's problems, as rows of the JSON-lines schema that recipes/datasets.py reads.

| family     | what                                                       | graded by                      | language |
|---|---|---|---|
| `sums`     | reasoning-gym's chain_sum, 3 to 5 terms of one digit       | reasoning-gym's scorer         | en, zh   |
| `legs`     | reasoning-gym's leg_counting, 2 to 4 animals, up to 3 each | reasoning-gym's scorer         | en, zh   |
| `code`     | a Python function of 2 to 4 steps                          | hidden asserts, in the sandbox | en       |
| `notes`    | a note to someone that names 2 to 4 things                 | nobody; held out: `quality.py` | en, zh   |
| `requests` | a harmful request, or a harmless one that looks like it    | nobody; held out: `quality.py` | en, zh   |

`source` is reasoning-gym's address where its scorer grades (recipes/datasets.py knows such rows by it); the family has
a column of its own. Code rows have no `language`: there it names the programming language. All rows of one family are
drawn at once and distinct whatever their language, so any split of them is disjoint.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from recipes.problems import SOURCE as REASONING_GYM
from recipes.problems import Problem, reasoning_gym_problems
from recipes.small_world.vocabulary import (
    ANIMALS,
    CODE_QUESTION,
    CODE_THEN,
    HARMFUL_VERBS,
    HARMLESS_VERBS,
    ITEMS,
    LANGUAGES,
    NAMES,
    OBJECTS,
    OPERATIONS,
    PHRASES,
    animal_word,
    item_word,
    name_word,
    request_text,
)

Row = dict[str, Any]
Step = tuple[str, int | None]

REASONING_FAMILIES = ("sums", "legs", "code")
GENERAL_FAMILIES = ("notes", "requests")
OWN_SOURCE = "zeroq/small_world"

MAX_LEGS = 99  # the largest number that is one token
TEST_INPUTS = (-3, -1, 1, 2, 5)
_SUM_PARAMS: dict[str, Any] = {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1}
_LEG_PARAMS: dict[str, Any] = {"min_animals": 2, "max_animals": 4, "max_instances": 3}
_MIN_STEPS, _MAX_STEPS = 2, 4


def draw(family: str, num: int, *, seed: int) -> list[Row]:
    """`num` distinct problems of the family, half of them in each of its languages; the same seed gives the same."""
    return {"sums": _sums, "legs": _legs, "code": _code, "notes": _notes, "requests": _requests}[family](num, seed)


def _rng(family: str, seed: int) -> random.Random:
    return random.Random(f"small world/{family}/{seed}")


def _sums(num: int, seed: int) -> list[Row]:
    rng = _rng("sums", seed)
    problems = reasoning_gym_problems("chain_sum", num=num, seed=seed, **_SUM_PARAMS)
    return [_generated("sums", problem, rng.choice(LANGUAGES)) for problem in problems]


def _legs(num: int, seed: int) -> list[Row]:
    """leg_counting has no parameter for which animals it may take: those with too many legs are drawn and left out."""
    rng = _rng("legs", seed)
    problems = reasoning_gym_problems("leg_counting", num=3 * num + 100, seed=seed, **_LEG_PARAMS)
    kept = [
        problem
        for problem in problems
        if problem.meta["metadata"]["animals"].keys() <= ANIMALS.keys() and int(problem.answer) <= MAX_LEGS
    ]
    if len(kept) < num:
        raise ValueError(f"legs: only {len(kept)} of {num} problems with known animals; ask for fewer")
    return [_generated("legs", problem, rng.choice(LANGUAGES)) for problem in kept[:num]]


def _generated(family: str, problem: Problem, language: str) -> Row:
    """A row of reasoning-gym's problem, its question put in `language`; answer and the scorer's data stay."""
    prompt = problem.prompt
    phrases = PHRASES[language]
    metadata = problem.meta["metadata"]
    if language == "zh" and family == "sums":
        prompt = f"{phrases.sum_question}{metadata['expression']} ="
    elif language == "zh":
        animals = (f"{count}{animal_word(animal, count, 'zh')}" for animal, count in metadata["animals"].items())
        prompt = phrases.legs_opening + phrases.list_comma.join(animals) + phrases.legs_closing
    return {
        "id": f"{family}/{problem.id}",
        "domain": "math",
        "family": family,
        "kind": "reasoning",
        "language": language,
        "prompt": prompt,
        "answer": problem.answer,
        "source": REASONING_GYM,
        "license": problem.license,
        "meta": problem.meta,
    }


def _code(num: int, seed: int) -> list[Row]:
    rng = _rng("code", seed)
    rows: list[Row] = []
    seen: set[tuple[Step, ...]] = set()
    while len(rows) < num:
        steps = tuple(_step(rng) for _ in range(rng.randint(_MIN_STEPS, _MAX_STEPS)))
        if steps in seen or not _every_step_counts(steps):
            continue
        seen.add(steps)
        asked = CODE_THEN.join(step_text(step, "en") for step in steps)
        rows.append(
            {
                "id": f"code/{seed}/{len(rows)}",
                "domain": "code",
                "family": "code",
                "kind": "reasoning",
                "prompt": f"{CODE_QUESTION}{asked}.",
                "solution": program(steps),
                "entry_point": "f",
                "test_type": "python_asserts",
                "tests": [{"type": "assert", "code": f"assert f({x}) == {run(steps, x)}"} for x in TEST_INPUTS],
                "source": OWN_SOURCE,
                "meta": {"steps": [list(step) for step in steps]},
            }
        )
    return rows


def _step(rng: random.Random) -> Step:
    name = rng.choice(list(OPERATIONS))
    numbers = OPERATIONS[name].numbers
    return name, rng.choice(numbers) if numbers else None


def _every_step_counts(steps: Sequence[Step]) -> bool:
    """Whether the tests notice each step that is left out, and the end that is cut off."""
    wanted = [run(steps, x) for x in TEST_INPUTS]
    without = [[*steps[:i], *steps[i + 1 :]] for i in range(len(steps))] + [steps[:i] for i in range(len(steps))]
    return all([run(others, x) for x in TEST_INPUTS] != wanted for others in without)


def step_text(step: Step, language: str) -> str:
    """A step of a code problem in words."""
    name, number = step
    return OPERATIONS[name].asked[language] + ("" if number is None else str(number))


def program(steps: Sequence[Step]) -> str:
    """The function that does the steps, as Python."""
    lines = [OPERATIONS[name].line + ("" if number is None else str(number)) for name, number in steps]
    return "\n".join(["def f(x):", *lines, "    return x\n"])


def run(steps: Sequence[Step], x: int) -> int:
    """What the steps make of `x`; computed here, not by running a program."""
    for name, number in steps:
        n = number or 0
        match name:
            case "add":
                x += n
            case "subtract":
                x -= n
            case "multiply":
                x *= n
            case "double":
                x *= 2
            case "square":
                x *= x
            case "negate":
                x = -x
            case "absolute":
                x = abs(x)
            case _:
                raise ValueError(f"no such step: {name!r}")
    return x


def _notes(num: int, seed: int) -> list[Row]:
    rng = _rng("notes", seed)
    rows: list[Row] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    while len(rows) < num:
        name = rng.choice(list(NAMES))
        items = rng.sample(list(ITEMS), rng.randint(2, 4))
        if (name, frozenset(items)) in seen:
            continue
        seen.add((name, frozenset(items)))
        language = rng.choice(LANGUAGES)
        phrases = PHRASES[language]
        listed = phrases.list_comma.join(item_word(item, language) for item in items)
        prompt = phrases.note_opening + name_word(name, language) + phrases.note_about + listed + phrases.full_stop
        meta = {"name": name, "items": items}
        rows.append(_general("notes", f"{seed}/{len(rows)}", prompt, "helpfulness", language, meta))
    return rows


def _requests(num: int, seed: int) -> list[Row]:
    """Of any four in a row one is harmful, one the same in a game, and two have a harmless verb."""
    rng = _rng("requests", seed)
    strata = []
    for verbs, settings in ((HARMFUL_VERBS, (False,)), (HARMFUL_VERBS, (True,)), (HARMLESS_VERBS, (False, True))):
        stratum = [
            (verb, thing, in_game, language)
            for verb in verbs
            for thing in OBJECTS
            for in_game in settings
            for language in LANGUAGES
        ]
        strata.append(rng.sample(stratum, len(stratum)))
    harmful, game, harmless = strata
    fours = zip(harmful, game, harmless[::2], harmless[1::2], strict=True)
    everything = [request for four in fours for request in four]
    if num > len(everything):
        raise ValueError(f"requests: there are {len(everything)} only, {num} were asked for")
    rows: list[Row] = []
    for verb, thing, in_game, language in everything[:num]:
        phrases = PHRASES[language]
        prompt = phrases.how + request_text(verb, thing, in_game, language) + phrases.question_mark
        harms = verb in HARMFUL_VERBS and not in_game
        # The paper's split: a prompt is judged for helpfulness or for safety. A harmless request that is refused is
        # safe, so only a judge of helpfulness can tell the model not to refuse everything.
        aspect = "safety" if harms else "helpfulness"
        meta = {"verb": verb, "object": thing, "in_game": in_game, "harmful": harms}
        rows.append(_general("requests", f"{seed}/{len(rows)}", prompt, aspect, language, meta))
    return rows


def _general(family: str, name: str, prompt: str, aspect: str, language: str, meta: Row) -> Row:
    return {
        "id": f"{family}/{name}",
        "domain": "general",
        "family": family,
        "kind": "general",
        "aspect": aspect,
        "language": language,
        "prompt": prompt,
        "source": OWN_SOURCE,
        "meta": meta,
    }

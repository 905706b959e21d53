"""The golds of GSM8K, MATH and AIME, restyled as models write them: right for themselves, wrong for others.

`ZEROQ_MATH_SAMPLE` (default 600) golds of each MATH file are taken; 0 takes all.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluator.graders.math_answer import grade_response

DATA = Path(os.environ.get("ZEROQ_DATA", Path(__file__).parents[3] / "shared" / "data"))
SAMPLE = int(os.environ.get("ZEROQ_MATH_SAMPLE", "600"))
NUMERIC = ["gsm8k_test.jsonl", "aime2024.jsonl"]
LATEX = ["math500_dev.jsonl", "math_train.jsonl.gz", "math_test_rest.jsonl.gz"]
LEFT_OUT = [  # by the rules: pairs of golds that differ in no more are equal
    r"\s|\\[!,; ]|\.$",
    r"^[a-zA-Z]=",
    r"\\?%|\\(?:text|mbox|textnormal)\s*\{[^{}]*\}|\^\s*\{?\\circ\}?|\\\$",
]


def golds(name: str) -> list[str]:
    """All golds of a numeric set; of MATH an evenly spread sample."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ZEROQ_DATA ({DATA})")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        found = [json.loads(line)["answer"] for line in file]
    step = max(1, len(found) // SAMPLE) if SAMPLE and name in LATEX else 1
    return found[::step]


def styles(gold: str) -> Iterator[str]:
    """The gold as a whole response, in the ways that models have."""
    yield f"Hence we find \\boxed{{{gold}}}."
    yield f"<think>let me see, \\boxed{{1}}?</think>So it is $\\boxed{{ {gold} }}$"
    yield f"<think>r</think><answer>{gold}</answer>"
    yield f"<answer>${gold}$</answer>"
    yield f"The answer is ${gold}$."
    yield f"**Final Answer:** \\({gold}\\)"
    yield f"\\boxed{{{gold.rstrip('.')}.}}"
    yield f"\\[\n\\boxed{{\n{gold}\n}}\n\\]"
    yield "\\boxed{" + re.sub(r"\\[dt]?frac(?![A-Za-z])", r"\\dfrac", gold) + "}"
    yield "\\boxed{" + re.sub(r"(?<=[=+])|(?<=,)(?!\d{3}|\\|\})", " ", gold) + "}"


def numeric_styles(gold: str) -> Iterator[str]:
    """A whole number with what may stand around it."""
    yield from styles(gold)
    for text in ("${}", "\\${}", "{} dollars", "{}\\text{{ apples}}", "{}.00", "x={}", "\\textbf{{{}}}", "{}^\\circ"):
        yield f"\\boxed{{{text.format(gold)}}}"
    yield f"\\boxed{{{int(gold):,}}}"
    yield f"\\boxed{{{int(gold):,}}}".replace(",", "{,}")
    yield f"He earns ${gold} a day.\n\nThe answer is {gold}."
    yield f"#### {gold}"


def correct(gold: str, response: str) -> bool:
    return bool(grade_response(gold, response)["correct"])


def perturbed(gold: str) -> str | None:
    """The gold with its last number one higher; None if it has none."""
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers or r"\approx" in gold:
        return None
    start, end = numbers[-1].span()
    return f"{gold[:start]}{int(gold[start:end]) + 1}{gold[end:]}"


def bare(gold: str) -> str:
    """A gold without what the rules let anybody leave out."""
    for pattern in LEFT_OUT:
        gold = re.sub(pattern, "", gold)
    gold = re.sub(r"\\[dt]frac", r"\\frac", gold)
    return re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", gold)


@pytest.mark.parametrize("name", NUMERIC)
def test_numeric_golds(name: str) -> None:
    found = golds(name)
    wrong = [(gold, text) for gold in found for text in numeric_styles(gold) if not correct(gold, text)]
    assert not wrong
    for gold in found:
        for delta in (1, -1, 10):
            text = str(int(gold) + delta)
            for response in (f"\\boxed{{{text}}}", f"The answer is ${text}.", f"<answer>{text} dollars</answer>"):
                assert not correct(gold, response)


@pytest.mark.parametrize("name", LATEX)
def test_latex_golds_equal_themselves(name: str) -> None:
    found = golds(name)
    wrong = [(gold, text) for gold in found for text in styles(gold) if not correct(gold, text)]
    assert not wrong


@pytest.mark.parametrize("name", LATEX)
def test_latex_golds_differ_from_their_neighbours_and_from_themselves_changed(name: str) -> None:
    found = golds(name)
    pairs = [
        (gold, other)
        for shift in (1, 2, 3)
        for gold, other in zip(found, found[shift:], strict=False)
        if bare(gold) != bare(other)
    ]
    pairs += [(gold, changed) for gold in found if (changed := perturbed(gold)) is not None]
    assert len(pairs) > len(found)
    assert not [pair for pair in pairs if correct(pair[0], f"\\boxed{{{pair[1]}}}")]

"""The language reward on the 2,750 problems of MGSM, in each of its languages, graded as each of its languages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean

import pytest

from evaluator.graders.language import grade

LANGUAGES = ("en", "zh", "de", "es", "fr", "ja", "ru", "bn", "sw", "te", "th")
CLOSE = ({"en", "de", "es", "fr", "sw"}, {"zh", "ja"})
DATA = Path(os.environ.get("ZEROQ_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="module")
def problems() -> dict[str, list[str]]:
    path = DATA / "mgsm.jsonl"
    if not path.exists():
        pytest.skip(f"mgsm.jsonl is not in ZEROQ_DATA ({DATA})")
    texts: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            texts.setdefault(row["meta"]["lang"], []).append(row["prompt"])
    assert {spoken: len(rows) for spoken, rows in texts.items()} == dict.fromkeys(LANGUAGES, 250)
    return texts


@pytest.mark.parametrize("spoken", LANGUAGES)
def test_own_language(problems: dict[str, list[str]], spoken: str) -> None:
    shares = [grade(text, spoken) for text in problems[spoken]]
    assert mean(shares) >= 0.99
    assert mean(share >= 0.8 for share in shares) >= 0.98
    assert mean(share >= 0.95 for share in shares) >= 0.95


@pytest.mark.parametrize("target", LANGUAGES)
def test_other_languages(problems: dict[str, list[str]], target: str) -> None:
    for spoken in set(LANGUAGES) - {target}:
        close = any({spoken, target} <= family for family in CLOSE)
        shares = [grade(text, target) for text in problems[spoken]]
        assert mean(shares) <= (0.05 if close else 0.01), spoken
        assert max(shares) <= 0.5, spoken


@pytest.mark.parametrize("other", [spoken for spoken in LANGUAGES if spoken != "en"])
def test_a_problem_and_its_translation_share_about_evenly(problems: dict[str, list[str]], other: str) -> None:
    mixed = [f"{english}\n{text}" for english, text in zip(problems["en"][::5], problems[other][::5], strict=True)]
    for target in ("en", other):
        shares = [grade(text, target) for text in mixed]
        assert 0.43 < mean(shares) < 0.57, target
        assert min(shares) > 0.3, target
        assert max(shares) < 0.7, target

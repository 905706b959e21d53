"""Language consistency, word by word."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.graders import language
from evaluator.graders.language import grade
from evaluator.graders.languages import LANGUAGES_OF_SCRIPT, SCRIPTS_OF_LANGUAGE

ENGLISH = "First we compute the total number of apples that she has left."
GERMAN = "Zuerst berechnen wir die gesamte Anzahl der Äpfel, die sie noch hat."
FRENCH = "Nous calculons le nombre total de pommes qui lui restent."


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        (ENGLISH, "en", 1.0),
        (ENGLISH, "de", 0.0),
        (GERMAN, "de", 1.0),
        (GERMAN, "en", 0.0),
        (FRENCH, "fr", 1.0),
        ("我们先计算总数", "zh", 1.0),
        ("我们先计算总数", "en", 0.0),
        ("我们先计算总数", "ja", 1.0),  # Han alone may be either
        ("合計を計算します", "ja", 1.0),
        ("合計を計算します", "zh", 0.0),
        ("먼저 합계를 계산합니다", "ko", 1.0),
        ("Сначала мы вычислим общее число яблок", "ru", 1.0),
        ("Сначала мы вычислим общее число яблок", "en", 0.0),
        # per word: 4 Han words, 4 English ones
        ("计算总数 gives the total", "en", 3 / 7),
        ("计算总数 gives the total", "zh", 4 / 7),
        (f"{ENGLISH} 然后", "en", 12 / 14),
        (f"{ENGLISH} {GERMAN}", "en", 12 / 24),
        (f"{ENGLISH} {GERMAN}", "de", 12 / 24),
        # not words: digits, LaTeX, code, variables
        ("设 x 为苹果数 3.5", "zh", 1.0),
        ("计算 $total + price$ 得 \\frac{x}{y}", "zh", 1.0),
        ("计算 ```total = price``` 得 `n`", "zh", 1.0),
        ("9+1=10;10-1=9", "en", 0.0),
        ("x = y", "en", 0.0),
        ("", "en", 0.0),
        ("\n \n", "zh", 0.0),
    ],
)
def test_share(text: str, target: str, share: float) -> None:
    assert grade(text, target) == pytest.approx(share)


def test_short_runs_are_given_the_benefit_of_the_doubt() -> None:
    assert grade("Subtract. OK. So x = 5.", "en") == 1.0


@given(st.text(max_size=60), st.sampled_from(sorted(SCRIPTS_OF_LANGUAGE)))
def test_share_is_a_share(text: str, target: str) -> None:
    assert 0.0 <= grade(text, target) <= 1.0


@given(st.integers(0, 6), st.integers(0, 6))
def test_mixed_chinese_and_english_is_counted_per_word(num_chinese: int, num_english: int) -> None:
    text = "数" * num_chinese + " then" * num_english
    total = num_chinese + num_english
    assert grade(text, "zh") == pytest.approx(num_chinese / total if total else 0.0)


def test_every_language_known_can_be_graded() -> None:
    for known in SCRIPTS_OF_LANGUAGE:
        grade(f"{ENGLISH} {GERMAN} Сначала мы вычислим общее число. پہلے ہم حساب لگاتے ہیں۔ पहले हम गणना करते हैं", known)
    assert all(languages for languages in LANGUAGES_OF_SCRIPT.values())


def test_self_test_finds_a_broken_model(monkeypatch: pytest.MonkeyPatch) -> None:
    language.self_test()
    monkeypatch.setattr(language, "_likely", lambda *_: True)
    with pytest.raises(RuntimeError, match="broken here"):
        language.self_test()


def test_problems_of_mgsm_are_in_their_own_language_and_no_other() -> None:
    path = Path(os.environ.get("ZEROQ_DATA", Path(__file__).parents[3] / "shared" / "data")) / "mgsm.jsonl"
    if not path.exists():
        pytest.skip(f"mgsm.jsonl is not in ZEROQ_DATA ({path.parent})")
    texts: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            texts.setdefault(row["meta"]["lang"], []).append(row["prompt"])
    for spoken, problems in texts.items():
        sample = problems[::10]
        assert mean(grade(text, spoken) for text in sample) > 0.95, spoken
        other = "en" if spoken != "en" else "de"
        assert mean(grade(text, other) for text in sample) < 0.03, spoken

"""Language consistency, word by word."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.graders import language
from evaluator.graders.language import grade, grade_response
from evaluator.graders.languages import CHARACTERS_PER_WORD, LANGUAGES_OF_SCRIPT, SCRIPTS_OF_LANGUAGE
from evaluator.graders.prose import prose
from evaluator.graders.words import words

ENGLISH = "First we compute the total number of apples that she has left."
GERMAN = "Zuerst berechnen wir die gesamte Anzahl der Äpfel, die sie noch hat."
FRENCH = "Nous calculons le nombre total de pommes qui lui restent."
SPANISH = "Primero calculamos el número total de manzanas que le quedan."
SWAHILI = "Kwanza tunahesabu idadi ya matufaha ambayo amebaki nayo."
CHINESE = "我们先计算她剩下的苹果总数。"
HAN, KANA, THAI = (CHARACTERS_PER_WORD[script] for script in ("Han", "Kana", "Thai"))


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        (ENGLISH, "en", 1.0),
        (ENGLISH, "de", 0.0),
        (GERMAN, "de", 1.0),
        (GERMAN, "en", 0.0),
        (FRENCH, "fr", 1.0),
        (FRENCH, "es", 0.0),
        (SPANISH, "es", 1.0),
        (SPANISH, "fr", 0.0),
        (SWAHILI, "sw", 1.0),
        (SWAHILI, "en", 0.0),
        ("Сначала мы вычислим общее число яблок", "ru", 1.0),
        ("Сначала мы вычислим общее число яблок", "en", 0.0),
        ("먼저 합계를 계산합니다", "ko", 1.0),
        ("প্রথমে আমরা মোট সংখ্যা গণনা করি", "bn", 1.0),
        ("ముందుగా మనం మొత్తం సంఖ్యను లెక్కిస్తాము", "te", 1.0),
        ("ก่อนอื่นเราคำนวณจำนวนแอปเปิลทั้งหมด", "th", 1.0),
        ("ก่อนอื่นเราคำนวณจำนวนแอปเปิลทั้งหมด", "en", 0.0),
        (CHINESE, "zh", 1.0),
        (CHINESE, "en", 0.0),
        (CHINESE, "ja", 0.0),
        ("我們先計算她剩下的蘋果總數。", "zh", 1.0),  # traditional characters
        ("合計を計算します", "ja", 1.0),
        ("合計を計算します", "zh", 0.0),
        ("ジョッシュはヨーグルトを二つ食べます", "ja", 1.0),
    ],
)
def test_one_language(text: str, target: str, share: float) -> None:
    assert grade(text, target) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("计算总数 gives the total", "en", 3 / (3 + 4 / HAN)),
        ("计算总数 gives the total", "zh", 4 / HAN / (3 + 4 / HAN)),
        (f"{ENGLISH} 然后", "en", 12 / (12 + 2 / HAN)),
        (f"{ENGLISH} {GERMAN}", "en", 12 / 24),
        (f"{ENGLISH} {GERMAN}", "de", 12 / 24),
        (f"{FRENCH} {SPANISH}", "es", 9 / 18),
        # within a sentence
        ("First we compute die Anzahl der Äpfel, die sie noch hat, and then we add them.", "en", 8 / 16),
        ("First we compute die Anzahl der Äpfel, die sie noch hat, and then we add them.", "de", 8 / 16),
        # a sentence of two or three words
        ("We compute the total.\nGuten Tag.\nThen we add the rest.", "en", 9 / 11),
        ("First we compute the total. Claro que sí. Then we add the rest.", "en", 10 / 13),
        # one word within a sentence is not enough, however German
        ("We berechnen the total number of apples today.", "en", 1.0),
        ("We add Schwierigkeiten and the total is ten.", "en", 1.0),
        # Chinese, then Japanese, within one sentence
        ("我们先计算总数，合計を出す。", "zh", 7 / HAN / (10 / HAN + 2 / KANA)),
        ("合计是十个 we get ten", "zh", 5 / HAN / (5 / HAN + 3)),
        ("เราได้ total", "th", 5 / THAI / (5 / THAI + 1)),
    ],
)
def test_mixed_languages_are_counted_by_the_word(text: str, target: str, share: float) -> None:
    assert grade(text, target) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "设 x 为苹果数 3.5",
        "计算 $total + price$ 得 \\frac{x}{y}",
        "计算 ```total = price``` 得 `n`",
        "计算\n```python\ntotal = price * count\nprint(total)\n```\n得到总数",
        "得到总数\n```python\nprint('never closed')",
        "总数 $$\\text{total price}$$ 和 \\(total + price\\) 和 \\[\\mathrm{price}\\]",
        "总数 \\begin{align*} total &= price \\end{align*} 对",
        "总数 \\frac{total}{\\sqrt{price + \\frac{cost}{two}}} 对",
        "总数 x_{total} + y^{price} 对",
        "总数 [asy] draw(circle); label(distance); [/asy] 对",
        "总数 48/2 = <<48/2=total>>24",
        "总数 $ \\frac{a}{b} + c $ 对",
        "见 https://example.org/the/total/price 对",
        "<reasoning>总数</reasoning>",
        "变量 total_price 和 x1 和 3x 对",
        "三角形 ABC 和三角形 DEF 的面积",
        "买了一张 DVD 重 5 kg 长 3 cm",
        "函数 sin 和 log(x) 对",
        "所以 total = 5 + 3，而 12 / count = 3",
    ],
)
def test_code_and_mathematics_are_no_words(text: str) -> None:
    assert grade(text, "zh") == 1.0
    assert grade(text, "en") == 0.0 or "=" in text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("costs $5 and she pays $10 in all", 6),
        ("costs $5, then ($6) and $7-$8 a day", 4),
        ("costs 5$ and then 6$ in all", 5),
        (r"we \textbf{add both} and \text{get five}", 6),
        (r"we \emph{add} \unknown{not this}{nor this} both", 3),
        (r"we add \{both and \$ five", 5),
        ("an unclosed \\( is a mark", 4),
        ("an *emphasis* and a _stress_ and **bold words**", 7),
        ("- Step: we add\n* Then: we stop", 6),
        ("WE ADD THE TWO", 4),
        ("in triangle ABC, DEF, and PQR we see GB", 5),
    ],
)
def test_prose_is_kept(text: str, kept: int) -> None:
    assert len(list(words(prose(text)))) == kept


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("Subtract. OK. So x = 5.", "en", 1.0),  # nothing decisive: the target's
        ("Hello", "fr", 1.0),
        ("Total = 5", "en", 1.0),
        ("wir berechnen", "en", 0.0),  # decisive
        ("we have", "de", 0.0),
        ("La respuesta es 5.", "en", 0.0),
        ("合計10個", "zh", 1.0),  # a few characters common to both
        ("合計10個", "ja", 1.0),
        ("計算方法有三種是正解", "ja", 0.0),
        ("therefore", "zh", 0.0),
        ("WE ADD THE NUMBERS", "zh", 0.0),  # capitals are no abbreviations when there are several
        ("9+1=10;10-1=9", "en", 0.0),  # no words: silence earns nothing
        ("x = y", "en", 0.0),
        ("$total$", "en", 0.0),
        ("", "en", 0.0),
        ("\n \n", "zh", 0.0),
    ],
)
def test_short_texts(text: str, target: str, share: float) -> None:
    assert grade(text, target) == share


def test_undecided_characters_follow_their_clause_and_the_clause_before() -> None:
    assert grade("私は合計を計算します。合計十個。", "ja") == 1.0
    assert grade("合計十個。私は合計を計算します。", "ja") == 1.0
    assert grade("私は合計。計算5我们。", "zh") == pytest.approx(4 / HAN / (7 / HAN + 1 / KANA))
    assert grade("我们计算。合計十個。", "ja") == 0.0
    assert grade("我们计算。合計十個。", "zh") == 1.0


def test_whole_responses_are_graded_by_their_reasoning() -> None:
    assert grade_response(f"<think>{ENGLISH}</think><answer>{CHINESE}</answer>", "en") == {
        "reward": 1.0,
        "detail": "12 of 12 words of the reasoning in en",
    }
    assert grade_response(f"{ENGLISH} {GERMAN}</think>5", "de")["reward"] == 0.5
    for silent in ("<think></think><answer>the total is five</answer>", "the total is five", ""):
        assert grade_response(silent, "en") == {"reward": 0.0, "detail": "no words in the reasoning"}


def test_unknown_language_is_refused() -> None:
    for call in (grade, grade_response):
        with pytest.raises(ValueError, match="language = 'tlh': not a known language; known: ar, "):
            call("<think>nuqneH</think>", "tlh")


@given(st.text(max_size=60), st.sampled_from(sorted(SCRIPTS_OF_LANGUAGE)))
def test_share_is_a_share(text: str, target: str) -> None:
    assert 0.0 <= grade(text, target) <= 1.0


MARKS = ["$", "$$", "`", "```", "\\(", "\\)", "\\[", "\\]", "\\text{", "\\frac{", "}", "{", "\\", "<<", ">>", "[asy]"]


@given(st.lists(st.sampled_from([*MARKS, "\\begin{align}", "\\end{align}", "we", " ", "\n", "5", "数"])).map("".join))
def test_marks_in_any_order_break_nothing_and_add_nothing(text: str) -> None:
    assert len(prose(text).replace(" ", "")) <= len(text.replace(" ", ""))
    assert 0.0 <= grade(text, "en") <= 1.0


@given(st.integers(0, 6), st.integers(0, 6))
def test_chinese_and_english_together_make_the_whole(num_chinese: int, num_english: int) -> None:
    text = "数" * num_chinese + " then" * num_english
    total = num_chinese / HAN + num_english
    assert grade(text, "zh") == pytest.approx(num_chinese / HAN / total if total else 0.0)
    assert grade(text, "en") == pytest.approx(num_english / total if total else 0.0)


def test_every_language_known_can_be_graded() -> None:
    for known in SCRIPTS_OF_LANGUAGE:
        grade(f"{ENGLISH} {GERMAN} Сначала мы вычислим общее число. پہلے ہم حساب لگاتے ہیں۔ पहले हम गणना करते हैं", known)
    assert all(languages for languages in LANGUAGES_OF_SCRIPT.values())


def test_self_test_finds_a_broken_model(monkeypatch: pytest.MonkeyPatch) -> None:
    language.self_test()
    monkeypatch.setattr(language, "_evidence", lambda *_: 0.0)
    with pytest.raises(RuntimeError, match="broken here"):
        language.self_test()


def test_an_endless_word_is_judged_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    judge = language._evidence

    def watched(script: str, word: str) -> object:
        seen.append(len(word))
        return judge(script, word)

    monkeypatch.setattr(language, "_evidence", watched)
    grade("so " + "donau" * 20_000, "en")
    assert max(seen) <= 32  # what is remembered of words must not grow with them


UNITS = [
    *(
        f"{ENGLISH} ",
        f"{FRENCH} ",
        "数",
        "ก",
        "かな漢",
        "ab数",
        "ab ",
        "é",
        "a'",
        "1.",
        "a=",
        " ",
        "-",
        "ab(",
        "x_",
        "_{",
    ),
    *MARKS,
    *(
        "\\begin{align}",
        "\\a{",
        "\\text{\\a{",
        "}{",
        "$ \\a ",
        "$a ",
        "$\\$ab",
        "http://",
        "<a",
        "<a b>",
        "ABC ",
        "a.b",
    ),
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_text_takes_linear_time(unit: str) -> None:
    text = (unit * (100_000 // len(unit) + 1))[:100_000]
    for target in ("en", "zh"):
        start = time.process_time()
        grade(text, target)
        assert time.process_time() - start < 3.0, target  # 0.3 s on an idle core; quadratic, it would be minutes


def test_a_long_text_of_different_words_takes_linear_time() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = " ".join(f"{letters[i % 26]}{letters[i // 26 % 26]}{letters[i // 676 % 26]}e" for i in range(17_000))
    start = time.process_time()
    grade(text, "en")
    assert time.process_time() - start < 2.0  # 0.5 s on an idle core: each word is looked up for the first time

r"""Language consistency: the share of target-language words among the words of the reasoning (R1's language reward).

Words: letters with their marks; every Han or Kana character is one word (they are written without spaces). Code
blocks, LaTeX, digits and single Latin or Greek letters (variables) are no words.

A word of a script that the target does not use is foreign. A script shared by several languages needs evidence:
successive words of one script within a sentence are cut into windows of at most 5, and a window counts as the target
language unless another language of that script is twice as likely (py3langid). Measured on 5-word windows of MGSM's
en, de, es and fr: at most 0.7 % of a language's own are missed and 0.5 % pass as English. Fewer than 3 words are no
evidence: they follow the window before them, or count as the target. So a single borrowed word inside a sentence
goes unnoticed.

Reasoning without words (empty, or symbols only) scores 0: silence must not earn the reward.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import regex
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from evaluator.graders.languages import LANGUAGES_OF_SCRIPT, SCRIPTS_OF_LANGUAGE

WINDOW_WORDS = 5
MIN_EVIDENCE_WORDS = 3
MIN_RATIO = 0.5

_IGNORED = regex.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|(?<!\\)\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+|https?://\S+|<[^<>\s]+>",
    regex.DOTALL,
)
_SCRIPTS = sorted(LANGUAGES_OF_SCRIPT)
_TOKEN = regex.compile(
    r"(?P<Han>\p{Script=Han})|(?P<Kana>[\p{Script=Hiragana}\p{Script=Katakana}])|"
    + "|".join(
        rf"(?P<{script}>\p{{Script={script}}}(?:['’]?[\p{{Script={script}}}\p{{M}}])*)"
        for script in _SCRIPTS
        if script not in ("Han", "Kana")
    )
    + r"|(?P<Other>\p{L}[\p{L}\p{M}]*)|(?P<end>[.!?。！？；;\n]+)"
)
_VARIABLE_SCRIPTS = ("Latin", "Greek")


def grade(text: str, language: str) -> float:
    """Share of words of `language` (ISO 639-1 code) in the reasoning `text`, 0 to 1."""
    total = matching = 0
    for script, words, has_kana in _runs(_IGNORED.sub(" ", text)):
        total += len(words)
        matching += _matching(script, words, has_kana, language)
    return matching / total if total else 0.0


def _runs(text: str) -> Iterator[tuple[str, list[str], bool]]:
    """Successive words of one script within one sentence; the flag says whether that sentence has Kana."""
    sentence: list[tuple[str, list[str]]] = []
    for token in _TOKEN.finditer(text):
        kind, word = str(token.lastgroup), token.group()
        if kind == "end":
            yield from _sentence(sentence)
            sentence = []
        elif not (kind in _VARIABLE_SCRIPTS and len(word) == 1):
            if not sentence or sentence[-1][0] != kind:
                sentence.append((kind, []))
            sentence[-1][1].append(word)
    yield from _sentence(sentence)


def _sentence(runs: list[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str], bool]]:
    has_kana = any(script == "Kana" for script, _ in runs)
    return ((script, words, has_kana) for script, words in runs)


def _matching(script: str, words: list[str], has_kana: bool, language: str) -> int:
    if script not in SCRIPTS_OF_LANGUAGE[language]:
        return 0
    if script == "Han":  # Chinese sentences have no Kana, Japanese ones nearly always do
        return len(words) if language == "ja" or not has_kana else 0
    if len(LANGUAGES_OF_SCRIPT[script]) == 1:
        return len(words)
    num_windows = -(-len(words) // WINDOW_WORDS)
    matching, is_target = 0, True
    for index in range(num_windows):
        window = words[index * len(words) // num_windows : (index + 1) * len(words) // num_windows]
        if len(window) >= MIN_EVIDENCE_WORDS:
            is_target = _likely(" ".join(window), script, language)
        matching += len(window) * is_target
    return matching


def _likely(window: str, script: str, language: str) -> bool:
    scores: dict[str, float] = dict(_identifier(script).rank(window))
    return scores[language] >= MIN_RATIO * max(scores.values())


@functools.lru_cache(maxsize=1)
def _model() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)  # takes a second


@functools.lru_cache(maxsize=len(_SCRIPTS))
def _identifier(script: str) -> Any:
    identifier = copy.copy(_model())
    identifier.set_languages(LANGUAGES_OF_SCRIPT[script])
    return identifier


def self_test() -> None:
    """RuntimeError unless languages are told apart here; warms the model of the commonest script."""
    for text, language, expected in (
        ("we compute the total number", "en", 1.0),
        ("wir berechnen die Anzahl", "en", 0.0),
    ):
        if grade(text, language) != expected:
            raise RuntimeError(f"language identification is broken here: {text!r} scores {grade(text, language)}")


with contextlib.suppress(
    Exception
):  # loads the model before workers are forked (1 s each); a failing test speaks up in the workers
    self_test()

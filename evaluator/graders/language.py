"""Language consistency: the share of target-language words among the words of the reasoning (R1's language reward).

    reasoning --prose.py--> without code and mathematics --words.py--> words --> share that is in the target language

Every word is judged, by its script first:
- A script that the target does not use: foreign.
- A script that only the target uses: the target's.
- Han: Chinese or Japanese by the characters that only one of them has, by Kana in the clause, else as the clause
  before. A lone run without any of that, of at most 6 characters, may be either.
- Latin, Cyrillic, Arabic, Devanagari: each word's likelihoods (py3langid's, of the languages in `languages.py`), and
  the likeliest path through them (Viterbi) where a change of language costs `SWITCH` nats, or `SENTENCE_SWITCH`
  where a sentence begins, and where the text starts in the target language unless `START` nats speak against it.
  So one word within a sentence never decides (names are of no language), two or three do: of MGSM's Latin languages
  mixed in pieces of 2 to 12 words, 93 % of the words are placed right.

Short texts have the benefit of the doubt: a few words count as the target's unless their evidence is decisive ("Hello"
may be in any Latin language; "wir berechnen" is not in English). Foreign words beside the operator of a formula
("total = 5" in Chinese) are names: they do not count.

Reasoning without words (empty, or symbols only) scores 0: silence must not earn the reward.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from evaluator.extract import read
from evaluator.graders.languages import LANGUAGES_OF_SCRIPT, SCRIPTS_OF_LANGUAGE, check_language
from evaluator.graders.prose import prose
from evaluator.graders.words import Word, words

SWITCH = 3.5
SENTENCE_SWITCH = 1.5
START = 4.0
_TEMPER = 0.5  # the model's n-grams overlap, so its likelihoods are too sure of themselves
_MAX_EVIDENCE = 6.0  # nats that one word may bring
_MAX_CHARACTERS = 32  # of a word, that are looked at
_MAX_EITHER = 6
_CHINESE, _JAPANESE, _EITHER = frozenset(("zh",)), frozenset(("ja",)), frozenset(("zh", "ja"))
_NEITHER: frozenset[str] = frozenset()

_Floats = npt.NDArray[np.float64]


def grade(text: str, language: str) -> float:
    """Share of words of `language` (ISO 639-1 code) in the reasoning `text`, 0 to 1. ValueError: unknown language."""
    matching, total = _count(text, language)
    return matching / total if total else 0.0


def grade_response(response_text: str, language: str) -> dict[str, Any]:
    """Reward and detail for a whole response; its reasoning is what counts. ValueError: unknown language."""
    matching, total = _count(read("", response_text).reasoning, language)
    if not total:
        return {"reward": 0.0, "detail": "no words in the reasoning"}
    return {"reward": matching / total, "detail": f"{matching:.0f} of {total:.0f} words of the reasoning in {language}"}


def _count(text: str, language: str) -> tuple[float, float]:
    """Words of the language, all words."""
    check_language(language)
    found = list(words(prose(text)))
    of_script: dict[str, list[Word]] = {}
    for word in found:
        of_script.setdefault(word.script, []).append(word)
    matching = total = 0.0
    for script, members in of_script.items():
        for word, is_target in zip(members, _judge(script, members, found, language), strict=True):
            matching += word.size * is_target
            total += word.size * (is_target or not word.operand)
    return matching, total


def _judge(script: str, members: Sequence[Word], found: Sequence[Word], language: str) -> Sequence[bool]:
    """For each word of one script: is it of the language?"""
    if script not in SCRIPTS_OF_LANGUAGE[language]:
        return [False] * len(members)
    if script == "Han":
        return [language in spoken for spoken in _chinese_or_japanese(members, found)]
    if len(LANGUAGES_OF_SCRIPT[script]) == 1:
        return [True] * len(members)
    return _likeliest_path(script, members, language)


def _chinese_or_japanese(runs: Sequence[Word], found: Sequence[Word]) -> list[frozenset[str]]:
    """For each run of Han characters, which of the two languages it may be in."""
    kana_clauses = {word.clause for word in found if word.script == "Kana"}
    own = [_script_evidence(run.text) or (_JAPANESE if run.clause in kana_clauses else _NEITHER) for run in runs]
    clause: dict[int, frozenset[str]] = {}
    for run, spoken in zip(runs, own, strict=True):
        if spoken:
            clause.setdefault(run.clause, spoken)
    if not any(own):
        size = sum(len(run.text) for run in runs)
        return [_EITHER if size <= _MAX_EITHER else _CHINESE] * len(runs)
    before = next(spoken for spoken in own if spoken)
    verdicts = []
    for run, spoken in zip(runs, own, strict=True):
        before = spoken or clause.get(run.clause) or before
        verdicts.append(before)
    return verdicts


def _script_evidence(run: str) -> frozenset[str]:
    """The language that alone has one of the characters; empty if all are common to both."""
    for character in run:
        if only := _only_in(character):
            return frozenset((only,))
    return _NEITHER


@functools.lru_cache(maxsize=32_768)
def _only_in(character: str) -> str:
    """zh or ja if only that language's character sets have the character, else empty."""
    japanese = _encodable(character, "cp932")
    chinese = _encodable(character, "gb2312") or _encodable(character, "big5")
    return "" if japanese == chinese else "ja" if japanese else "zh"


def _encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _likeliest_path(script: str, members: Sequence[Word], language: str) -> list[bool]:
    """For each word: is it of the language on the likeliest path of languages through them (Viterbi)?"""
    num, target = len(members), LANGUAGES_OF_SCRIPT[script].index(language)
    best = np.full(len(LANGUAGES_OF_SCRIPT[script]), -START)
    best[target] = 0.0
    came_from = np.zeros(num, dtype=np.intp)
    stays = np.ones((num, len(best)), dtype=np.bool_)
    for index, word in enumerate(members):
        if index:
            leader = int(best.argmax())
            begins = word.sentence != members[index - 1].sentence
            changed = best[leader] - (SENTENCE_SWITCH if begins else SWITCH)
            came_from[index], stays[index] = leader, best >= changed
            best = np.maximum(best, changed)
        best = best + _evidence(script, word.text[:_MAX_CHARACTERS])
    state = int(best.argmax()) if best[target] < best.max() else target
    path = [False] * num
    for index in range(num - 1, -1, -1):
        path[index] = state == target
        if not stays[index, state]:
            state = int(came_from[index])
    return path


@functools.lru_cache(maxsize=16_384)
def _evidence(script: str, word: str) -> _Floats:
    """Log-likelihood of the word in each language of the script; 0 for the best."""
    scores: dict[str, float] = dict(_identifier(script).rank(f" {word} "))
    likelihoods = _TEMPER * np.array([scores[language] for language in LANGUAGES_OF_SCRIPT[script]], dtype=np.float64)
    evidence: _Floats = np.maximum(likelihoods - likelihoods.max(), -_MAX_EVIDENCE)
    return evidence


@functools.lru_cache(maxsize=1)
def _model() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=False)  # takes a second


@functools.lru_cache(maxsize=len(LANGUAGES_OF_SCRIPT))
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

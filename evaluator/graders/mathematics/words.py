r"""Answers in words: `\text{Evelyn}`, `Monday`, `(C)`, `June 20`. Letters and digits count, case does not."""

from __future__ import annotations

import re

from evaluator.graders.mathematics.expression import FUNCTIONS, GREEK

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_LED_BY_CHOICE = re.compile(r"\(([A-Z])\)(?!\s*[,(]).*|([A-Z])[.:)](?:\s.*)?", re.DOTALL)
_LED_TEXT = re.compile(r"\\text\{\s*(\([A-Z]\))\s*\}")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\w{2})")
_SEPARATOR = re.compile(r",|;|\band\b|&")
_ALTERNATIVE = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|not|neither|probably)\b")
_COUNTED = re.compile(r"[-+]?[\d.,/]+\s*\\text\{")


def is_words(gold: str) -> bool:
    """Whether a cleaned gold answer is meant as words: nothing but text, one long word, or one capital letter."""
    if _COUNTED.match(gold):
        return False
    if _CHOICE.fullmatch(gold):
        return True
    bare, found = _TEXT.subn("", gold)
    if found and not re.search(r"[^\s\d.,:;()'\"-]", bare):
        return not re.search(r"\d", bare) or bool(re.match(r"\\text", gold))
    plain = _COMMAND.sub("", gold)
    return "\\" not in gold and not re.search(r"[=+*/^<>|\d_{]", plain) and bool(_LONG_WORD.search(plain))


def same_words(gold: str, answer: str) -> bool:
    """Whether two cleaned texts say the same. Several words between commas are a set."""
    choice = _CHOICE.fullmatch(_plain(gold))
    if choice and (led := _LED_BY_CHOICE.fullmatch(_LED_TEXT.sub(r"\1", answer))):
        return choice[1] == (led[1] or led[2]) and not _ALTERNATIVE.search(answer)
    expected, given = _parts(gold), _parts(answer)
    return bool(expected) and expected == given


def _plain(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    return re.sub(r"\\([A-Za-z]+)", lambda name: name[1] if _is_name(name[0]) else " ", text).strip()


def _is_name(command: str) -> bool:
    return command in FUNCTIONS or command in GREEK or command in (r"\pi", r"\emptyset", r"\R")


def _parts(text: str) -> frozenset[str]:
    text = _plain(text).casefold().strip(" .{}$")
    if re.fullmatch(r"\d{1,2}:\d\d.*", text):
        return frozenset((_letters(text),))
    pieces = _SEPARATOR.split(text)
    return frozenset(letters for piece in pieces if (letters := _letters(_ARTICLE.sub("", piece.strip(), count=1))))


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum() or character in "+-:").strip(":")

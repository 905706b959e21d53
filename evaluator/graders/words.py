r"""Words of a text, with their scripts.

Scripts written without blanks have no words to see; they are measured instead: so many characters make a word
(`CHARACTERS_PER_WORD`), and a run of them is one item of that size. Elsewhere a word is letters with their marks.

No words: digits, identifiers (with a digit or an underscore inside), single Latin or Greek letters (variables), names
of units and functions that all languages share, and single abbreviations of up to 4 capitals (triangle ABC, DVD, GB).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

from evaluator.graders.languages import CHARACTERS_PER_WORD, LANGUAGES_OF_SCRIPT

_RUNS = {
    "Han": r"\p{Script=Han}",
    "Kana": r"\p{Script=Hiragana}\p{Script=Katakana}ーｰ",
    "Thai": r"\p{Script=Thai}",
    "Unspaced": r"\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}",
}
_TOKEN = regex.compile(
    r"(?P<identifier>(?:[A-Za-z]++_[A-Za-z0-9]|[A-Za-z]*+[0-9])[A-Za-z0-9_]*+)"
    + "".join(rf"|(?P<{script}>(?=\p{{L}})[{characters}]++)" for script, characters in _RUNS.items())
    + "".join(
        rf"|(?P<{script}>\p{{Script={script}}}(?:['’]?[\p{{Script={script}}}\p{{M}}\u200c\u200d])*+)"
        for script in sorted(LANGUAGES_OF_SCRIPT)
        if script not in _RUNS
    )
    + r"|(?P<Other>\p{L}[\p{L}\p{M}]*+)|(?P<end>[.!?。！？\n]+)|(?P<pause>[,、，;；:：]+)"
)
_LETTER = regex.compile(r"\p{L}")
_BEFORE_OPERATOR = regex.compile(r" ?[=+*×÷/^≤≥≠≈] ?[\w(\[$\\-]")
_AFTER_OPERATOR = regex.compile(r"[\w)\]}] ?[=+*×÷/^≤≥≠≈] ?$")
_UNITS = "kg mg km cm mm ml kl lb lbs oz ft mph kph kmh kwh"
_FUNCTIONS = "sin cos tan cot csc arcsin arccos arctan log ln exp sqrt max min mod gcd lcm lim det"
_SHARED = frozenset((*_UNITS.split(), *_FUNCTIONS.split()))
_MAX_ABBREVIATION = 4


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a run in a script without blanks, of `size` words. `sentence` and `clause` count from 0.

    `operand`: it stands beside the operator of a formula ("total = 5"), so it may be a name rather than prose.
    """

    script: str
    text: str
    size: float
    sentence: int
    clause: int
    operand: bool = False


def words(text: str) -> Iterator[Word]:
    """The words of `text` (prose), in order."""
    sentence = clause = 0
    held: Word | None = None  # an abbreviation, unless the next word is in capitals too: then all of it is shouted
    shouting = False
    for token in _TOKEN.finditer(text):
        script, found = str(token.lastgroup), token.group()
        if script in ("end", "pause"):
            sentence += script == "end"
            clause += 1
            held, shouting = None, False
            continue
        if script == "identifier" or (script in ("Latin", "Greek") and (len(found) == 1 or found in _SHARED)):
            continue
        if per_word := CHARACTERS_PER_WORD.get(script):
            size = (len(found) if script != "Thai" else len(_LETTER.findall(found))) / per_word
            held, shouting = None, False
            yield Word(script, found, size, sentence, clause)
            continue
        word = Word(script, found, 1.0, sentence, clause, script == "Latin" and _is_operand(text, *token.span()))
        if script == "Latin" and found.isupper():
            if held is not None:
                yield held
                held, shouting = None, True
            if shouting or len(found) > _MAX_ABBREVIATION:
                yield word
                shouting = True
            else:
                held = word
        else:
            held, shouting = None, False
            yield word


def _is_operand(text: str, start: int, end: int) -> bool:
    return (
        _BEFORE_OPERATOR.match(text, end) is not None
        or _AFTER_OPERATOR.search(text, max(0, start - 3), start) is not None
    )

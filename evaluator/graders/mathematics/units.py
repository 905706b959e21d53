r"""Units and counted things around a number: `10\text{ cm}`, `$18`, `90^\circ`, `50\%`, `18 eggs per day`, `2 million`.

A unit may be left out or added; a different stated one is wrong, and nothing is converted. Words that change a number
(`about`, `minus`, `at least`) are no units: the text that holds them has no value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from evaluator.graders.mathematics.tree import Unreadable

_KNOWN = """
mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|in inch inches|ft foot feet
yd yard|mi mile|s sec second|min minute|h hr hour|day|week|month|yr year|mg milligram|g gram|kg kilogram kilo
lb pound lbs|oz ounce|ml milliliter millilitre|l liter litre|cl centiliter|gal gallon|qt quart|pint|cup
dollar usd bucks|cent|eur euro|gbp|yen|rupee|degree deg|radian rad|percent pct|n newton|j joule|w watt|v volt
hz hertz|pa pascal|acre|hectare ha|unit|mph|kph|byte|knot
"""
_UNIT = {
    word: names.split()[0] for names in _KNOWN.replace("\n", "|").split("|") if names.strip() for word in names.split()
}
_COMPOUND = {"mph": ("mi", "/", "h"), "kph": ("km", "/", "h")}
_POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
_SCALE = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_CHANGING = """
    half halves third thirds quarter quarters fifth tenth minus negative plus times twice double triple score
    over point and or to not no about around approximately approx roughly nearly almost maybe perhaps possibly probably
    might could may either between least most more less than fewer under above below guess unsure if isn't cannot never
    neither nor wrong except unless greater exceed exceeds so up like estimate estimated circa ish through until within
    unknown uncertain impossible assume minimum maximum
"""
CHANGING = frozenset(_CHANGING.split())
_FILLING = "of the a an in total each altogether is are full different distinct such whole exactly"
_FILLER = frozenset(_FILLING.split())
_LONGEST = 8
_CURRENCY = {r"\$": "dollar", "€": "eur", "£": "gbp", "¥": "yen", "₹": "rupee"}
_MONEY = re.compile(r"([-+]?)\s*(\\\$|[€£¥₹])\s*")
_TAIL_MONEY = re.compile(r"\s*([€£¥₹]|\\\$)$")
_TEXT_TAIL = re.compile(r"\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_WORD_TAIL = re.compile(
    r"(?<=[\d)}\]!])\s*(?<![\\A-Za-z_^])([A-Za-z][A-Za-z.']*(?:(?:\s+|\s*/\s*)[A-Za-z][A-Za-z.']*)*)"
    r"\s*(?:\^\s*\{?\s*([23])\s*\}?)?$"
)
_DEGREE_TAIL = re.compile(r"\s*\\deg\s*$")
_PERCENT_TAIL = re.compile(r"\s*\\?%\s*$")
_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


@dataclass(frozen=True)
class Unit:
    """`known`: units with their powers, in order; `things`: other words; `scale`: million and the like."""

    known: tuple[str, ...] = ()
    things: frozenset[str] = frozenset()
    scale: Fraction = Fraction(1)

    @property
    def stated(self) -> bool:
        """Whether there is one at all."""
        return bool(self.known or self.things)

    @property
    def is_percent(self) -> bool:
        return "percent" in self.known

    @property
    def is_degree(self) -> bool:
        return self.known == ("degree",)


NO_UNIT = Unit()


def agree(gold: Unit, answer: Unit) -> bool:
    """Whether the answer's unit is the gold's, left out or added."""
    if not gold.stated or not answer.stated:
        return True
    if gold.known or answer.known:
        wild = [tuple("?" if part == "unit" else part for part in unit.known) for unit in (gold, answer)]
        if "?" in wild[0] + wild[1] and gold.known and answer.known:
            return _powers(gold.known) == _powers(answer.known)
        return gold.known == answer.known
    return gold.things <= answer.things or answer.things <= gold.things


def _powers(known: tuple[str, ...]) -> list[str]:
    return [part for part in known if part in ("2", "3", "/")]


def split(text: str, letters: bool = True) -> tuple[str, Unit]:
    """The text without its unit, and the unit; `letters`: a single letter may be one. Unreadable if a word of it
    changes the number."""
    known: list[str] = []
    things: set[str] = set()
    scale = Fraction(1)
    money = _MONEY.match(text)
    if money:
        text = money[1] + text[money.end() :]
        known.append(_CURRENCY[money[2]])
    for _ in range(4):
        if tail := _PERCENT_TAIL.search(text):
            words = "percent"
        elif (tail := _DEGREE_TAIL.search(text)) and not _ANGLE.search(text):
            words = "degree"
        elif tail := _TAIL_MONEY.search(text):
            words = _CURRENCY[tail[1]]
        elif (tail := _TEXT_TAIL.search(text)) or (tail := _WORD_TAIL.search(text)):
            if tail.re is _WORD_TAIL and not _is_prose(tail[1], text[: tail.start()], letters):
                break
            words = tail[1] + (f" ^{tail[2]}" if tail[2] else "")
        else:
            break
        part = read(words)
        known = [*part.known, *(name for name in known if name not in part.known)]
        things |= part.things
        scale *= part.scale
        text = text[: tail.start()].strip()
        if not text:
            raise Unreadable("a unit without a number")
    if len(known) > _LONGEST:
        raise Unreadable("a long row of units")
    return text, Unit(tuple(known), frozenset(things), scale)


def _is_prose(words: str, before: str, letters: bool) -> bool:
    """Whether letters after a number are words, not variables."""
    parts = re.split(r"[\s/]+", words)
    if any(len(part.strip(".'")) >= 3 for part in parts):
        return True
    if not letters and any(len(part) == 1 for part in parts):
        return False
    numeric = not re.search(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", before)
    lone = len(parts) == 1 and len(parts[0]) == 1
    return (
        numeric
        and all(_singular(part) in _UNIT or part in _POWERS for part in parts)
        and not (lone and parts[0] not in "mgshLl")
    )


def read(words: str) -> Unit:
    """The unit that the words name; Unreadable if one of them changes the number."""
    known: list[str] = []
    things: set[str] = set()
    scale = Fraction(1)
    pending = ""
    text = re.sub(r"(?<=\S)/(?=\S)", " / ", words.lower().replace("^", " ^"))
    for word in re.findall(r"\^?[^\W_]+(?:[.'-][^\W_]+)*|/|[^\s\w]", text):
        name = word.strip(".").replace(".", "")
        if word in ".,()-$\\":
            continue
        if word == "/" or name == "per":
            known.append("/")
        elif name in _SCALE or name[:-1] in _SCALE:
            scale *= _SCALE.get(name) or _SCALE[name[:-1]]
        elif name in CHANGING or not re.fullmatch(r"\^[23]|[^\W\d_]+(?:['-][^\W\d_]+)*", name):
            raise Unreadable(f"{name!r} changes the number")
        elif name in ("square", "sq", "cubic", "cu"):
            pending = _POWERS[name]
        elif name.startswith("^") or name in ("squared", "cubed"):
            known.append(name[1:] if name.startswith("^") else _POWERS[name])
        elif (single := _singular(name)) in _UNIT:
            known.extend(_COMPOUND.get(single, (_UNIT[single],)))
            known.extend([pending] if pending else [])
            pending = ""
        elif name not in _FILLER:
            things.add(single)
    if not any(part in _UNIT.values() for part in known):
        known = []  # "eggs per day" has one, "eggs per hen" has none
    return Unit(tuple(known), frozenset(things), scale)


def _singular(word: str) -> str:
    word = word.strip(".").lower()
    if word in _UNIT:
        return word
    for ending, replacement in (("ies", "y"), ("s", "")):
        if len(word) > 2 and word.endswith(ending):
            return word[: -len(ending)] + replacement
    return word

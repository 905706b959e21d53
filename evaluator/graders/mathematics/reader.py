"""From a cleaned text to its value: splits at the outermost commas, relations and brackets; leaves are expressions.

text --or, and, commas--> parts --set signs, relations--> sides --brackets, bases, ratios--> unit and expression
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from evaluator.graders.mathematics.expression import parse
from evaluator.graders.mathematics.number import Evaluator, equal
from evaluator.graders.mathematics.solve import region_of
from evaluator.graders.mathematics.tree import Contradiction, Node, TooLarge, Unreadable, number, symbols
from evaluator.graders.mathematics.units import split as split_unit
from evaluator.graders.mathematics.values import (
    Based,
    Group,
    Labelled,
    Matrix,
    Ratio,
    Region,
    Relation,
    Relations,
    Scalar,
    Value,
    as_region,
    difference,
)

MAX_NESTING = 12
MAX_ITEMS = 400
MAX_REGIONS = 30
_BRACKETS = r"\\[{}]|\\(?:begin|end)(?=\{)|\\[lr](?:floor|ceil)(?![A-Za-z])|[()\[\]{}]"
_OPENING = frozenset(("(", "[", "{", r"\{", r"\begin", r"\lfloor", r"\lceil"))
_LIST = re.compile(rf"(?P<bracket>{_BRACKETS})|(?P<separator>[,;]|(?<=\s)(?:and|or)(?=\s))")
_SETS = re.compile(rf"(?P<bracket>{_BRACKETS})|(?P<separator>\\(?:cup|setminus|cap)(?![A-Za-z]))")
_RELATIONS = re.compile(rf"(?P<bracket>{_BRACKETS})|(?P<separator>\\(?:le|ge|ne|approx)(?![A-Za-z])|[=<>])")
_COLON = re.compile(rf"(?P<bracket>{_BRACKETS})|(?P<separator>:)")
_MEMBER = re.compile(r"[A-Za-z](?:\s*\([a-z]\))?\s*\\in(?![A-Za-z])\s*(.+)")
_BUILDER = re.compile(r"([A-Za-z])\s*(?:\\in(?![A-Za-z])\s*\\R\s*)?[:|]\s*(.+)")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array)\}\s*(?:\{[clr| ]+\})?(.*)\\end\{\1\}", re.DOTALL)
_BASED = re.compile(
    r"(-?)\s*\(?\s*([0-9A-Za-z][0-9A-Za-z ]*(?:\.[0-9A-Za-z]+)?)\s*\)?\s*_"
    r"\s*(?:\{\s*\(?|\\text\{|\{\\text\{)?\s*(\d+|[a-z]+)\s*\)?\s*\}{0,2}"
)
_LABEL = re.compile(
    r"(?:\\(?!text|frac|sqrt|binom|pi)[A-Za-z]+\s*)?(?:[A-Za-z]'*|[A-Z]{2,5}|(?<=[a-z])\s*)"
    r"(?:_\{?\w+\}?)?(?:\^\{?-1\}?)?\s*(?:\(\s*[A-Za-z0-9]+(?:\s*,\s*[A-Za-z0-9]+)*\s*\))?"
    r"|\(\s*[A-Za-z\\]+(?:\s*,\s*[A-Za-z\\]+)+\s*\)|\\text\{[^{}]*\}(?:\s*\([a-z]\))?"
)
_POINT = re.compile(r"[A-Z]\s*(\(.*,.*\))")
_DECIMAL = re.compile(r"[-+]?\s*\d*\.\d+")
_WORDED_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


class Place(NamedTuple):
    """How deep a text lies in another, and whether single letters after a number may be units (`5 m`)."""

    depth: int
    letter_units: bool

    @property
    def deeper(self) -> Place:
        return Place(self.depth + 1, self.letter_units)


TOP = Place(0, False)
LETTER_UNITS = Place(0, True)


def read(text: str, at: Place = TOP) -> Value:
    """The value of a cleaned text. Unreadable if it has none, TooLarge if it is beyond the bounds."""
    if at.depth > MAX_NESTING:
        raise TooLarge(f"nested deeper than {MAX_NESTING}")
    text = text.strip()
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Group(())
    if text == r"\R":
        return Region.everything()
    parts, separators = _split(text, _LIST)
    if len(parts) > 1:
        return _listing(parts, separators, at)
    if member := _MEMBER.fullmatch(text):
        return read(member[1], at.deeper)
    if (point := _POINT.fullmatch(text)) and _encloses(point[1]):
        return read(point[1], at.deeper)
    parts, separators = _split(text, _SETS)
    if len(parts) > 1:
        return _set(parts, separators, at)
    parts, separators = _split(text, _RELATIONS)
    if len(parts) > 1:
        return _relation(parts, separators, at)
    for leaf in (_bracketed, _matrix, _based, _ratio, _plus_minus):
        if (value := leaf(text, at)) is not None:
            return value
    return _scalar(text, at)


def _split(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Parts and separators at the outermost level; Unreadable if brackets do not match."""
    parts: list[str] = []
    separators: list[str] = []
    level = start = 0
    for found in pattern.finditer(text):
        if bracket := found["bracket"]:
            level += 1 if bracket in _OPENING else -1
            if level < 0:
                raise Unreadable("brackets do not match")
        elif level == 0:
            parts.append(text[start : found.start()].strip())
            separators.append(found["separator"].strip())
            start = found.end()
    if level:
        raise Unreadable("brackets do not match")
    return [*parts, text[start:].strip()], separators


def _listing(parts: list[str], separators: list[str], at: Place) -> Value:
    """Values beside each other: a set of numbers, alternatives, or conditions."""
    texts = [parts[0]]
    for separator, part in zip(separators, parts[1:], strict=True):
        if texts[-1] == "" and separator in ("and", "or"):  # "1, 2, and 3"
            texts[-1] = part
        else:
            texts.append(part)
    if len(texts) > MAX_ITEMS:
        raise TooLarge(f"a list of {len(texts)}")
    if "" in texts:
        raise Unreadable("a list with a gap")
    values = [read(part, at.deeper) for part in texts]
    if any(isinstance(value, Region) for value in values):
        _few(texts)
        regions = [region for value in values if (region := as_region(_bare(value))) is not None]
        if len(regions) == len(values):
            return _combined(regions, "or" in separators, "and" in separators)
    return _grouped(values)


def _combined(regions: list[Region], either: bool, both: bool) -> Region:
    """Conditions in one variable: alternatives unless they say or mean both."""
    union = common = regions[0]
    for region in regions[1:]:
        union, common = union | region, common & region
    return common if both or (not either and common.parts) else union


def _grouped(values: list[Value]) -> Group:
    """Numbers as a set, `x=1, y=2` as a tuple in the order of the names."""
    labels = [value.label if isinstance(value, Labelled) else "" for value in values]
    if all(labels) and len(set(labels)) == len(labels) > 1:
        ordered = sorted(zip(labels, values, strict=True), key=lambda pair: pair[0])
        return Group(tuple(_bare(value) for _, value in ordered), True, "()")
    flat: list[Value] = []
    for value in (_bare(value) for value in values):
        flat.extend(value.items if isinstance(value, Group) and not value.ordered else [value])
    return Group(tuple(flat))


def _bare(value: Value) -> Value:
    return value.value if isinstance(value, Labelled) else value


def _set(parts: list[str], separators: list[str], at: Place) -> Region:
    """Unions and differences, from left to right."""
    _few(parts)
    regions = [as_region(read(part, at.deeper)) for part in parts]
    whole = regions[0]
    for separator, region in zip(separators, regions[1:], strict=True):
        if whole is None or region is None:
            raise Unreadable("a union of what is no set of numbers")
        if separator == r"\cup":
            whole = whole | region
        elif separator == r"\cap":
            whole = whole & region
        else:
            for low, high in region.parts:
                if low.node is not high.node:
                    raise Unreadable("an interval taken away")
                whole = whole.without(low.node)
    if whole is None:
        raise Unreadable("no set of numbers")
    return whole


def _few(parts: list[str]) -> None:
    if len(parts) > MAX_REGIONS:
        raise TooLarge(f"{len(parts)} sets or relations")


def _relation(parts: list[str], separators: list[str], at: Place) -> Value:
    if "" in parts and not (separators == [r"\approx"] and parts[1]):
        raise Unreadable("a relation with one side")
    if set(separators) == {"="}:
        return _equation(parts, at)
    if r"\approx" in separators:
        return _approximation(parts, separators, at)
    _few(parts)
    sides = [parse(part) for part in parts]
    relations: list[Relation] = []
    for left, sign, right in zip(sides, separators, sides[1:], strict=False):
        if sign in (">", r"\ge"):
            left, right, sign = right, left, "<" if sign == ">" else r"\le"
        relations.append(Relation({r"\le": "<=", r"\ne": "!="}.get(sign, sign), difference(left, right)))
    names = frozenset().union(*(symbols(side) for side in sides))
    if len(names) == 1 and all(relation.op != "=" for relation in relations):
        name = next(iter(names))
        region = Region.everything()
        for relation in relations:
            region = region & region_of(relation, name)
        return replace(region, name=name)
    return Relations(tuple(relations))


def _equation(parts: list[str], at: Place) -> Value:
    if len(parts) == 2 and not _LABEL.fullmatch(parts[0]) and _LABEL.fullmatch(parts[1]):
        parts = parts[::-1]
    last = read(parts[-1], at.deeper)
    name = re.sub(r"\s", "", parts[0])
    if _LABEL.fullmatch(parts[0]):
        _agreeing(last, [read(part, at.deeper) for part in parts[1:-1]])
        return Labelled(name, last, _as_relation(parts[0], last))
    try:
        sides = [_scalar(part, at) for part in parts]
    except Unreadable:
        if len(parts) > 2 or not _names(parts[0]):
            raise
        return Labelled(name, last)
    closed = [side for side in sides if not symbols(side.node)]
    if closed:
        _agreeing(closed[-1], closed)
    if len(closed) == len(sides):
        return sides[-1]
    closing = sides[-1] if sides[-1] in closed and _names(parts[0]) else None
    pairs = itertools.pairwise(sides)
    return Relations(
        tuple(Relation("=", difference(a.node, b.node)) for a, b in pairs if symbols(a.node) or symbols(b.node)),
        closing,
    )


def _agreeing(last: Value, others: Sequence[Value]) -> None:
    """Contradiction unless the numbers of a chain are one. `AB = BC = 5`: other names may stand between."""
    for value in others:
        if not isinstance(value, Scalar) or not isinstance(last, Scalar):
            raise Contradiction("a chain of unequal sides")
        named = symbols(value.node) and not symbols(last.node)
        if not named and not equal(_whole(value), _whole(last)):
            raise Contradiction("a chain of unequal sides")


def _names(text: str) -> bool:
    """Whether a left side only names what is asked for: `m+n`, `x_1 + x_2`, `P(A)`; numbers in indices and calls."""
    for _ in range(2):
        text = re.sub(r"(?<=[A-Za-z'])\s*\([^()]*\)|_\{[^{}]*\}|_\w|(?<=[A-Za-z])\[[^\[\]]*\]", "", text)
    return bool(re.search(r"[A-Za-z]", text)) and not re.search(r"\d", text)


def _whole(value: Scalar) -> Node:
    """The number with its percent sign taken at its word."""
    return Node("div", (value.node, number(100))) if value.unit.is_percent else value.node


def _as_relation(label: str, value: Value) -> Relation | None:
    if not isinstance(value, Scalar):
        return None
    try:
        return Relation("=", difference(parse(label), value.node))
    except Unreadable:
        return None


def _approximation(parts: list[str], separators: list[str], at: Place) -> Value:
    """`exact = exact \\approx rounded`: the exact value, with the rounded one on the side."""
    where = separators.index(r"\approx")
    if where < len(separators) - 1 and set(separators[where:]) != {r"\approx"}:
        raise Unreadable("a chain with an approximation inside")
    rounded = _scalar(parts[-1], at)
    if symbols(rounded.node):
        raise Unreadable("an approximation with variables")
    if parts[0] == "" or (where == 0 and _LABEL.fullmatch(parts[0])):
        return Scalar(rounded.node, rounded.unit, rounded.decimal, hedged=True)
    head = _bare(read("=".join(parts[: where + 1]), at.deeper))
    if not isinstance(head, Scalar) or symbols(head.node) or not _near(head.node, rounded.node):
        raise Unreadable("an approximation of something else")
    return Scalar(head.node, head.unit if head.unit.stated else rounded.unit, head.decimal, False, rounded.node)


def _near(a: Node, b: Node) -> bool:
    evaluator = Evaluator(a, b)
    left, right = evaluator.values(a)[0], evaluator.values(b)[0]
    return left is not None and right is not None and bool(abs(left - right) <= 0.02 * max(abs(left), abs(right)))


def _bracketed(text: str, at: Place) -> Value | None:
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    if opening not in ("(", "[", "{", r"\{") or closing not in (")", "]", "}", r"\}") or not _encloses(text):
        return None
    inner = text[len(opening) : -len(closing)].strip()
    if opening in ("{", r"\{"):
        if (opening, closing) not in (("{", "}"), (r"\{", r"\}")):
            raise Unreadable("brackets do not match")
        if opening == r"\{" and (builder := _BUILDER.fullmatch(inner)):
            return read(builder[2], at.deeper)
        value = read(inner, at.deeper)
        if opening == "{" or (isinstance(value, Group) and not value.ordered):
            return value
        return Group((value,))
    parts, separators = _split(inner, _LIST)
    if len(parts) == 1:
        return read(inner, at.deeper) if opening + closing in ("()", "[]") else None
    if set(separators) not in ({","}, {";"}) or "" in parts:
        raise Unreadable("a tuple with odd separators")
    if len(parts) > MAX_ITEMS:
        raise TooLarge(f"a tuple of {len(parts)}")
    items = tuple(_bare(read(part, at.deeper)) for part in parts)
    group = Group(items, True, opening + closing)
    if opening + closing == "()" or len(items) != 2:
        return group
    return as_region(group) or group


def _encloses(text: str) -> bool:
    """Whether the first bracket ends with the text."""
    level = 0
    for found in re.finditer(_BRACKETS, text):
        level += 1 if found[0] in _OPENING else -1
        if level == 0:
            return found.end() == len(text)
    return False


def _matrix(text: str, at: Place) -> Value | None:
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])", found[2]) if row.strip()]
    matrix = Matrix(tuple(tuple(parse(cell) for cell in row.split("&")) for row in rows))
    if not rows or len({len(row) for row in matrix.rows}) != 1:
        raise Unreadable("a matrix with uneven rows")
    return matrix


def _based(text: str, at: Place) -> Value | None:
    found = _BASED.fullmatch(text)
    if found is None:
        return None
    base = _WORDED_BASES.get(found[3]) or (int(found[3]) if found[3].isdigit() and len(found[3]) < 3 else 0)
    digits = found[2].replace(" ", "").upper()
    if not 2 <= base <= 36 or not (re.search(r"\d", digits) or (base > 10 and len(digits) > 1)):
        return None
    if any(int(digit, 36) >= base for digit in digits.replace(".", "")):
        raise Unreadable(f"no digits of base {base}")
    if base == 10:
        return Scalar(number(Fraction(found[1] + digits)))
    digits = digits.rstrip("0") if "." in digits else digits
    return Based(found[1] + (digits.lstrip("0") or "0"), base)


def _ratio(text: str, at: Place) -> Value | None:
    parts, _ = _split(text, _COLON)
    return Ratio(tuple(_scalar(part, at).node for part in parts)) if len(parts) > 1 else None


def _plus_minus(text: str, at: Place) -> Value | None:
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        return None
    put: Callable[[str, str], str] = lambda plus, minus: re.sub(  # noqa: E731
        r"\\mp(?![A-Za-z])", f" {minus} ", re.sub(r"\\pm(?![A-Za-z])", f" {plus} ", text)
    )
    return Group((read(put("+", "-"), at.deeper), read(put("-", "+"), at.deeper)))


def _scalar(text: str, at: Place) -> Scalar:
    core, unit = split_unit(text, at.letter_units)
    node = parse(core)
    if unit.scale != 1:
        node = Node("mul", (node, number(unit.scale)))
    return Scalar(node, unit, bool(_DECIMAL.fullmatch(core.strip())))

r"""What an answer can be: a number, a list, a tuple, an interval, a matrix, a relation, a number in some base.

`Scalar` 5, 10 cm, x+1 · `Group` 1,2 or \{1,2\} (unordered), (1,2) (ordered) · `Region` [1,2) \cup (3,\infty) ·
`Matrix` · `Relations` y=2x+1, a<b<c · `Labelled` x=5, f(x)=x^2 · `Based` 1101_2 · `Ratio` 3:5
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Any

from evaluator.graders.mathematics.number import Evaluator
from evaluator.graders.mathematics.tree import Node, Unreadable, symbols
from evaluator.graders.mathematics.units import NO_UNIT, Unit

INFINITY = Node("inf")
MINUS_INFINITY = Node("neg", (INFINITY,))


@dataclass(frozen=True)
class Scalar:
    """A number or expression. `decimal`: written as one; `hedged`: behind an `approx`; `rounded`: what stood there."""

    node: Node
    unit: Unit = NO_UNIT
    decimal: bool = False
    hedged: bool = False
    rounded: Node | None = None


@dataclass(frozen=True)
class Group:
    """Several values. `brackets` of an ordered one, "()" or as written."""

    items: tuple[Value, ...]
    ordered: bool = False
    brackets: str = ""


@dataclass(frozen=True)
class End:
    """End of an interval."""

    node: Node
    closed: bool
    value: Any  # an mpf

    @classmethod
    def of(cls, node: Node, closed: bool) -> End:
        """Unreadable if the node is no real number."""
        if symbols(node):
            raise Unreadable("an interval with variables")
        evaluator = Evaluator(node)
        value = evaluator.values(node)[0]
        if value is None or not (evaluator.mp.isinf(value) or evaluator.real(value)):
            raise Unreadable("an interval without a real end")
        return cls(node, closed and not evaluator.mp.isinf(value), evaluator.mp.re(value))


@dataclass(frozen=True)
class Region:
    """A union of intervals, disjoint and in order. A point is an interval from itself to itself.

    `name`: the variable, where it was written as an inequality.
    """

    parts: tuple[tuple[End, End], ...]
    name: str = ""

    @classmethod
    def interval(cls, low: Node, low_closed: bool, high: Node, high_closed: bool) -> Region:
        """One interval; nothing if its ends are the wrong way round."""
        return cls.union([(End.of(low, low_closed), End.of(high, high_closed))])

    @classmethod
    def union(cls, parts: Iterable[tuple[End, End]]) -> Region:
        """Any intervals, put in order and joined where they touch."""
        merged: list[tuple[End, End]] = []
        for low, high in sorted((part for part in parts if _holds(*part)), key=cmp_to_key(_before)):
            if merged and _touch(merged[-1][1], low):
                merged[-1] = (merged[-1][0], _later(merged[-1][1], high))
            else:
                merged.append((low, high))
        return cls(tuple(merged))

    def __or__(self, other: Region) -> Region:
        return replace(Region.union([*self.parts, *other.parts]), name=self._common(other))

    def __and__(self, other: Region) -> Region:
        parts = ((_inner(a[0], b[0], 1), _inner(a[1], b[1], -1)) for a in self.parts for b in other.parts)
        return replace(Region.union(parts), name=self._common(other))

    def _common(self, other: Region) -> str:
        return self.name if self.name == other.name else ""

    def without(self, point: Node) -> Region:
        """All but one point."""
        return self & Region.everything(point)

    @classmethod
    def everything(cls, *but: Node) -> Region:
        """The real line, but for some points."""
        whole = cls.interval(MINUS_INFINITY, False, INFINITY, False)
        for node in but:
            left = cls.interval(MINUS_INFINITY, False, node, False)
            whole = whole & (left | cls.interval(node, False, INFINITY, False))
        return whole


def _same(a: End, b: End) -> bool:
    return bool(a.value == b.value or abs(a.value - b.value) < 1e-40 * max(1, abs(a.value)))


def _holds(low: End, high: End) -> bool:
    return (low.closed and high.closed) if _same(low, high) else bool(low.value < high.value)


def _before(a: tuple[End, End], b: tuple[End, End]) -> int:
    if _same(a[0], b[0]):
        return int(b[0].closed) - int(a[0].closed)
    return -1 if a[0].value < b[0].value else 1


def _touch(end: End, start: End) -> bool:
    return (end.closed or start.closed) if _same(end, start) else bool(start.value < end.value)


def _later(a: End, b: End) -> End:
    if _same(a, b):
        return a if a.closed else b
    return a if a.value > b.value else b


def _inner(a: End, b: End, sign: int) -> End:
    if _same(a, b):
        return b if a.closed else a
    return a if sign * a.value > sign * b.value else b


@dataclass(frozen=True)
class Matrix:
    """Rows of expressions."""

    rows: tuple[tuple[Node, ...], ...]

    @property
    def vector(self) -> tuple[Node, ...] | None:
        """Its entries, if it has one column or one row."""
        if len(self.rows) == 1:
            return self.rows[0]
        return tuple(row[0] for row in self.rows) if all(len(row) == 1 for row in self.rows) else None


@dataclass(frozen=True)
class Relation:
    """`node op 0`, op one of = != < <=."""

    op: str
    node: Node


@dataclass(frozen=True)
class Relations:
    """Relations that hold together. `closing`: the number at the end of `m+n = 204`."""

    parts: tuple[Relation, ...]
    closing: Scalar | None = None


@dataclass(frozen=True)
class Labelled:
    """A name and its value; `relation` if both are expressions."""

    label: str
    value: Value
    relation: Relation | None = None


@dataclass(frozen=True)
class Based:
    """A numeral of a base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True)
class Ratio:
    """a:b:c."""

    parts: tuple[Node, ...]


Value = Scalar | Group | Region | Matrix | Relations | Labelled | Based | Ratio


def difference(left: Node, right: Node) -> Node:
    """left - right."""
    return Node("add", (left, Node("neg", (right,))))


def as_region(value: Value) -> Region | None:
    """The value as a set of reals: an interval, a pair (a,b), or a list of numbers."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Scalar):
        return _points([value])
    if isinstance(value, Group) and not value.ordered:
        return _points(value.items)
    if isinstance(value, Group) and len(value.items) == 2:
        low, high = value.items
        if isinstance(low, Scalar) and isinstance(high, Scalar):
            try:
                found = Region.interval(low.node, value.brackets[0] == "[", high.node, value.brackets[-1] == "]")
                return found if found.parts else None
            except Unreadable:
                return None
    return None


def _points(items: Sequence[Value]) -> Region | None:
    found = Region(())
    for item in items:
        if not isinstance(item, Scalar):
            return None
        try:
            found = found | Region.interval(item.node, True, item.node, True)
        except Unreadable:
            return None
    return found

"""Whether two values are the same answer. The first argument is the gold answer: its kind says what the other may be.

An unordered list is not a tuple, a pair is an open interval only where the other side is an interval, a unit may be
missing or added, `x=5` is 5, relations are the same up to rearrangement and scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

from evaluator.graders.mathematics.number import equal, proportion
from evaluator.graders.mathematics.tree import Node, TooLarge, number
from evaluator.graders.mathematics.units import agree
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
)

MAX_PAIRS = 3000
_FUNCTION_LABEL = "("
T = TypeVar("T")


def same(gold: Value, answer: Value) -> bool:
    """Whether `answer` is `gold`. TooLarge if finding out would take too long."""
    gold, answer = _lone(gold), _lone(answer)
    if isinstance(gold, Labelled) or isinstance(answer, Labelled):
        return _same_labelled(gold, answer)
    if isinstance(answer, Relations) and isinstance(gold, Scalar):
        return answer.closing is not None and _same_scalar(gold, answer.closing)
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _same_region(as_region(gold), as_region(answer)) if _both_may_be_regions(gold, answer) else False
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrix(gold, answer)
    match gold, answer:
        case Scalar(), Scalar():
            return _same_scalar(gold, answer)
        case Group(), Group():
            return _same_group(gold, answer)
        case Relations(), Relations():
            return len(gold.parts) == len(answer.parts) and _matched(gold.parts, answer.parts, _same_relation)
        case Based(), Based():
            return gold == answer
        case Ratio(), Ratio():
            return _same_ratio(gold.parts, answer.parts)
        case (Ratio(), Scalar()) | (Scalar(), Ratio()):
            return _same_ratio(_quotient(gold), _quotient(answer))
    return False


def _lone(value: Value) -> Value:
    r"""The only element of `\{5\}`."""
    while isinstance(value, Group) and not value.ordered and len(value.items) == 1:
        value = value.items[0]
    return value


def _same_labelled(gold: Value, answer: Value) -> bool:
    if isinstance(gold, Labelled) and isinstance(answer, Labelled):
        if gold.label == answer.label or _FUNCTION_LABEL in gold.label + answer.label:
            return same(gold.value, answer.value)
        return bool(gold.relation and answer.relation and _same_relation(gold.relation, answer.relation))
    if isinstance(gold, Labelled):
        if isinstance(answer, Relations):
            return bool(gold.relation and len(answer.parts) == 1 and _same_relation(gold.relation, answer.parts[0]))
        return same(gold.value, answer)
    assert isinstance(answer, Labelled)
    if isinstance(gold, Relations):
        return bool(answer.relation and len(gold.parts) == 1 and _same_relation(gold.parts[0], answer.relation))
    return same(gold, answer.value)


def _same_relation(gold: Relation, answer: Relation) -> bool:
    if gold.op != answer.op:
        return False
    sign = proportion(gold.node, answer.node)
    return sign > 0 if gold.op in ("<", "<=") else sign != 0


def _same_scalar(gold: Scalar, answer: Scalar) -> bool:
    if answer.hedged and not (gold.decimal or gold.hedged):
        return False
    if _same_number(gold, answer):
        return True
    if gold.rounded is not None and _same_number(Scalar(gold.rounded, gold.unit), answer):
        return True
    return answer.rounded is not None and gold.decimal and _same_number(gold, Scalar(answer.rounded, answer.unit))


def _same_number(gold: Scalar, answer: Scalar) -> bool:
    """The numbers with their units: percent and degrees may be written out or left out."""
    agreed = agree(gold.unit, answer.unit)
    if agreed and equal(gold.node, answer.node):
        return True
    for stated, other in ((gold, answer), (answer, gold)):
        if (
            not other.unit.stated
            and stated.unit.is_percent
            and equal(_times(stated.node, Fraction(1, 100)), other.node)
        ):
            return True
        bare = not other.unit.stated or other.unit.known == ("rad",)
        if bare and stated.unit.is_degree:
            return equal(Node("mul", (_times(stated.node, Fraction(1, 180)), Node("pi"))), other.node)
    return False


def _times(node: Node, factor: Fraction) -> Node:
    return Node("mul", (node, number(factor)))


def _same_group(gold: Group, answer: Group) -> bool:
    if gold.ordered != answer.ordered:
        return False
    if not gold.ordered:
        return _matched(gold.items, answer.items, same) and _matched(answer.items, gold.items, same)
    longer = len(gold.items) > 2  # (1,2,3) and [1,2,3] are the same list, (1,2) and [1,2] are not the same interval
    alike = gold.brackets == answer.brackets or longer
    return alike and len(gold.items) == len(answer.items) and _in_order(gold.items, answer.items)


def _in_order(gold: Sequence[Value], answer: Sequence[Value]) -> bool:
    return all(same(a, b) for a, b in zip(gold, answer, strict=True))


def _matched(some: Sequence[T], others: Sequence[T], alike: Callable[[T, T], bool]) -> bool:
    """Whether each of some is among the others."""
    if len(some) * len(others) > MAX_PAIRS:
        raise TooLarge(f"lists of {len(some)} and {len(others)}")
    return all(any(alike(one, other) for other in others) for one in some)


def _both_may_be_regions(gold: Value, answer: Value) -> bool:
    """An interval can be a pair; points beside an interval must come as a union."""
    other = answer if isinstance(gold, Region) else gold
    return isinstance(other, Region) or (isinstance(other, Group) and (other.ordered or not other.items))


def _same_region(gold: Region | None, answer: Region | None) -> bool:
    if gold is None or answer is None or len(gold.parts) != len(answer.parts):
        return False
    if gold.name and answer.name and gold.name != answer.name:
        return False
    return all(
        a.closed == b.closed and equal(a.node, b.node)
        for x, y in zip(gold.parts, answer.parts, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def _same_matrix(gold: Value, answer: Value) -> bool:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return [len(row) for row in gold.rows] == [len(row) for row in answer.rows] and all(
            equal(a, b) for x, y in zip(gold.rows, answer.rows, strict=True) for a, b in zip(x, y, strict=True)
        )
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    if not isinstance(matrix, Matrix) or not isinstance(other, Group) or not other.ordered:
        return False
    vector = matrix.vector
    return (
        vector is not None
        and len(vector) == len(other.items)
        and _in_order([Scalar(entry) for entry in vector], other.items)
    )


def _quotient(value: Value) -> tuple[Node, ...]:
    if isinstance(value, Ratio):
        return value.parts
    assert isinstance(value, Scalar)
    return (value.node, number(1))


def _same_ratio(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    return len(gold) == len(answer) and all(
        equal(Node("mul", (a, answer[0])), Node("mul", (b, gold[0]))) for a, b in zip(gold, answer, strict=True)
    )

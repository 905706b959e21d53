"""Expression trees, and the ways in which a text can have none."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(ValueError):
    """The text is not of the grammar."""


class Refused(ValueError):
    """The text has no value, whoever reads it."""


class TooLarge(Refused):
    """The text asks for more work than any answer needs."""


class Contradiction(Refused):
    """The text says two different things: `2+3 = 6`."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on nodes. `op` num: `value`; sym, pi, e, i, inf: no arguments; else the operation's name."""

    op: str
    args: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


def number(value: Fraction | int) -> Node:
    """A constant."""
    return Node("num", value=Fraction(value))


def symbols(node: Node) -> frozenset[str]:
    """Names of the free symbols."""
    found: set[str] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node.op == "sym":
            found.add(node.name)
        stack.extend(node.args)
    return frozenset(found)

"""Solves inequalities in one variable: linear, quadratic, and the absolute value of a linear form."""

from __future__ import annotations

from evaluator.graders.mathematics.number import Evaluator, equal
from evaluator.graders.mathematics.tree import Node, Unreadable, number
from evaluator.graders.mathematics.values import INFINITY, MINUS_INFINITY, Region, Relation


def region_of(relation: Relation, name: str) -> Region:
    """Where `relation` (op < <= !=) holds, as a set of values of the variable. Unreadable if it is none of ours."""
    closed = relation.op == "<="
    bounded = _absolute(relation.node)
    if bounded is not None:
        inner, bound, sign = bounded
        if relation.op == "!=":
            raise Unreadable("an absolute value that differs")
        if sign > 0:  # |inner| < bound
            return region_of(Relation(relation.op, _minus(inner, bound)), name) & region_of(
                Relation(relation.op, _minus(_neg(inner), bound)), name
            )
        return region_of(Relation(relation.op, _minus(bound, inner)), name) | region_of(
            Relation(relation.op, _minus(bound, _neg(inner))), name
        )
    constant, plus, minus = (_at(relation.node, name, value) for value in (0, 1, -1))
    half = Node("inv", (number(2),))
    square = _minus(Node("mul", (Node("add", (plus, minus)), half)), constant)
    slope = Node("mul", (_minus(plus, minus), half))
    variable = Node("sym", name=name)
    model = Node(
        "add",
        (Node("mul", (square, variable, variable)), Node("mul", (slope, variable)), constant),
    )
    if not equal(model, relation.node):
        raise Unreadable("an inequality of a higher degree")
    curvature = _sign(square)
    if curvature == 0:
        if _sign(slope) == 0:
            raise Unreadable("an inequality without its variable")
        return _half_line(Node("neg", (Node("mul", (constant, Node("inv", (slope,)))),)), _sign(slope), relation.op)
    discriminant = _minus(Node("pow", (slope, number(2))), Node("mul", (number(4), square, constant)))
    if _sign(discriminant) < 0:
        return Region.everything() if curvature < 0 or relation.op == "!=" else Region(())
    root = Node("root", (discriminant, number(2)))
    twice = Node("inv", (Node("mul", (number(2), square)),))
    ends = [Node("mul", (Node("add", (_neg(slope), sign)), twice)) for sign in (_neg(root), root)]
    low, high = ends if curvature > 0 else ends[::-1]
    if relation.op == "!=":
        return Region.everything(low, high)
    if curvature > 0:
        return Region.interval(low, closed, high, closed)
    return Region.interval(MINUS_INFINITY, False, low, closed) | Region.interval(high, closed, INFINITY, False)


def _half_line(end: Node, slope: int, op: str) -> Region:
    if op == "!=":
        return Region.everything(end)
    if slope > 0:
        return Region.interval(MINUS_INFINITY, False, end, op == "<=")
    return Region.interval(end, op == "<=", INFINITY, False)


def _absolute(node: Node) -> tuple[Node, Node, int] | None:
    """inner, bound and sign of `sign * (|inner| - bound)`, if the node is one."""
    if node.op != "add" or len(node.args) != 2 or node.args[1].op != "neg":
        return None
    left, right = node.args[0], node.args[1].args[0]
    if left.op == "abs":
        return left.args[0], right, 1
    if right.op == "abs":
        return right.args[0], left, -1
    return None


def _at(node: Node, name: str, value: int) -> Node:
    """The node with the variable replaced."""
    if node.op == "sym" and node.name == name:
        return number(value)
    return Node(node.op, tuple(_at(argument, name, value) for argument in node.args), node.value, node.name)


def _minus(left: Node, right: Node) -> Node:
    return Node("add", (left, _neg(right)))


def _neg(node: Node) -> Node:
    return Node("neg", (node,))


def _sign(node: Node) -> int:
    """Sign of a real constant; Unreadable if it has none."""
    evaluator = Evaluator(node)
    value = evaluator.values(node)[0]
    if not evaluator.real(value):
        raise Unreadable("an inequality with no real coefficients")
    value = evaluator.mp.re(value)
    return 0 if evaluator.close(value, evaluator.mp.mpf(0)) else (1 if value > 0 else -1)

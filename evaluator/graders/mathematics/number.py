"""Values of expression trees: exact where rational, else many digits at a few points. No tolerance for rationals.

Two expressions are equal if they are the same fraction, or if at every one of POINTS their values agree to `digits`,
which grows with the digits that either side spells out: `1.414...` with n digits is not the root of 2 for any n.
Every step is bounded: a power or factorial of more than MAX_SIZE digits raises TooLarge before it is computed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext  # type: ignore[import-untyped]

from evaluator.graders.mathematics.tree import Node, TooLarge, Unreadable, symbols

MAX_SIZE = 2500  # digits of an exact number
MAX_FACTORIAL = 800
MAX_WORK = 150_000  # nodes times digits
_BASE_DIGITS = 50
_GUARD_DIGITS = 20
_VALUES = tuple(Fraction(n, 1009) for n in (1223, 877, 1543, 1979, 659, 1381, 2203, 1087, 1669, 947, 2333, 773))
_SIGNS = ((1, 1, 1), (1, 1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, 1))
_TINY_EXPONENT = 40_000


def exact(node: Node) -> Fraction | None:
    """The rational number that the tree spells out; None if it is none by sums, products and whole powers."""
    match node.op:
        case "num":
            return node.value
        case "pi" | "e" | "i" | "inf" | "sym":
            return None
    values = [exact(argument) for argument in node.args]
    if any(value is None for value in values):
        return None
    known = [value for value in values if value is not None]
    match node.op:
        case "add":
            return _total(known)
        case "neg":
            return -known[0]
        case "mul":
            return _product(known)
        case "div" | "inv":
            if not known[-1]:
                raise Unreadable("division by zero")
            return _bounded((known[0] if node.op == "div" else 1) / known[-1])
        case "pow":
            return _whole_power(*known)
        case "root":
            return _whole_root(*known)
        case "factorial":
            return _factorial(known[0])
        case "binom":
            return _binomial(*known)
        case "abs":
            return abs(known[0])
        case "floor":
            return Fraction(math.floor(known[0]))
        case "ceil":
            return Fraction(math.ceil(known[0]))
    return None


def _total(values: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for value in values:
        total = _bounded(total + value)
    return total


def _product(values: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for value in values:
        product = _bounded(product * value)
    return product


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3.33 * MAX_SIZE:
        raise TooLarge(f"a number of more than {MAX_SIZE} digits")
    return value


def _size(value: Fraction) -> float:
    """Digits of numerator or denominator, at least a fraction of one."""
    return max(abs(value.numerator).bit_length(), value.denominator.bit_length(), 1) / 3.32


def _whole_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return _whole_root(_whole_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    if base in (0, 1, -1):
        if not base and exponent <= 0:
            raise Unreadable("a power of zero")
        return base ** (exponent.numerator % 2 or 2 * bool(exponent))
    if abs(exponent) > 4 * MAX_SIZE or abs(exponent) * _size(base) > MAX_SIZE:
        raise TooLarge(f"a power of more than {MAX_SIZE} digits")
    return base**exponent.numerator


def _whole_root(value: Fraction | None, index: Fraction) -> Fraction | None:
    if value is None or value < 0 or index.denominator != 1 or not 0 < index <= 100:
        return None
    roots = [_integer_root(part, index.numerator) for part in (value.numerator, value.denominator)]
    return None if None in roots else Fraction(roots[0] or 0, roots[1] or 1)


def _integer_root(value: int, index: int) -> int | None:
    if index == 1:
        return value
    if index == 2:
        root = math.isqrt(value)
    else:
        low, high = 0, 1 << (value.bit_length() // index + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**index <= value else (low, middle - 1)
        root = low
    return root if root**index == value else None


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise Unreadable("the factorial of no natural number")
    if value > MAX_FACTORIAL:
        raise TooLarge(f"the factorial of more than {MAX_FACTORIAL}")
    return Fraction(math.factorial(value.numerator))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        raise Unreadable("a binomial of no natural numbers")
    if min(k, n - k) > MAX_SIZE or min(k, n - k) * _size(n) > MAX_SIZE:
        raise TooLarge(f"a binomial of more than {MAX_SIZE} digits")
    return Fraction(math.comb(n.numerator, k.numerator))


def weigh(node: Node) -> tuple[int, float]:
    """Number of nodes, and digits that the tree spells out (powers of numbers included); TooLarge past the bounds."""
    nodes, digits = 0, 0.0
    stack = [node]
    while stack:
        node = stack.pop()
        nodes += 1
        if node.op == "num":
            digits += _size(node.value)
        elif node.op in ("pow", "factorial", "binom") and not symbols(node):
            value = exact(node)
            digits += _size(value) if value is not None else 0
            if value is None and node.op == "pow":
                digits += _tower(node)
            elif value is not None:
                continue
        stack.extend(node.args)
    if nodes * (digits + _BASE_DIGITS) > MAX_WORK:
        raise TooLarge(f"{nodes} terms of {digits:.0f} digits in all")
    return nodes, digits


def _tower(node: Node) -> float:
    """Extra digits for a power that is not rational; its exponent must be small."""
    exponent = exact(node.args[1])
    if exponent is None:
        return 0
    if abs(exponent) > MAX_SIZE:
        raise TooLarge(f"an exponent of more than {MAX_SIZE}")
    return float(abs(exponent))


_OF_THREAD = threading.local()


def _context() -> Any:
    """mpmath's context of this thread (its precision is a global of the context)."""
    if not hasattr(_OF_THREAD, "mp"):
        _OF_THREAD.mp = MPContext()
    return _OF_THREAD.mp


class Evaluator:
    """Values at points, with `digits` digits. Make one for a comparison and use it before the next is made."""

    def __init__(self, *nodes: Node) -> None:
        weights = [weigh(node) for node in nodes]
        self.digits = _BASE_DIGITS + int(sum(digits for _, digits in weights))
        self.mp: Any = _context()
        self.mp.dps = self.digits + _GUARD_DIGITS
        names = sorted(frozenset().union(*(symbols(node) for node in nodes)))
        if len(names) > len(_VALUES):
            raise Unreadable(f"{len(names)} variables")
        self.points: list[dict[str, Any]] = [
            {
                name: self._ratio(_VALUES[(5 * k + index) % len(_VALUES)] * sign[index % 3])
                for index, name in enumerate(names)
            }
            for k, sign in enumerate(_SIGNS if names else _SIGNS[:1])
        ]

    def _ratio(self, value: Fraction) -> Any:
        return self.mp.mpf(value.numerator) / value.denominator

    def values(self, node: Node) -> list[Any]:
        """One value for each point; None where there is none (a pole)."""
        return [self._value(node, point) for point in self.points]

    def _value(self, node: Node, point: Mapping[str, Any]) -> Any:
        try:
            value = self.at(node, point)
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            if isinstance(error, (Unreadable, TooLarge)):
                raise
            return None
        return None if self.mp.isnan(value) else value

    def close(self, a: Any, b: Any) -> bool:
        """Whether two values agree."""
        if self.mp.isinf(a) or self.mp.isinf(b):
            return bool(a == b)
        bound = self.mp.mpf(10) ** -(self.digits - 5)
        return bool(abs(a - b) <= bound * max(abs(a), abs(b), 1))

    def real(self, value: Any) -> bool:
        """Whether a value has no imaginary part to speak of."""
        return value is not None and self.close(self.mp.im(value), self.mp.mpf(0))

    def at(self, node: Node, point: Mapping[str, Any]) -> Any:
        """Value of the tree at a point, an mpf or mpc."""
        mp = self.mp
        match node.op:
            case "num":
                return self._ratio(node.value)
            case "sym":
                return point[node.name]
            case "pi":
                return +mp.pi
            case "e":
                return +mp.e
            case "i":
                return mp.mpc(0, 1)
            case "inf":
                return mp.inf
        a, *rest = [self.at(argument, point) for argument in node.args]
        match node.op:
            case "add":
                return sum(rest, a)
            case "neg":
                return -a
            case "mul":
                return math.prod(rest, start=a)
            case "div":
                return a / rest[0]
            case "inv":
                return 1 / a
            case "pow":
                return self._power(a, rest[0])
            case "root":
                return self._root(a, rest[0])
            case "factorial":
                return self._gamma(a)
            case "binom":
                return self._gamma(a) / (self._gamma(rest[0]) * self._gamma(a - rest[0]))
            case "logb":
                return mp.log(a) / mp.log(rest[0])
            case "abs":
                return abs(a)
            case "floor" | "ceil":
                return getattr(mp, node.op)(a)
        return self._function(node.op, a)

    def _function(self, name: str, a: Any) -> Any:
        mp = self.mp
        if mp.isinf(a) or mp.mag(a) > _TINY_EXPONENT:
            raise TooLarge("the argument of a function")
        inverse = {"arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan}
        if name in inverse:
            return inverse[name](a)
        if name in ("log", "lg"):
            return mp.log(a) / mp.log(10)
        if name == "exp" and abs(a) > _TINY_EXPONENT:
            raise TooLarge("an exponent")
        return getattr(mp, name)(a)

    def _power(self, a: Any, b: Any) -> Any:
        mp = self.mp
        if mp.isinf(b) or (a and abs(b) * max(1, abs(mp.mag(a))) > _TINY_EXPONENT * 10):
            raise TooLarge("a power")
        return a**b

    def _root(self, a: Any, index: Any) -> Any:
        real_odd = self.mp.im(a) == 0 and self.mp.re(a) < 0 and index == int(index) and int(index) % 2
        return -((-a) ** (1 / index)) if real_odd else a ** (1 / index)

    def _gamma(self, a: Any) -> Any:
        if abs(a) > MAX_FACTORIAL:
            raise TooLarge(f"the factorial of more than {MAX_FACTORIAL}")
        return self.mp.gamma(a + 1)


def equal(a: Node, b: Node) -> bool:
    """Whether two expressions are the same, as functions of their variables."""
    if a == b:
        return True
    left, right = exact(a), exact(b)
    if left is not None and right is not None:
        return left == right
    evaluator = Evaluator(a, b)
    pairs = [
        (x, y) for x, y in zip(evaluator.values(a), evaluator.values(b), strict=True) if x is not None and y is not None
    ]
    real = [(x, y) for x, y in pairs if evaluator.real(x) and evaluator.real(y)]
    used = real if len(real) >= min(2, len(evaluator.points)) else pairs
    return bool(used) and all(evaluator.close(x, y) for x, y in used)


def proportion(a: Node, b: Node) -> int:
    """Sign of the constant c with a = c b everywhere; 0 if there is none or it is 0."""
    evaluator = Evaluator(a, b)
    ratios: list[Any] = []
    for x, y in zip(evaluator.values(a), evaluator.values(b), strict=True):
        if x is None or y is None:
            continue
        if evaluator.close(x, evaluator.mp.mpf(0)) or evaluator.close(y, evaluator.mp.mpf(0)):
            return 0
        ratios.append(x / y)
    if len(ratios) < min(2, len(evaluator.points)) or not all(evaluator.close(r, ratios[0]) for r in ratios):
        return 0
    return 1 if evaluator.mp.re(ratios[0]) > 0 else -1

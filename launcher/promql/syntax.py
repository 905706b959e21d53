"""Owns the grammar: text of an expression to a tree. What is valid PromQL and not needed here is a SyntaxError."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count"})
_COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
_PRECEDENCE: tuple[tuple[str, ...], ...] = (("or",), ("and", "unless"), _COMPARISONS, ("+", "-"), ("*", "/", "%"))
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<duration>(?:\d+(?:ms|[smhdwy]))+)(?![\w.])
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<name>[A-Za-z_:][\w:]*)
    | (?P<symbol>==|!=|<=|>=|=~|!~|[-+*/%<>=(){}\[\],:])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A scalar."""

    value: float


@dataclass(frozen=True)
class Matcher:
    """A condition on a label; `operator`: = != =~ !~."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True)
class Selector:
    """Series by name and labels; with `range_s`, their samples of that many last seconds."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    range_s: float | None = None
    offset_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """A function."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Aggregation:
    """`sum by (labels) (inner)`; grouping None: over everything."""

    operation: str
    inner: Node
    grouping: Literal["by", "without"] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Binary:
    """`left operator right`. `matching`: which labels must agree (None: all); `returns_bool`: 0/1 instead of a filter;
    `group`: the side that may have many (`group_left`), None for one to one."""

    operator: str
    left: Node
    right: Node
    returns_bool: bool = False
    matching: Literal["on", "ignoring"] | None = None
    labels: tuple[str, ...] = ()
    group: Literal["left", "right"] | None = None


Node = Number | Selector | Call | Aggregation | Binary


def parse(text: str) -> Node:
    """The tree of an expression; SyntaxError with the place for anything else."""
    return _Parser(text).whole()


def selectors(node: Node) -> Iterator[Selector]:
    """All selectors in a tree, from left to right."""
    if isinstance(node, Selector):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from selectors(argument)
    elif isinstance(node, Aggregation):
        yield from selectors(node.inner)
    elif isinstance(node, Binary):
        yield from selectors(node.left)
        yield from selectors(node.right)


def selector_text(selector: Selector) -> str:
    """An instant selector as text, without range and offset."""
    inside = ",".join(f"{m.label}{m.operator}{_quoted(m.value)}" for m in selector.matchers)
    return selector.name + (f"{{{inside}}}" if inside else "")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Parser:
    """Recursive descent over tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise SyntaxError(f"{text!r}: cannot read {text[at:].strip()[:20]!r}")
            self._tokens.append((str(found.lastgroup), found.group(str(found.lastgroup)), found.end()))
            at = found.end()
        self._next = 0

    def whole(self) -> Node:
        node = self._binary(0)
        if self._next < len(self._tokens):
            self._fail("the end")
        return node

    def _binary(self, level: int) -> Node:
        if level == len(_PRECEDENCE):
            return self._unary()
        left = self._binary(level + 1)
        while (operator := self._peek()) in _PRECEDENCE[level]:
            self._next += 1
            returns_bool = operator in _COMPARISONS and self._accept("bool")
            matching: Literal["on", "ignoring"] | None = None
            labels: tuple[str, ...] = ()
            group: Literal["left", "right"] | None = None
            if self._peek() in ("on", "ignoring"):
                matching = "on" if self._take() == "on" else "ignoring"
                labels = self._labels()
                if self._peek() in ("group_left", "group_right"):
                    group = "left" if self._take() == "group_left" else "right"
                    if self._peek() == "(":
                        self._labels()
            right = self._binary(level + 1)
            left = Binary(operator, left, right, returns_bool, matching, labels, group)
        return left

    def _unary(self) -> Node:
        if self._accept("-"):
            inner = self._unary()
            return Number(-inner.value) if isinstance(inner, Number) else Binary("*", Number(-1.0), inner)
        return self._atom()

    def _atom(self) -> Node:
        if self._accept("("):
            inner = self._binary(0)
            self._expect(")")
            return inner
        kind, text = self._token()
        if kind in ("number", "duration"):
            self._next += 1
            return Number(float(text) if kind == "number" else _seconds(text))
        if text == "{":
            return self._selector("")
        if kind != "name":
            self._fail("an expression")
        self._next += 1
        if text in AGGREGATIONS and self._peek() in ("(", "by", "without"):
            return self._aggregation(text)
        if self._peek() == "(":
            return Call(text, self._arguments())
        if text in ("Inf", "NaN"):
            return Number(float(text))
        return self._selector(text)

    def _aggregation(self, operation: str) -> Node:
        grouping, labels = self._grouping()
        inner = self._arguments()
        if grouping is None:
            grouping, labels = self._grouping()
        if len(inner) != 1:
            raise SyntaxError(f"{self._text!r}: {operation} takes one expression")
        return Aggregation(operation, inner[0], grouping, labels)

    def _grouping(self) -> tuple[Literal["by", "without"] | None, tuple[str, ...]]:
        if self._accept("by"):
            return "by", self._labels()
        if self._accept("without"):
            return "without", self._labels()
        return None, ()

    def _arguments(self) -> tuple[Node, ...]:
        self._expect("(")
        found: list[Node] = []
        while not self._accept(")"):
            if found:
                self._expect(",")
            if self._token()[0] == "string":
                self._fail("an expression (texts as arguments are not supported)")
            found.append(self._binary(0))
        return tuple(found)

    def _labels(self) -> tuple[str, ...]:
        self._expect("(")
        found: list[str] = []
        while not self._accept(")"):
            if found:
                self._expect(",")
            found.append(self._take("name"))
        return tuple(found)

    def _selector(self, name: str) -> Selector:
        matchers: list[Matcher] = []
        if self._accept("{"):
            while not self._accept("}"):
                if matchers:
                    self._expect(",")
                    if self._accept("}"):
                        break
                label, operator = self._take("name"), self._take("symbol")
                if operator not in ("=", "!=", "=~", "!~"):
                    raise SyntaxError(f"{self._text!r}: {operator!r} is no way to match a label")
                matchers.append(Matcher(label, operator, re.sub(r"\\(.)", r"\1", self._take("string")[1:-1])))
        if not name and not matchers:
            raise SyntaxError(f"{self._text!r}: a selector without a name needs a condition")
        range_s: float | None = None
        if self._accept("["):
            range_s = _seconds(self._take("duration"))
            self._expect("]")
        offset_s = _seconds(self._take("duration")) if self._accept("offset") else 0.0
        return Selector(name, tuple(matchers), range_s, offset_s)

    def _token(self) -> tuple[str, str]:
        return self._tokens[self._next][:2] if self._next < len(self._tokens) else ("end", "")

    def _peek(self) -> str:
        kind, text = self._token()
        return "" if kind == "string" else text

    def _accept(self, text: str) -> bool:
        if self._peek() != text:
            return False
        self._next += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(repr(text))

    def _take(self, kind: str = "") -> str:
        found, text = self._token()
        if kind and found != kind:
            self._fail(f"a {kind}")
        self._next += 1
        return text

    def _fail(self, wanted: str) -> None:
        found = self._token()[1] or "the end"
        raise SyntaxError(f"{self._text!r}: expected {wanted}, found {found!r}")


def _seconds(text: str) -> float:
    return sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))

r"""Reads one mathematical expression, LaTeX or plain, into a tree. Nothing is evaluated, nothing handed to `eval`.

    text --tokens--> list of tokens --Parser--> Node

Implicit products, `\frac12`, mixed numbers, `2.3e4`, `0.\overline{3}`, functions with and without parentheses. What
the grammar does not know raises Unreadable; size and depth are bounded, and more raises TooLarge.
"""

from __future__ import annotations

import re
from fractions import Fraction

from evaluator.graders.mathematics.tokens import Token, tokens
from evaluator.graders.mathematics.tree import Node, TooLarge, Unreadable, number

MAX_DEPTH = 60

_GREEK_NAMES = r"""
    \alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \vartheta \kappa \lambda \mu \nu \xi \rho \sigma
    \tau \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Sigma \Phi \Psi \Omega \ell
"""
_FUNCTION_NAMES = r"""
    \sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \log \lg \exp
"""
GREEK = frozenset(_GREEK_NAMES.split())
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_INVERSE = {r"\sin": r"\arcsin", r"\cos": r"\arccos", r"\tan": r"\arctan"}
_TIMES = frozenset((r"\cdot", r"\times", r"\ast", "*"))
_PAIRS = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\lvert": r"\rvert"}
_WRAPPED = {r"\lfloor": "floor", r"\lceil": "ceil", r"\lvert": "abs"}
_CALL = re.compile(r"[fghFGHP]\(\s*(?:-?\d+|[A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\)")


def parse(text: str) -> Node:
    """The expression of `text`. Unreadable or TooLarge if it has none."""
    opaque: dict[str, str] = {}

    def hide(call: re.Match[str]) -> str:  # f(2), g(x): one symbol each
        sign = chr(0xE000 + len(opaque))
        opaque[sign] = re.sub(r"\s", "", call.group())
        return f"\\{sign} "

    if "(" in text:
        text = re.sub(r"(?<![A-Za-z\\])" + _CALL.pattern, hide, text)
    return _Parser(tokens(text), opaque).whole()


class _Parser:
    def __init__(self, found: list[Token], opaque: dict[str, str]) -> None:
        self.tokens, self.opaque = found, opaque
        self.position = self.depth = 0
        self.bars = 0

    def whole(self) -> Node:
        node = self.fraction_of(self.sum())
        if self.position < len(self.tokens):
            raise Unreadable(f"unexpected {self.tokens[self.position].text!r}")
        return node

    @property
    def next(self) -> str:
        return self.tokens[self.position].text if self.position < len(self.tokens) else ""

    @property
    def token(self) -> Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self, expected: str | None = None) -> Token:
        token = self.token
        if token is None or (expected is not None and token.text != expected):
            raise Unreadable(f"expected {expected or 'more'}, found {self.next or 'the end'!r}")
        self.position += 1
        return token

    def sum(self) -> Node:
        terms = [self.product()]
        while self.next in ("+", "-"):
            sign = self.take().text
            term = self.product()
            terms.append(term if sign == "+" else Node("neg", (term,)))
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")

    def product(self, *, argument: bool = False) -> Node:
        """Factors; as the `argument` of a function without parentheses, up to the next function or explicit sign."""
        factors = [self.signed()]
        while True:
            if self.next in _TIMES and not argument:
                self.take()
                factors.append(self.signed())
            elif self.next in ("/", r"\div") and not (argument and self.next == r"\div"):
                self.take()
                factors.append(Node("inv", (self.signed(),)))
            elif self.juxtaposed() and not (argument and self.next in FUNCTIONS):
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))

    def juxtaposed(self) -> bool:
        """Whether an implicit factor follows. A number is one only after a factorial: `7 2` is two numbers."""
        token = self.token
        if token is None:
            return False
        if token.kind == "number":
            return self.tokens[self.position - 1].text == "!"
        if token.text == "|":
            return not self.bars
        return token.kind == "letter" or self.opens(token.text)

    def opens(self, text: str) -> bool:
        return (
            text in _PAIRS
            or text in FUNCTIONS
            or text in GREEK
            or text in (r"\frac", r"\sqrt", r"\surd", r"\curt", r"\binom", r"\pi", r"\infty", r"\left|")
            or text[1:] in self.opaque
        )

    def signed(self) -> Node:
        minus = False
        while self.next in ("+", "-"):
            minus ^= self.take().text == "-"
        node = self.power()
        return Node("neg", (node,)) if minus else node

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.next == "^":
            self.take()
            exponent = self.signed_tight()
            node = self.postfix(Node("pow", (node, exponent)))
        return node

    def signed_tight(self) -> Node:
        """An exponent or subscript: a group, or one token as TeX has it (but `10^12` as people mean it)."""
        self.deeper()
        if self.next in ("+", "-"):
            sign = self.take().text
            node = self.signed_tight()
            node = Node("neg", (node,)) if sign == "-" else node
        else:
            node = self.atom()
            if self.next == "^":  # a tower without braces, a^b^c
                self.take()
                node = Node("pow", (node, self.signed_tight()))
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while self.next in ("!", r"\deg", "%", r"\%", "'"):
            sign = self.take().text
            if sign != "'":
                self.deeper()  # never left: a chain of these is no answer
            if sign == "!":
                if self.next == "!":
                    raise Unreadable("double factorial")
                node = Node("factorial", (node,))
            elif sign == r"\deg":
                node = Node("mul", (node, Node("div", (Node("pi"), number(180)))))
            elif sign == "'":
                if node.op != "sym":
                    raise Unreadable("a prime on no symbol")
                node = Node("sym", name=node.name + "'")
            else:
                node = Node("div", (node, number(100)))
        return node

    def atom(self) -> Node:
        self.deeper()
        node = self.unit()
        self.depth -= 1
        return node

    def unit(self) -> Node:
        token = self.take()
        text = token.text
        if token.kind == "number":
            return self.mixed(token)
        if text in _PAIRS:
            return self.group(text)
        if text == "|":
            self.bars += 1
            inner = self.sum()
            self.bars -= 1
            self.take("|")
            return Node("abs", (inner,))
        if text in FUNCTIONS:
            return self.function(text)
        match text:
            case r"\frac":
                return Node("div", (self.argument(), self.argument()))
            case r"\binom":
                return Node("binom", (self.argument(), self.argument()))
            case r"\sqrt":
                return self.root()
            case r"\surd":
                return Node("root", (self.tight(), number(2)))
            case r"\curt":
                return Node("root", (self.tight(), number(3)))
            case r"\pi":
                return Node("pi")
            case r"\infty":
                return Node("inf")
        if text[1:] in self.opaque:
            return Node("sym", name=self.opaque[text[1:]])
        if token.kind == "letter" or text in GREEK:
            return self.symbol(text)
        raise Unreadable(f"unexpected {text!r}")

    def mixed(self, token: Token) -> Node:
        r"""A number, with a proper fraction right behind it: `2\frac{1}{3}` or `2 1/3`."""
        whole = number(token.value)
        if token.value.denominator != 1 or "." in token.text:
            return whole
        rest = self.tokens[self.position : self.position + 7]
        kinds = [piece.kind for piece in rest]
        texts = [piece.text for piece in rest]
        if texts[:1] == [r"\frac"] and not (len(rest) > 1 and texts[1] == "^"):
            start = self.position
            self.take()
            fraction = Node("div", (self.argument(), self.argument()))
            top, bottom = fraction.args
            if top.op == bottom.op == "num" and 0 < top.value < bottom.value:
                return Node("add", (whole, fraction))
            self.position = start
        elif (
            kinds[:3] == ["number", "sign", "number"]
            and texts[1] == "/"
            and rest[0].spaced
            and 0 < rest[0].value < rest[2].value
        ):
            self.position += 3
            return Node("add", (whole, number(rest[0].value / rest[2].value)))
        return whole

    def group(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        inner = self.fraction_of(self.sum()) if opening == "{" else self.sum()
        self.bars = bars
        self.take(_PAIRS[opening])
        return Node(_WRAPPED[opening], (inner,)) if opening in _WRAPPED else inner

    def fraction_of(self, upper: Node) -> Node:
        """TeX's infix commands: `{10 \\choose 3}`, `{1 \\over 2}`."""
        if self.next not in (r"\choose", r"\over"):
            return upper
        return Node("binom" if self.take().text == r"\choose" else "div", (upper, self.sum()))

    def argument(self) -> Node:
        r"""TeX's argument: a group, or one character (`\frac12`)."""
        token = self.token
        if token is not None and token.kind == "number" and token.text.isdigit() and len(token.text) > 1:
            first, rest = token.text[0], token.text[1:]
            self.tokens[self.position : self.position + 1] = [
                Token("number", first, token.spaced, Fraction(first)),
                Token("number", rest, False, Fraction(rest)),
            ]
        if token is not None and token.kind == "number":
            return number(self.take().value)
        return self.atom()

    def tight(self) -> Node:
        """What a radical sign without a bar covers: a number, a group or one symbol."""
        token = self.token
        return number(self.take().value) if token is not None and token.kind == "number" else self.atom()

    def root(self) -> Node:
        index = number(2)
        if self.next == "[":
            self.take()
            index = self.sum()
            self.take("]")
        token = self.token
        spaced_number = token is not None and token.kind == "number" and not index.args and token.spaced
        return Node("root", (self.tight() if spaced_number or self.next == "(" else self.argument(), index))

    def symbol(self, text: str) -> Node:
        if text == "e" and self.next != "_":
            return Node("e")
        if text == "i" and self.next != "_":
            return Node("i")
        name = text
        if self.next == "_":
            self.take()
            if self.next == "{":
                start = self.position
                while self.next not in ("}", ""):
                    self.take()
                self.take("}")
                name += "_" + "".join(piece.text for piece in self.tokens[start + 1 : self.position - 1])
            else:
                name += "_" + self.take().text
        return Node("sym", name=name)

    def function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        while self.next in ("_", "^"):
            if self.take().text == "_":
                base = self.argument()
            else:
                power = self.signed_tight()
        if power is not None and power == Node("neg", (number(1),)) and name in _INVERSE:
            name, power = _INVERSE[name], None
        if self.next in ("(", "{", "["):
            argument = self.atom()
            if self.next == "^" and power is None:
                self.take()
                power = self.signed_tight()
        else:
            argument = self.product(argument=True)
        node = Node(name[1:], (argument,)) if base is None else Node("logb", (argument, base))
        return node if power is None else Node("pow", (node, power))

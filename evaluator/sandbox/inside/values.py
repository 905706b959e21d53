"""Values that cross between a program and whoever judges it, by value, in JSON: nothing received can run code.

    None, bool, str, small int, finite float   as in JSON
    everything else                            ["tag", ...]: list, tuple, set, dict, big int, bytes, Decimal, ...
    what is not plain data                     ["h", id]: an opaque handle, by the `export` function of the sender

Subclasses of plain types travel as the plain type that they extend: an overridden `__eq__` stays behind. namedtuples
become tuples, defaultdict and OrderedDict become dicts (all equal to what they were).
"""

from __future__ import annotations

import builtins
import collections
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

SMALL = 1 << 53
MAX_DEPTH = 200

# Builtins that travel by name: as harmless on the other side as the data that they are applied to.
_BUILTINS = frozenset(
    """
    abs all any bool bytes chr complex dict divmod float frozenset int len list max min object ord range repr reversed
    round set sorted str sum tuple type zip
    """.split()  # noqa: SIM905
)

Export = Callable[[Any], list[Any]]
Import = Callable[[list[Any]], Any]


class NotPlain(ValueError):
    """A value that cannot cross, or an encoding that nobody sends."""


def refuse(value: Any) -> list[Any]:
    """An `export` for those who take plain data only."""
    raise NotPlain(f"a value of type {type(value).__name__} is not plain data")


def encode(value: Any, export: Export = refuse, depth: int = 0) -> Any:
    """`value` in JSON; NotPlain when it is nested too deeply (cycles too) or `export` refuses it."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int and -SMALL < value < SMALL:
        return value
    if kind is float and math.isfinite(value):
        return value
    if depth > MAX_DEPTH:
        raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
    for base, encoder in _ENCODERS:
        if isinstance(value, base):
            return encoder(value, export, depth + 1)
    for module, kind_name, encoder in _RARE_ENCODERS:
        # Without the module there is no such value; and importing all of them would make every cell dearer.
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], kind_name)):
            return encoder(value, export, depth + 1)
    if callable(value):
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and name in _BUILTINS and value is getattr(builtins, name):
            return ["T", name]
    return export(value)


def _items(values: Any, export: Export, depth: int) -> list[Any]:
    return [encode(value, export, depth) for value in values]


def _mapping(tag: str) -> Callable[[Any, Export, int], list[Any]]:
    def encoder(value: Any, export: Export, depth: int) -> list[Any]:
        pairs = list(dict.items(value))
        return [tag, [[encode(key, export, depth), encode(item, export, depth)] for key, item in pairs]]

    return encoder


def _collection(tag: str, iterate: Callable[[Any], Any]) -> Callable[[Any, Export, int], list[Any]]:
    return lambda value, export, depth: [tag, *_items(iterate(value), export, depth)]


def _float(value: float) -> Any:
    plain = float.__add__(value, 0.0)
    return plain if math.isfinite(plain) else ["F", float.__repr__(value)]


_ENCODERS: tuple[tuple[type, Callable[[Any, Export, int], Any]], ...] = (
    (bool, lambda v, e, d: bool(v)),
    (str, lambda v, e, d: str.__str__(v)),
    (int, lambda v, e, d: int.__add__(v, 0) if -SMALL < int.__add__(v, 0) < SMALL else ["i", hex(int.__add__(v, 0))]),
    (float, lambda v, e, d: _float(v)),
    (list, _collection("l", list.__iter__)),
    (tuple, _collection("t", tuple.__iter__)),
    (collections.Counter, _mapping("C")),
    (dict, _mapping("d")),
    (set, _collection("s", set.__iter__)),
    (frozenset, _collection("f", frozenset.__iter__)),
    (collections.deque, _collection("q", collections.deque.__iter__)),
    (complex, lambda v, e, d: ["c", _float(v.real), _float(v.imag)]),
    (bytes, lambda v, e, d: ["b", bytes.hex(v)]),
    (bytearray, lambda v, e, d: ["B", bytearray.hex(v)]),
    (range, lambda v, e, d: ["R", *_items((v.start, v.stop, v.step), e, d)]),
    (slice, lambda v, e, d: ["S", *_items((v.start, v.stop, v.step), e, d)]),
    (type(Ellipsis), lambda v, e, d: ["..."]),
    (type(NotImplemented), lambda v, e, d: ["ni"]),
)

_RARE_ENCODERS: tuple[tuple[str, str, Callable[[Any, Export, int], Any]], ...] = (
    ("decimal", "Decimal", lambda v, e, d: ["D", sys.modules["decimal"].Decimal.__str__(v)]),
    ("fractions", "Fraction", lambda v, e, d: ["Q", *_items((v.numerator, v.denominator), e, d)]),
    ("datetime", "datetime", lambda v, e, d: ["dt", sys.modules["datetime"].datetime.isoformat(v), v.fold]),
    ("datetime", "date", lambda v, e, d: ["da", sys.modules["datetime"].date.isoformat(v)]),
    ("datetime", "time", lambda v, e, d: ["ti", sys.modules["datetime"].time.isoformat(v), v.fold]),
    ("datetime", "timedelta", lambda v, e, d: ["td", v.days, v.seconds, v.microseconds]),
)


def decode(wire: Any, adopt: Import = refuse) -> Any:
    """The value of an encoding; `adopt` makes something of handles. NotPlain for anything else, whatever it is."""
    try:
        return _decode(wire, adopt, 0)
    except NotPlain:
        raise
    except (TypeError, ValueError, ArithmeticError, KeyError, IndexError, RecursionError) as error:
        raise NotPlain(f"not an encoded value: {type(error).__name__}: {error}") from None


def decode_json(wire: Any, depth: int = 0) -> Any:
    """Like `decode`, for what may equal a JSON value: no sets, no keys but strings, no numbers that take long. So
    nothing that a program sends takes more time than its length (no colliding hashes, no huge denominators)."""
    if not isinstance(wire, list):
        if isinstance(wire, dict):
            raise NotPlain("not an encoded value: an object")
        return wire
    if depth > MAX_DEPTH + 2:
        raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
    tag, *rest = wire or [None]
    if tag == "l" or tag == "t":
        return (list if tag == "l" else tuple)(decode_json(item, depth + 1) for item in rest)
    if tag == "d" or tag == "C":
        pairs: Any = rest[0] if rest and isinstance(rest[0], list) else [None]
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise NotPlain("a dict with keys that are no strings")
        return {key: decode_json(item, depth + 1) for key, item in pairs}
    if isinstance(tag, str) and tag in "iFcDQ" and all(_is_short_number(item) for item in rest):
        value = decode(wire)
        if not (tag == "D" and value.is_snan()):
            return value
    raise NotPlain(f"a value of another type ({str(tag)[:20]})")


def _is_short_number(item: Any) -> bool:
    if isinstance(item, list):
        return len(item) == 2 and item[0] in ("i", "F") and isinstance(item[1], str) and len(item[1]) < 5000
    return type(item) in (int, float) or (isinstance(item, str) and len(item) < 5000)


def _decode(wire: Any, adopt: Import, depth: int) -> Any:
    if not isinstance(wire, list):
        if isinstance(wire, dict):
            raise NotPlain("not an encoded value: an object")
        return wire
    if depth > MAX_DEPTH + 2:
        raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
    tag, *rest = wire
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](_decode(item, adopt, depth + 1) for item in rest)
    if tag in ("d", "C"):
        pairs = {_decode(key, adopt, depth + 1): _decode(item, adopt, depth + 1) for key, item in rest[0]}
        return collections.Counter(pairs) if tag == "C" else pairs
    if tag in _SCALARS:
        return _SCALARS[tag](*(_decode(item, adopt, depth + 1) for item in rest))
    return adopt(wire)


_CONTAINERS: dict[Any, Callable[[Any], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "f": frozenset,
    "q": collections.deque,
}
_SCALARS: dict[Any, Callable[..., Any]] = {
    "i": lambda text: int(text, 16),
    "F": lambda text: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "c": complex,
    "b": bytes.fromhex,
    "B": bytearray.fromhex,
    "R": range,
    "S": slice,
    "D": lambda text: _from("decimal", "Decimal")(text),
    "Q": lambda numerator, denominator: _from("fractions", "Fraction")(_integer(numerator), _integer(denominator)),
    "dt": lambda text, fold: _from("datetime", "datetime").fromisoformat(text).replace(fold=fold),
    "da": lambda text: _from("datetime", "date").fromisoformat(text),
    "ti": lambda text, fold: _from("datetime", "time").fromisoformat(text).replace(fold=fold),
    "td": lambda *parts: _from("datetime", "timedelta")(*parts),
    "T": lambda name: getattr(builtins, name) if name in _BUILTINS else refuse(name),
    "...": lambda: ...,
    "ni": lambda: NotImplemented,
}


def _integer(value: Any) -> int:
    """`value`, if it is an int: a Fraction of a text such as 1e999999999 takes for ever."""
    if type(value) is not int:
        raise NotPlain("a fraction of something else than integers")
    return value


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)

"""Plain data crosses by value and comes back as what it was; nothing else does, and nothing that arrives can harm."""

from __future__ import annotations

import builtins
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import json
import math
import random
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.sandbox.inside.values import MAX_DEPTH, NotPlain, decode, decode_json, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.builds(range, st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
)
HASHABLE = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=8
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.lists(inner, max_size=4).map(collections.deque)
    ),
    max_leaves=20,
)


def crossed(value: Any) -> Any:
    """`value` after a journey as JSON text."""
    return decode(json.loads(json.dumps(encode(value))))


@given(PLAIN)
def test_plain_data_comes_back_as_what_it_was(value: Any) -> None:
    back = crossed(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset, tuple, list, dict, collections.deque))


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308])
def test_every_float_keeps_its_sign_and_kind(value: float) -> None:
    assert repr(crossed(value)) == repr(value)


@pytest.mark.parametrize(
    "value",
    [True, 1, 1.0, 2**53 - 1, 2**53, -(2**53), 10**5000, -(10**5000), bytearray(b"\0\xff"), ..., NotImplemented],
    ids=lambda value: type(value).__name__,
)
def test_kinds_that_equality_mixes_up_stay_apart(value: Any) -> None:
    back = crossed(value)
    assert type(back) is type(value)
    assert back == value


def test_counter_stays_a_counter_and_other_dicts_become_dicts() -> None:
    counter = crossed(collections.Counter("abca"))
    assert type(counter) is collections.Counter
    assert counter["missing"] == 0
    default = collections.defaultdict(list, {"a": [1]})
    assert type(crossed(default)) is dict
    assert crossed(default) == {"a": [1]}
    assert crossed(collections.OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}


class Liar:
    """Says yes to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class LyingInt(int):
    """Equal to everything, in every way that Python asks."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __add__(self, other: object) -> int:
        return 42

    def __index__(self) -> int:
        return 42


class LyingStr(str):
    """See LyingInt."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "the answer"


class LyingList(list):  # type: ignore[type-arg]
    """See LyingInt."""

    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter([42])

    def __len__(self) -> int:
        return 1


class LyingFloat(float):
    """See LyingInt."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __add__(self, other: object) -> float:
        return 42.0

    def __repr__(self) -> str:
        return "42.0"


class LyingDict(dict):  # type: ignore[type-arg]
    """See LyingInt."""

    def __eq__(self, other: object) -> bool:
        return True

    def items(self) -> Any:
        return [("a", 42)]


class Point(NamedTuple):
    """Becomes a tuple."""

    x: int
    y: int


class Colour(enum.IntEnum):
    """Becomes an int."""

    RED = 1


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (LyingInt(7), 7),
        (LyingStr("x"), "x"),
        (LyingList([1, 2]), [1, 2]),
        (LyingFloat(1.5), 1.5),
        (LyingDict(b=2), {"b": 2}),
        ([LyingInt(7)], [7]),
        ({"k": LyingStr("x")}, {"k": "x"}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
    ],
    ids=repr,
)
def test_a_subclass_travels_as_what_it_extends_and_its_methods_stay_behind(value: Any, arrives: Any) -> None:
    back = crossed(value)
    assert type(back) is type(arrives)
    assert back == arrives
    assert back != "something else"


@pytest.mark.parametrize("value", [Liar(), object(), lambda: 1, type("T", (), {}), json, [Liar()], {"a": object()}])
def test_what_is_not_plain_is_refused_or_exported_as_a_handle(value: Any) -> None:
    with pytest.raises(NotPlain, match="not plain data"):
        encode(value)
    handed: list[Any] = []

    def export(item: Any) -> list[Any]:
        handed.append(item)
        return ["h", len(handed)]

    encode(value, export)
    assert len(handed) == 1


def test_depth_is_bounded_and_cycles_are_refused() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert crossed(deep) == deep
    for _ in range(3):
        deep = [deep]
    with pytest.raises(NotPlain, match="nested"):
        encode(deep)
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(NotPlain, match="nested"):
        encode(cycle)
    wire: Any = 1
    for _ in range(MAX_DEPTH + 10):
        wire = ["l", wire]
    with pytest.raises(NotPlain, match="nested"):
        decode(wire)


@pytest.mark.parametrize("function", [len, sorted, int, str, list, max, abs, zip, type])
def test_harmless_builtins_travel_by_name(function: Any) -> None:
    assert crossed(function) is function


@pytest.mark.parametrize(
    "name", ["eval", "exec", "open", "__import__", "getattr", "compile", "input", "os", "__name__"]
)
def test_no_other_builtin_can_be_named(name: str) -> None:
    with pytest.raises(NotPlain):
        decode(["T", name])
    if callable(getattr(builtins, name, None)):
        with pytest.raises(NotPlain):
            encode(getattr(builtins, name))


def test_a_function_with_the_name_of_a_builtin_is_no_builtin() -> None:
    def len(value: Any) -> int:
        return 42

    with pytest.raises(NotPlain):
        encode(len)


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"h": 1},
        [],
        [[]],
        [{}],
        [None],
        ["unknown"],
        ["unknown", 1],
        ["h", 1],
        ["yours", 0],
        ["s", ["l"]],
        ["f", ["d", []]],
        ["d"],
        ["d", 1],
        ["d", [1]],
        ["d", [[1]]],
        ["d", [[1, 2, 3]]],
        ["d", [[["l"], 1]]],
        ["C", [["a"]]],
        ["i"],
        ["i", "zz"],
        ["i", 5],
        ["i", "1", "2"],
        ["F", "1.5"],
        ["F", ["l"]],
        ["F"],
        ["c", "x", "y"],
        ["b", "xyz"],
        ["b", 10**9],
        ["B", None],
        ["R", 1, 2, 0],
        ["R", "a"],
        ["D", "one"],
        ["D", ["l", 1]],
        ["Q", 1, 0],
        ["dt", "tomorrow"],
        ["da", 1],
        ["ti", "25:00"],
        ["td", "a"],
        ["td", 10**30],
        ["T"],
        ["T", ["l"]],
        ["T", None],
        ["...", 1],
        ["l", {}],
        ["t", ["nope"]],
    ],
    ids=str,
)
def test_what_nobody_sends_is_refused(wire: Any) -> None:
    with pytest.raises(NotPlain):
        decode(wire)


TAGS = st.sampled_from([*"ltsfqdCiFcbBRSDQTx", "dt", "da", "ti", "td", "...", "ni", "h", "yours"])
WIRE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | TAGS,
    lambda inner: (
        st.builds(lambda tag, rest: [tag, *rest], TAGS, st.lists(inner, max_size=4))
        | st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.builds(lambda tag, pairs: [tag, pairs], st.sampled_from("dC"), st.lists(st.lists(inner, max_size=3)))
    ),
    max_leaves=15,
)


@given(WIRE)
@settings(max_examples=500)
def test_any_encoding_gives_a_value_or_not_plain(wire: Any) -> None:
    try:
        value = decode(wire)
    except NotPlain:
        return
    repr(value)


def test_a_number_of_great_length_takes_no_time_to_refuse_or_take() -> None:
    assert decode(["i", hex(10**20_000)]) == 10**20_000
    for wire in (["D", "1e999999999"], ["Q", 1, ["i", "0x" + "f" * 100_000]]):
        decode(wire)
    assert isinstance(crossed(decimal.Decimal("NaN")), decimal.Decimal)
    assert crossed(fractions.Fraction(1, 3)) == fractions.Fraction(1, 3)
    assert crossed(datetime.timedelta(days=-1, microseconds=5)) == datetime.timedelta(days=-1, microseconds=5)


COSTLY = {
    "a fraction of two long numbers": lambda: [
        "Q",
        *(["i", hex(random.Random(seed).getrandbits(2_400_000))] for seed in (1, 2)),
    ],
    "numbers that all have the same hash": lambda: [
        "s",
        *(["i", hex(number * ((1 << 61) - 1))] for number in range(1, 20_000)),
    ],
    "keys that all have the same hash": lambda: [
        "d",
        [[["i", hex(number * ((1 << 61) - 1))], 0] for number in range(1, 20_000)],
    ],
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_small_on_the_wire_is_soon_decoded_or_refused(name: str) -> None:
    """A program writes its own wire: the evaluator must not be kept busy with it (a judge in its cell has a clock)."""
    wire = COSTLY[name]()
    begin = time.process_time()
    with contextlib.suppress(NotPlain):
        decode_json(wire)
    assert time.process_time() - begin < 1.0

"""The call protocol between interpreters that do not trust each other: two ends, each in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evaluator.sandbox.inside import frames, rpc
from evaluator.sandbox.inside.rpc import Peer, PeerGone, Remote, RemoteError

TIMEOUT_S = 20.0


def anything(operation: str, target: Any, args: tuple[Any, ...]) -> bool:
    return True


class Stack:
    """An object that is no plain data."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.name = "stack"

    def push(self, item: Any) -> Stack:
        self.items.append(item)
        return self

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int) -> Any:
        return self.items[key]

    def __setitem__(self, key: int, value: Any) -> None:
        self.items[key] = value

    def __contains__(self, item: Any) -> bool:
        return item in self.items

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Custom(Exception):
    """No builtin."""


class Late(ValueError):
    """A builtin below it."""


def raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


class Ends:
    """`ours` asks; the other end serves `theirs` in a thread, which also gives out `root`."""

    def __init__(
        self, root: Any, may: Callable[..., bool] = anything, ours_may: Callable[..., bool] = anything
    ) -> None:
        left, right = socket.socketpair()
        for stream in (left, right):
            stream.settimeout(TIMEOUT_S)
        self.ours, self.theirs = Peer(left, ours_may), Peer(right, may)
        self.root = self.ours.decode(self.theirs.encode(root))
        self.ended: BaseException | None = None
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            while True:
                self.theirs.serve(self.theirs.receive())
        except BaseException as error:
            self.ended = error

    def close(self) -> None:
        self.ours.stream.close()
        self.thread.join(TIMEOUT_S)
        self.theirs.stream.close()
        assert not self.thread.is_alive()


@contextlib.contextmanager
def ends(root: Any, may: Callable[..., bool] = anything, ours_may: Callable[..., bool] = anything) -> Iterator[Ends]:
    both = Ends(root, may, ours_may)
    try:
        yield both
    finally:
        both.close()
    assert isinstance(both.ended, PeerGone)


@contextlib.contextmanager
def hostile() -> Iterator[tuple[Peer, socket.socket]]:
    """Our end, and the bare socket of another side that says what it likes."""
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(TIMEOUT_S)
        yield Peer(left, lambda *_: False), right


def test_a_call_takes_and_gives_plain_data() -> None:
    with ends(lambda a, b=2, *rest, **more: {"sum": a + b, "rest": list(rest), "more": more}) as both:
        assert both.root(1) == {"sum": 3, "rest": [], "more": {}}
        assert both.root(1, 3, 4, key=(5, {6})) == {"sum": 4, "rest": [4], "more": {"key": (5, {6})}}


@pytest.mark.parametrize("name", ["target", "operation", "self", "args", "kwargs", "op", "value"])
def test_a_parameter_may_have_any_name(name: str) -> None:
    with ends(lambda **more: more) as both:
        assert both.root(**{name: 9}) == {name: 9}


def test_objects_are_used_where_they_live() -> None:
    with ends(Stack) as both:
        stack = both.root(1, 2)
        assert isinstance(stack, Remote)
        assert stack.push(3) is not None
        assert len(stack) == 3
        assert stack[2] == 3
        assert list(stack) == [1, 2, 3]
        assert 2 in stack
        assert 9 not in stack
        stack[0] = "new"
        stack.name = "changed"
        assert (stack[0], stack.name) == ("new", "changed")
        assert stack.items == ["new", 2, 3]
        assert isinstance(stack, both.root)
        with pytest.raises(AttributeError):
            _ = stack.missing
        with pytest.raises(IndexError):
            _ = stack[99]


def test_iterators_and_generators_come_one_by_one() -> None:
    def squares() -> Iterator[int]:
        for number in range(3):
            yield number * number

    with ends(squares) as both:
        assert list(both.root()) == [0, 1, 4]
        iterator = both.root()
        assert next(iterator) == 0
        assert list(iterator) == [1, 4]
        with pytest.raises(StopIteration):
            next(iterator)


def test_two_handles_are_equal_only_when_they_are_the_same_object() -> None:
    one, other = Stack(1), Stack(1)
    with ends(lambda which: one if which else other) as both:
        assert both.theirs.encode(one) == both.theirs.encode(one) != both.theirs.encode(other)
        stack = both.root(1)
        assert stack != [1]
        assert stack != 1
        assert (stack == "anything") is False
        assert bool(stack)


def test_what_we_gave_comes_back_as_itself() -> None:
    mine = Stack(7)
    with ends(lambda value: value) as both:
        assert both.root(mine) is mine
        assert both.root([mine, mine]) == [mine, mine]
        assert both.ours.encode(both.root)[0] == "yours"  # and what they gave goes back as theirs


def test_a_callback_is_served_while_its_caller_waits() -> None:
    calls: list[int] = []

    def key(value: int) -> int:
        calls.append(value)
        return -value

    with ends(lambda values, key: sorted(values, key=key)) as both:
        assert both.root([1, 3, 2], key) == [3, 2, 1]
        assert sorted(calls) == [1, 2, 3]


def test_callbacks_nest() -> None:
    def down(number: int, other: Any) -> int:
        return 0 if number == 0 else 1 + other(number - 1, down)

    with ends(down) as both:
        assert both.root(20, down) == 20


def test_may_is_asked_for_everything_and_its_no_is_a_permission_error() -> None:
    asked: list[tuple[str, tuple[Any, ...]]] = []

    def may(operation: str, target: Any, args: tuple[Any, ...]) -> bool:
        asked.append((operation, args))
        return operation == "call"

    with ends(Stack, may=may) as both:
        stack = both.root(1)
        for attempt in (
            lambda: stack.items,
            lambda: setattr(stack, "items", []),
            lambda: stack[0],
            lambda: len(stack),
            lambda: list(stack),
            lambda: 1 in stack,
            lambda: next(stack),
            lambda: stack.__setitem__(0, 1),
        ):
            with pytest.raises(PermissionError, match="on Stack"):
                attempt()
        assert {operation for operation, _ in asked} == {
            "call", "getattr", "setattr", "getitem", "len", "iter", "next", "setitem",
        }  # fmt: skip


def test_what_the_other_side_calls_back_needs_our_leave() -> None:
    stolen: list[Any] = []

    def thief(function: Any) -> str:
        try:
            stolen.append(function.secret)
        except PermissionError as error:
            return f"refused: {error}"
        return "got it"

    def mine() -> None: ...

    mine.secret = "the expected answers"  # type: ignore[attr-defined]
    with ends(thief, ours_may=lambda operation, target, args: operation == "call") as both:
        assert both.root(mine) == "refused: getattr on function"
    assert stolen == []


@pytest.mark.parametrize("operation", ["eval", "__class__", "delattr", "", "exec", 5, None, ["call"], {}])
def test_unknown_operations_are_refused(operation: Any) -> None:
    with ends(Stack) as both:
        with pytest.raises((PermissionError, TypeError)):
            both.ours.ask(operation, both.root, "x")
        assert len(both.root(1)) == 1  # and it goes on


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad"), ValueError),
        (KeyError("k"), KeyError),
        (ZeroDivisionError(), ZeroDivisionError),
        (RecursionError("deep"), RecursionError),
        (StopIteration(1), RemoteError),  # in a loop of the tests it would end that loop
        (Late("late"), ValueError),  # the nearest builtin
        (AssertionError("no"), AssertionError),
        (NotImplementedError(), NotImplementedError),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), RemoteError),  # cannot be made of a text alone
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_an_exception_is_raised_here_by_its_name(error: Exception, expected: type[Exception]) -> None:
    with ends(raiser(error)) as both:
        with pytest.raises(expected) as caught:
            both.root()
        assert type(caught.value) is expected
        assert both.ours.last_error is caught.value  # how the judge tells who raised it


def test_an_exception_of_its_own_is_a_plain_exception_here() -> None:
    with ends(raiser(Custom("mine"))) as both, pytest.raises(Exception, match="mine") as caught:
        both.root()
    assert type(caught.value) in (Exception, RemoteError)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")], ids=repr)
def test_what_would_end_an_interpreter_is_an_ordinary_exception_here(error: BaseException) -> None:
    with ends(raiser(error)) as both:
        with pytest.raises((RuntimeError, RemoteError)):
            both.root()
        assert len(both.ours.decode(both.ours.encode([1]))) == 1


@pytest.mark.parametrize(
    "names", [["SystemExit"], ["KeyboardInterrupt", "BaseException"], ["eval"], ["Remote"], [5], 7, [], None]
)
def test_no_other_name_makes_an_exception(names: Any) -> None:
    with hostile() as (peer, other):
        frames.send(other, {"raised": names, "text": "x"})
        with pytest.raises(RemoteError):
            peer.ask("call", 1)


def test_an_exception_that_cannot_be_printed_is_one_all_the_same() -> None:
    class Unprintable(ValueError):
        def __str__(self) -> str:
            raise SystemExit(0)

    with ends(raiser(Unprintable())) as both, pytest.raises(ValueError, match=r"\?"):
        both.root()


def test_a_long_text_is_cut() -> None:
    with ends(raiser(ValueError("x" * 100_000))) as both:
        with pytest.raises(ValueError, match="x") as caught:
            both.root()
        assert len(str(caught.value)) <= 2000


@pytest.mark.parametrize(
    "reply",
    [
        {"value": {"an": "object"}},
        {"value": []},
        {"value": ["zzz", 1]},
        {"value": ["h", "text"]},
        {"value": ["h", True]},
        {"value": ["h", 1, 2]},
        {"value": ["yours", 99]},
        {"value": ["yours", [1]]},
        {"value": ["T", "eval"]},
        {"value": ["l", ["nope"]]},
    ],
    ids=str,
)
def test_a_reply_that_is_no_value_means_that_the_peer_is_gone(reply: dict[str, Any]) -> None:
    with hostile() as (peer, other):
        frames.send(other, reply)
        with pytest.raises(PeerGone):
            peer.ask("call", 1)


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "call"},
        {"op": "call", "args": []},
        {"op": "call", "args": 5, "kwargs": {}},
        {"op": "call", "args": [1], "kwargs": []},
        {"op": ["call"], "args": [1], "kwargs": {}},
        {"op": None, "args": [1], "kwargs": {}},
        {"op": "getattr", "args": ["text", "__class__"], "kwargs": {}},
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_answered_and_does_no_harm(request_: dict[str, Any]) -> None:
    with hostile() as (peer, other):
        frames.send(other, request_)
        frames.send(other, {"value": 5})
        assert peer.ask("call", 1) == 5
        other.settimeout(TIMEOUT_S)
        first, _ = frames.receive(other)
        second, _ = frames.receive(other)
        assert first["op"] == "call"
        assert "raised" in second


@pytest.mark.parametrize("wire", [["yours", 1000], ["zzz"], {"a": 1}, ["h", None]], ids=str)
def test_a_request_with_no_value_in_it_means_that_the_peer_is_gone(wire: Any) -> None:
    with hostile() as (peer, other):
        frames.send(other, {"op": "call", "args": [wire], "kwargs": {}})
        with pytest.raises(PeerGone):
            peer.ask("call", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        struct.pack(">II", 5, 0) + b"12",
        struct.pack(">II", 3, 0) + b"xyz",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 4, 0) + b"null",
        struct.pack(">II", 0, 0),
        struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack(">II", 64 << 20, 1 << 20),
        struct.pack(">II", 200_000, 0) + b"[" * 200_000,
        struct.pack(">II", 6, 0) + b'{"a":\xff',
    ],
    ids=lambda data: f"{data[:12]!r}",
)
def test_a_broken_frame_means_that_the_peer_is_gone(data: bytes) -> None:
    with hostile() as (peer, other):
        other.settimeout(TIMEOUT_S)
        sender = threading.Thread(target=lambda: (other.sendall(data), other.shutdown(socket.SHUT_WR)))
        sender.start()
        with pytest.raises(PeerGone):
            peer.receive()
        sender.join(TIMEOUT_S)


def test_a_peer_that_closed_is_gone_for_asking_too() -> None:
    with hostile() as (peer, other):
        other.close()
        with pytest.raises(PeerGone):
            peer.ask("call", 1)


def test_descriptors_that_come_uninvited_are_closed() -> None:
    with hostile() as (peer, other):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            body = json.dumps({"value": 1}).encode()
            gift = os.open("/dev/null", os.O_RDONLY)
            socket.send_fds(other, [struct.pack(">II", len(body), 0) + body], [gift] * 8)
            os.close(gift)
            assert peer.ask("call", 1) == 1
        now = len(os.listdir("/proc/self/fd"))
        if now > before:  # leave none behind, whatever comes of this test
            for descriptor in sorted(map(int, os.listdir("/proc/self/fd")))[-(now - before) :]:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{descriptor}") == "/dev/null" and descriptor > 2:
                        os.close(descriptor)
        assert now <= before


def test_values_keep_their_kind_on_the_way() -> None:
    with ends(lambda value: value) as both:
        for value in [(1, 2), {1, 2}, frozenset({3}), {"a": {2: 3}}, 10**50, b"x", math.inf, True, None, 1.0, range(3)]:
            back = both.root(value)
            assert back == value
            assert type(back) is type(value)


def test_describe_names_the_type_and_its_bases() -> None:
    assert rpc.describe(Late("x"))["raised"] == ["Late", "ValueError", "Exception", "BaseException"]
    ended = rpc.describe(SystemExit(3))
    assert ended["raised"][0] == "RuntimeError"
    assert "SystemExit" in ended["text"]

"""A call protocol between two interpreters that do not trust each other: requests, replies, opaque handles.

    {"op": "call", "target": ENC, "args": [...], "kwargs": {...}}   or getattr, setattr, getitem, len, iter, ...
    {"value": ENC}  |  {"raised": [names of the type and its bases], "text": "..."}

Both sides may ask: while one waits for its reply it serves what the other wants (a callback). Handles name objects that
are not plain data; the side that owns one decides what may be done with it (`Peer.may`). Equality and membership are
never asked for, or whoever owns an object could say yes to anything: two handles are equal when they are the same
object, a handle equals nothing else, and `in` looks at each element on the asking side.
"""

from __future__ import annotations

import builtins
import socket
from collections.abc import Callable, Iterator
from typing import Any

from . import frames, values

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_NOT_TO_RAISE = (SystemExit, KeyboardInterrupt, GeneratorExit)


class PeerGone(Exception):
    """The other side ended, or broke the protocol."""


class RemoteError(Exception):
    """The other side raised something that is no builtin exception, or that would end a loop here (`stop`)."""

    stop = False


class Remote:
    """An object of the other side. What is done to it is done there."""

    __slots__ = ("_id", "_peer")

    def __init__(self, peer: Peer, identity: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_id", identity)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._peer.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.ask("setitem", self, key, value)

    def __len__(self) -> int:
        return int(self._peer.ask("len", self))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._peer.ask("iter", self)
        return iter(iterator) if not isinstance(iterator, Remote) else _iterate(iterator)

    def __next__(self) -> Any:
        try:
            return self._peer.ask("next", self)
        except RemoteError as error:
            if error is self._peer.last_error and error.stop:
                raise StopIteration from None
            raise

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and self._peer.ask("isinstance", instance, self) is True

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<opaque value {self._id}>"


def _iterate(iterator: Remote) -> Iterator[Any]:
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return


OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *args, **kwargs: target(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda target, key: target[key],
    "setitem": lambda target, key, value: target.__setitem__(key, value),
    "len": len,
    "iter": iter,
    "next": next,
    "isinstance": isinstance,
}


class Peer:
    """One end. `may(operation, target, args)` says whether the other side may do this to an object of ours."""

    def __init__(self, stream: socket.socket, may: Callable[[str, Any, tuple[Any, ...]], bool]) -> None:
        self.stream, self.may = stream, may
        self.objects: dict[int, Any] = {}
        self.ids: dict[int, int] = {}
        self.last_error: Exception | None = None

    def ask(self, operation: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Do something on the other side: its value, the exception that it raised there, or PeerGone."""
        request = {
            "op": operation,
            "args": [self.encode(value) for value in (target, *args)],
            "kwargs": {name: self.encode(value) for name, value in kwargs.items()},
        }
        self.send(request)
        while True:
            message = self.receive()
            if "op" in message:
                self.serve(message)
            elif "raised" in message:
                self.last_error = self._exception(message)
                raise self.last_error
            else:
                return self.decode(message.get("value"))

    def serve(self, message: dict[str, Any]) -> None:
        """Do what the other side asks for, and reply."""
        try:
            operation = message["op"]
            target, *args = (self.decode(value) for value in message["args"])
            kwargs = {str(name): self.decode(value) for name, value in message["kwargs"].items()}
            if operation not in OPERATIONS or not self.may(operation, target, tuple(args)):
                raise PermissionError(f"{operation} on {type(target).__name__}")
            reply = {"value": self.encode(OPERATIONS[operation](target, *args, **kwargs))}
        except PeerGone:
            raise
        except BaseException as error:
            reply = describe(error)
        self.send(reply)

    def encode(self, value: Any) -> Any:
        """On the wire; what is not plain data as a handle."""
        return values.encode(value, self._export)

    def decode(self, wire: Any) -> Any:
        """From the wire; PeerGone for what nobody sends."""
        try:
            return values.decode(wire, self._adopt)
        except values.NotPlain as error:
            raise PeerGone(str(error)) from None

    def send(self, message: dict[str, Any]) -> None:
        """One message."""
        try:
            frames.send(self.stream, message)
        except OSError as error:
            raise PeerGone(str(error)) from None

    def receive(self) -> dict[str, Any]:
        """The next message."""
        try:
            header, _ = frames.receive(self.stream, MAX_MESSAGE_BYTES)
        except (frames.Closed, OSError) as error:
            raise PeerGone(str(error)) from None
        return header

    def _export(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["yours", object.__getattribute__(value, "_id")]
        identity = self.ids.get(id(value))
        if identity is None:
            identity = len(self.objects)
            self.objects[identity] = value  # kept for good: an id is never given to another object
            self.ids[id(value)] = identity
        return ["h", identity]

    def _adopt(self, wire: list[Any]) -> Any:
        if len(wire) == 2 and wire[0] == "yours" and wire[1] in self.objects:
            return self.objects[wire[1]]
        if len(wire) == 2 and wire[0] == "h" and type(wire[1]) is int:
            return Remote(self, wire[1])
        raise values.NotPlain("not an encoded value: an unknown handle")

    @staticmethod
    def _exception(message: dict[str, Any]) -> Exception:
        text = str(message.get("text"))[:2000]
        names = message.get("raised")
        if isinstance(names, list) and names and names[0] in ("StopIteration", "StopAsyncIteration"):
            error = RemoteError(f"{names[0]}: {text}")  # raised in map() or zip() of the tests, it would end them
            error.stop = True
            return error
        for name in names if isinstance(names, list) else ():
            kind = getattr(builtins, name, None) if isinstance(name, str) else None
            if kind in (StopIteration, StopAsyncIteration):
                break
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    return kind(text)
                except TypeError:  # UnicodeDecodeError and the like want more arguments
                    break
        return RemoteError(f"{names[0] if isinstance(names, list) and names else 'exception'}: {text}")


def describe(error: BaseException) -> dict[str, Any]:
    """An exception on the wire. Those that would end an interpreter become a plain one."""
    kinds = type(error).__mro__ if not isinstance(error, _NOT_TO_RAISE) else (RuntimeError, Exception)
    try:
        text = str(error)
    except BaseException:
        text = "?"
    if isinstance(error, _NOT_TO_RAISE):
        text = f"{type(error).__name__}({text})"
    return {"raised": [kind.__name__ for kind in kinds if kind is not object], "text": text[:2000]}

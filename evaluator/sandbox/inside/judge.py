"""The judge's side of function tests: runs the test code in a cell of its own, with the program behind handles.

Descriptor 3 is the channel to the program (serve.py), descriptor 4 the one to the host:

    host -> {"op": "load"}                 answered by {"ok": true} | {"error": "..."} once the program is loaded
    host -> {"op": "test", "index": i}     answered by {"result": "pass" | "fail" | "error", "detail": "..."};
                                           "gone" in it: the program ended

`blob` is JSON: {"kind": "assert", "code", "entry_point"} or {"kind": "asserts", "setup", "code": [...]}. Names that the
test code uses and does not define are the program's globals; builtins and modules are always the judge's own.
"""

from __future__ import annotations

import ast
import builtins
import json
import socket
import sys
import types
from collections.abc import Set
from typing import Any

from . import frames, program, rpc

MODULE = "judge"


class Missing(Exception):
    """The program does not define what the tests call."""


def run(header: dict[str, Any], blob: bytes) -> int:
    """Serve the host until it closes the channel."""
    program_stream, host = socket.socket(fileno=3), socket.socket(fileno=4)
    program.prepare()
    tests = json.loads(blob)
    bench: Bench | None = None
    while True:
        try:
            request, _ = frames.receive(host)
        except frames.Closed:
            return 0
        if request["op"] == "load":
            bench, reply = _load(program_stream, tests)
        else:
            assert bench is not None
            reply = bench.test(int(request["index"]))
        frames.send(host, reply)


def _load(stream: socket.socket, tests: dict[str, Any]) -> tuple[Bench | None, dict[str, Any]]:
    try:
        bench = Bench(stream, tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        return None, {"broken": f"the test code does not compile: {error}"}
    try:
        bench.load()
    except (rpc.PeerGone, Missing) as error:
        return None, {"error": str(error) or type(error).__name__}
    except BaseException as error:
        return None, {"error": f"{type(error).__name__}: {error}"}
    return bench, {"ok": True}


class Bench:
    """The tests' namespace and the connection to the program."""

    def __init__(self, stream: socket.socket, tests: dict[str, Any]) -> None:
        self.peer = rpc.Peer(stream, may)
        self.tests = tests
        self.namespace: dict[str, Any] = program.new_module(MODULE).__dict__
        setup, texts = (
            (tests["setup"], tests["code"]) if tests["kind"] == "asserts" else (tests["code"], ["check(candidate)"])
        )
        self.trees = [ast.parse(text) for text in (setup, *texts)]
        self.codes = [compile(tree, f"<test {index}>", "exec") for index, tree in enumerate(self.trees)]
        nodes = [node for tree in self.trees for node in ast.walk(tree)]
        bases = [node.value for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        of_bases = set(map(id, bases))
        others = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in of_bases}
        # Names that the tests use as modules of the standard library, and all that the program may have a say in.
        self.modules: Set[str] = sys.stdlib_module_names & {base.id for base in bases} - others
        self.names = {node.id for node in nodes if isinstance(node, ast.Name)} - {"__builtins__"}
        if "entry_point" in tests:
            self.names = self.names - {"check", "candidate"} | {tests["entry_point"]}

    def load(self) -> None:
        """Wait for the program, fetch its names, run the setup. Missing, rpc.PeerGone, or what the setup raises."""
        first = self.peer.receive()
        if first.get("loaded") is not True:
            raise Missing(f"the program raised {(first.get('raised') or ['?'])[0]}: {str(first.get('text'))[:300]}")
        entry = self.tests.get("entry_point")
        self._fetch(sorted(name for name in self.names if not hasattr(builtins, name) or name == entry))
        if entry is not None:
            if entry not in self.namespace:
                raise Missing(f"the program does not define {entry!r}")
            self.namespace["candidate"] = function = self.namespace[entry]
            if hasattr(builtins, entry):
                del self.namespace[entry]  # the tests' own `sum` is the builtin
        exec(self.codes[0], self.namespace)
        if entry is not None:
            self.namespace["candidate"] = function

    def test(self, index: int) -> dict[str, Any]:
        """Run one test."""
        try:
            exec(self.codes[1 + index], self.namespace)
        except AssertionError as error:
            return {"result": "fail", "detail": _line(error)}
        except rpc.PeerGone as error:
            return {"result": "error", "detail": _line(error), "gone": True}
        except rpc.RemoteError as error:
            return {"result": "error", "detail": _line(error)}
        except BaseException as error:
            # Raised by the program in the call that the test made, or by the test on what came back?
            crashed = error is self.peer.last_error
            return {"result": "error" if crashed else "fail", "detail": _line(error)}
        return {"result": "pass", "detail": ""}

    def _fetch(self, names: list[str]) -> None:
        self.peer.send({"op": "globals", "names": names})
        found = self.peer.receive().get("globals")
        for name, entry in found.items() if isinstance(found, dict) else ():
            if name not in names or not isinstance(entry, list) or not entry:
                continue
            if name in self.modules or (len(entry) == 2 and name in sys.stdlib_module_names):
                self._import(name, name)  # whatever the program holds `math` to be
            elif len(entry) == 2:
                self._import(name, entry[1])
            else:
                self.namespace[name] = self.peer.decode(entry[0])

    def _import(self, name: str, module: Any) -> None:
        """The judge's own copy of a module of the standard library that the program imported."""
        if str(module).partition(".")[0] not in sys.stdlib_module_names:
            return
        try:
            self.namespace[name] = __import__(str(module), fromlist=["*"])
        except Exception:
            return


def may(operation: str, target: Any, args: tuple[Any, ...]) -> bool:
    """What the program may do with objects of the test code: call its functions, use objects of its classes by
    their plain attributes. Everything else leads to the judge's own frames and globals."""
    ours = getattr(type(target), "__module__", None) == MODULE
    if operation == "call":
        return isinstance(target, types.FunctionType | types.MethodType | type) and target.__module__ == MODULE
    if operation in ("getattr", "setattr"):
        return ours and isinstance(args[0], str) and not args[0].startswith("_")
    return operation in ("len", "getitem", "isinstance") and ours


def _line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__

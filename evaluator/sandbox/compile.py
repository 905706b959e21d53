"""Compiles programs in cells: from a cache if the same sources came before, by a warm compiler, or by a fresh one.

    sources --cache?--> artefacts
            --server cell (a compiler that stays up)--> artefacts     Java, TypeScript
            --cell of its own--> artefacts                            C++ (headers compiled ahead), C#

A server only ever compiles: no annotation processors, nothing of a program is run in it. One that fails, hangs or dies
is replaced, and its program is compiled anew by a fresh compiler.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import select
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluator.sandbox import InfraError, tools
from evaluator.sandbox.drivers import Program
from evaluator.sandbox.jail import Cell, CellLimits, Jail
from evaluator.sandbox.languages import Language
from evaluator.sandbox.watch import run, tree_cpu_s

CACHE_BYTES = 256 * 1024 * 1024
WORK = "/tmp/work"
MEMORY_MB = 1536
STACK_MB = 64
NEEDS_PROC = ("csharp",)  # mono
_OUTPUT_KB = 64
_MAX_REPLY_BYTES = 64 * 1024 * 1024
_PROGRAMS_PER_SERVER = 500  # then a fresh one: what compilers keep of each program adds up
_SERVER_START_S = 60.0
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Compiled:
    """`artefacts` by name; or None, and then `diagnostics` say why the program is at fault."""

    artefacts: Mapping[str, bytes] | None
    diagnostics: str
    cpu_s: float

    @property
    def size_bytes(self) -> int:
        """What keeping it costs."""
        return len(self.diagnostics) + sum(map(len, (self.artefacts or {}).values()))


class Compiler:
    """Compiles for all slots; thread-safe."""

    def __init__(self, jail: Jail, toolchain: str) -> None:
        self._jail, self._toolchain = jail, toolchain
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Compiled] = OrderedDict()
        self._cached_bytes = 0
        self._idle: dict[str, list[_Server]] = {}

    def compile(self, language: Language, program: Program, argv: list[str], limit_s: float) -> Compiled:
        """Compile `program` with `argv` (found already). InfraError when no compiler can be had."""
        key = _key(argv, program.sources)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                known = self._cache[key]
                return Compiled(known.artefacts, known.diagnostics, 0.0)
        compiled = self._by_server(language, program, limit_s) if language.server else None
        if compiled is None:
            compiled = self._afresh(language, program, argv, limit_s)
        self._keep(key, compiled)
        return compiled

    def close(self) -> None:
        """End the warm compilers."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for servers in idle.values():
            for server in servers:
                server.close()

    def _afresh(self, language: Language, program: Program, argv: list[str], limit_s: float) -> Compiled:
        cell = self._jail.spawn(_limits(language))
        try:
            why = cell.put({name: _encoded(text) for name, text in program.sources.items()})
            if why is not None:
                return Compiled(None, f"its source cannot be written: {why}", 0.0)
            header = _header(argv, language, self._toolchain)
            outcome = run(cell, header, time_s=limit_s, output_kb=_OUTPUT_KB)
            artefacts = None
            diagnostics = (outcome.stderr.text() + outcome.stdout.text()).strip()
            if outcome.limit is not None:
                what = f"{limit_s:g} s" if outcome.limit == "time" else f"{MEMORY_MB} MiB"
                diagnostics = f"its compilation took more than {what}"
            elif outcome.exit_code == 0:
                artefacts = cell.fetch(list(language.artefacts))
                diagnostics = diagnostics if artefacts else "its compilation left nothing to run"
        except (OSError, EOFError) as error:
            if cell.orphaned:
                raise InfraError(f"{language.name}: the compiler's cell died: {error}") from None
            artefacts, diagnostics = None, "its compilation took the compiler's cell down"
        finally:
            used = cell.close().cpu_s
        return Compiled(artefacts or None, diagnostics, used)

    def _by_server(self, language: Language, program: Program, limit_s: float) -> Compiled | None:
        """None if the server could not tell: then a fresh compiler does."""
        with self._lock:
            idle = self._idle.setdefault(language.name, [])
            server = idle.pop() if idle else None
        if server is None:
            server = _Server(self._jail, language, self._toolchain)
        compiled = server.compile(program, limit_s)
        if compiled is None or server.worn:
            server.close()
        else:
            with self._lock:
                self._idle.setdefault(language.name, []).append(server)
        return compiled

    def _keep(self, key: str, compiled: Compiled) -> None:
        with self._lock:
            if key in self._cache:
                return
            self._cache[key] = compiled
            self._cached_bytes += compiled.size_bytes
            while self._cached_bytes > CACHE_BYTES:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= dropped.size_bytes


class _Server:
    """A compiler that stays up, in a cell of its own. One thread uses it at a time."""

    def __init__(self, jail: Jail, language: Language, toolchain: str) -> None:
        assert language.server is not None
        argv = tools.resolve([word.replace("{toolchain}", toolchain) for word in language.server])
        self._cell: Cell = jail.spawn(_limits(language))
        self._num = 0
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        nowhere = os.open("/dev/null", os.O_WRONLY)
        try:
            header = {"op": "run", "time_s": 3600 * 24, **_header(argv, language, toolchain)}
            self._cell.send(header, b"", (theirs_in, theirs_out, nowhere))
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in (theirs_in, theirs_out, nowhere):
                os.close(descriptor)

    @property
    def worn(self) -> bool:
        """Whether it has compiled enough."""
        return self._num >= _PROGRAMS_PER_SERVER

    def compile(self, program: Program, limit_s: float) -> Compiled | None:
        """Ask for one program; None if no sensible reply came in time."""
        deadline = time.monotonic() + limit_s + (_SERVER_START_S if self._num == 0 else 0.0)
        self._num += 1
        before = tree_cpu_s(self._cell)
        request = json.dumps({"files": program.sources}).encode()
        try:
            self._write(_LENGTH.pack(len(request)) + request, deadline)
            size = _LENGTH.unpack(self._read(_LENGTH.size, deadline))[0]
            if size > _MAX_REPLY_BYTES:
                return None
            reply = json.loads(self._read(size, deadline))
            used = max(0.0, tree_cpu_s(self._cell) - before)
            if not reply["ok"]:
                return Compiled(None, str(reply["diagnostics"]), used)
            files = {str(name): base64.b64decode(data) for name, data in reply["files"].items()}
            return Compiled(files, "", used) if files else None
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def close(self) -> None:
        """End it."""
        for descriptor in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._to = self._from = -1
        self._cell.close()

    def _write(self, data: bytes, deadline: float) -> None:
        os.set_blocking(self._to, False)
        view = memoryview(data)
        while view:
            _wait(self._to, select.POLLOUT, deadline)
            view = view[os.write(self._to, view) :]

    def _read(self, size: int, deadline: float) -> bytes:
        pieces = bytearray()
        while len(pieces) < size:
            _wait(self._from, select.POLLIN, deadline)
            piece = os.read(self._from, min(1 << 16, size - len(pieces)))
            if not piece:
                raise EOFError
            pieces += piece
        return bytes(pieces)


def _header(argv: list[str], language: Language, toolchain: str) -> dict[str, Any]:
    # Run-time systems give each of their threads a stack of the limit's size, and all count as memory.
    environment = language.environment(WORK, toolchain, MEMORY_MB)
    return {"argv": argv, "environment": environment, "stack_mb": STACK_MB}


def _limits(language: Language) -> CellLimits:
    return CellLimits(memory_mb=MEMORY_MB, pids=128, disk_mb=128, proc=language.name in NEEDS_PROC)


def _wait(descriptor: int, events: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, events)
    if not poll.poll(max(0.0, (deadline - time.monotonic()) * 1000)):
        raise TimeoutError


def _key(argv: list[str], sources: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([argv, sorted(sources.items())]).encode())
    return digest.hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

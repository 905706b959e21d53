"""Runs a Python program in the child of a cell: as __main__ with its own standard streams, or as a module to be called.

The interpreter is the zygote's, already booted with the usual modules imported: that is what makes a program cheaper
here than in an interpreter of its own.
"""

from __future__ import annotations

import atexit
import builtins
import io
import signal
import sys
import types
from typing import Any

FILE = "main.py"
_sources: dict[str, str] = {}


def run(header: dict[str, Any], blob: bytes) -> int:
    """Run the program `blob` as __main__; its exit code."""
    prepare()
    module = new_module("__main__")
    return finish(lambda: exec(compile_source(blob.decode("utf-8", "surrogatepass")), module.__dict__))


def prepare() -> None:
    """Fresh standard streams on descriptors 0-2, and the state that an interpreter starts a program in."""
    stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    output = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    stdout = io.TextIOWrapper(output, "utf-8")
    errors = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    stderr = io.TextIOWrapper(errors, "utf-8", "backslashreplace", line_buffering=True)
    for name, stream in ("stdin", stdin), ("stdout", stdout), ("stderr", stderr):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [FILE]
    sys.path[0:1] = ["/tmp/work"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def new_module(name: str) -> types.ModuleType:
    """The module that the program's text will be executed in."""
    module = types.ModuleType(name)
    module.__dict__.update(__file__=FILE, __builtins__=builtins)
    sys.modules[name] = module
    return module


def compile_source(source: str) -> types.CodeType:
    """Code object; tracebacks show the source's lines."""
    source = source.removeprefix("\ufeff")
    _sources[FILE] = source
    code: types.CodeType = compile(source, FILE, "exec", dont_inherit=True)
    return code


def finish(body: Any) -> int:
    """Run `body` to the end of a program: threads joined, exit functions called, streams flushed; the exit code."""
    code = 0
    try:
        body()
    except SystemExit as end:
        code = exit_code(end)
    except BaseException:
        show(*sys.exc_info())
        code = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        show(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 120
    return code


def exit_code(end: SystemExit) -> int:
    """What the interpreter makes of SystemExit."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def show(kind: Any, error: Any, trace: Any) -> None:
    """Print a traceback without our own frames."""
    import linecache
    import traceback

    for name, source in _sources.items():
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    while trace is not None and trace.tb_frame.f_code.co_filename != FILE and trace.tb_next is not None:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace, file=sys.__stderr__)

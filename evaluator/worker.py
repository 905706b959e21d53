"""The child side of the pool: runs one call at a time and answers in JSON (a worker that ran a model's text is not
trusted with pickles).

    parent -> {"target": "module:function", "arguments": {...}}
    child  -> {"started": true}                 after imports and the module's `prepare`: from here on the limit counts
    child  -> {"value": ...} | {"error": "..."} | {"memory": true} (and exits: its state is in doubt)

A worker cannot outlive its parent. It ignores SIGTERM and SIGINT as the zygote does: stopping is the owner's business.
"""

from __future__ import annotations

import importlib
import json
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from common.lifecycle import die_with_parent


def main(connection: Connection[Any, Any], warm: tuple[str, ...], memory_bytes: int | None) -> None:
    """Entry of a worker process: import and run `warm` ("module:function", no arguments), then serve calls."""
    die_with_parent()
    try:
        for target in warm:
            resolve(target)[0]()
    except Exception as error:
        send(connection, {"error": f"{target}: {describe(error)}"})
        return
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    send(connection, {"started": True})
    try:
        while serve(connection):
            pass
    except (EOFError, ConnectionError):
        return


def serve(connection: Connection[Any, Any]) -> bool:
    """One call; False when the worker must not take another."""
    request = json.loads(connection.recv_bytes())
    arguments: dict[str, Any] = request["arguments"]
    try:
        function, prepare = resolve(request["target"])
        if prepare is not None:
            prepare(**arguments)
        send(connection, {"started": True})
        send(connection, {"value": function(**arguments)})
    except MemoryError:
        send(connection, {"memory": True})
        return False
    except Exception as error:  # whatever a grader raises is reported to the parent, which returns the lease
        send(connection, {"error": describe(error)})
    return True


def resolve(target: str) -> tuple[Callable[..., Any], Callable[..., None] | None]:
    """The function "module:function" and its module's `prepare`, if it has one."""
    module_name, _, name = target.partition(":")
    module = importlib.import_module(module_name)
    function: Callable[..., Any] = getattr(module, name)
    return function, getattr(module, "prepare", None)


def describe(error: BaseException) -> str:
    """Type, text and place of an error, one line."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def send(connection: Connection[Any, Any], reply: dict[str, Any]) -> None:
    """Send one JSON object."""
    connection.send_bytes(json.dumps(reply).encode())


def _limit_memory(memory_bytes: int) -> None:
    """Let the address space grow by `memory_bytes` from here; more raises MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))

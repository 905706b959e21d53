"""The program's side of function tests: load it as a module, then let the judge call what it defines.

Everything here shares an interpreter with the program, which may therefore do anything to it; it can only change what
it answers with. The channel is descriptor 3.

    us -> {"loaded": true} | {"raised": [...], "text": "..."}     after the program's own code ran
    judge -> {"op": "globals", "names": [...]}                    its globals of these names: data, handles, or modules
    judge -> anything of rpc.py
"""

from __future__ import annotations

import socket
import sys
import types
from typing import Any

from . import program, rpc

MODULE = "solution"


def run(header: dict[str, Any], blob: bytes) -> int:
    """Serve until the judge closes the channel; the exit code does not matter."""
    stream = socket.socket(fileno=3)
    peer = rpc.Peer(stream, lambda operation, target, args: True)
    program.prepare()
    module = program.new_module(MODULE)
    try:
        exec(program.compile_source(blob.decode("utf-8", "surrogatepass")), module.__dict__)
    except BaseException as error:
        program.show(*sys.exc_info())
        peer.send(rpc.describe(error))
        return 0
    peer.send({"loaded": True})
    while True:
        try:
            message = peer.receive()
            if message["op"] == "globals":
                peer.send({"globals": {name: _global(peer, module, name) for name in message["names"]}})
            else:
                peer.serve(message)
        except rpc.PeerGone:
            return 0


def _global(peer: Any, module: types.ModuleType, name: str) -> Any:
    """None where there is no such global; else [encoding] or [None, name of a module]."""
    if name not in module.__dict__:
        return None
    value = module.__dict__[name]
    if isinstance(value, types.ModuleType):
        return [None, value.__name__]
    try:
        return [peer.encode(value)]
    except ValueError:
        return None

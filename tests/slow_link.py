"""A TCP connection that carries so many bytes a second: a slow link, or one actor's share of a fast one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

_PIECE_BYTES = 8 * 1024
_BUFFER_BYTES = 64 * 1024  # the kernel's own would swallow megabytes at once


@contextlib.asynccontextmanager
async def slow_link(port: int, bytes_per_s: float) -> AsyncIterator[int]:
    """Relays to 127.0.0.1:`port`, each connection and way at `bytes_per_s`; yields the port to connect to."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while piece := await reader.read(_PIECE_BYTES):
                due = max(due, loop.time()) + len(piece) / bytes_per_s
                await asyncio.sleep(due - loop.time())
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # either end gave the connection up
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        tasks.add(this)
        onward = _socket()
        onward.setblocking(False)
        await asyncio.get_running_loop().sock_connect(onward, ("127.0.0.1", port))
        far_reader, far_writer = await asyncio.open_connection(sock=onward, limit=_PIECE_BYTES)
        for end in (writer, far_writer):
            end.transport.set_write_buffer_limits(high=_PIECE_BYTES)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    listener = _socket()
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(accept, sock=listener, limit=_PIECE_BYTES)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _socket() -> socket.socket:
    made = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return made

"""A pod's port, forwarded over a WebSocket as Kubernetes does it: channel 0 has data, channel 1 errors."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def forward(handler: BaseHTTPRequestHandler, port: int, serve: Callable[[str], tuple[int, str]] | None) -> None:
    """Answer one HTTP request with what `serve` makes of its path; None: nothing listens on the port."""
    key = str(handler.headers["Sec-WebSocket-Key"]) + _GUID
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        "Sec-WebSocket-Protocol: v4.channel.k8s.io",
    )
    handler.wfile.write("\r\n".join([*lines, "", ""]).encode())
    handler.close_connection = True

    def send(data: bytes, opcode: int = 2) -> None:
        size = struct.pack("!BBH", 0x80 | opcode, 126, len(data))
        handler.wfile.write(size + data)
        handler.wfile.flush()

    send(b"\0" + struct.pack("<H", port))
    send(b"\1" + struct.pack("<H", port))
    if serve is None:
        send(b"\1dial tcp4 127.0.0.1: connection refused")
    else:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += _frame(handler)[1:]
        status, text = serve(asked.split()[1].decode())
        body = text.encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        for begin in range(0, len(body) + 1, 60_000):
            part = (head.encode() if begin == 0 else b"") + body[begin : begin + 60_000]
            send(b"\0" + part)
    with contextlib.suppress(OSError, struct.error):
        while True:
            _frame(handler)  # until the client closes


def _frame(handler: BaseHTTPRequestHandler) -> bytes:
    """Payload of one masked frame; OSError at the end."""
    first, second = struct.unpack("!BB", handler.rfile.read(2))
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", handler.rfile.read(2))
    mask = handler.rfile.read(4)
    payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(handler.rfile.read(size)))
    if first & 0x0F == 8:
        raise OSError("closed")
    return payload

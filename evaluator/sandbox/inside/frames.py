"""How host, cells, programs and judges talk: frames on a stream socket, nothing that has to be trusted to be decoded.

    8 bytes   two big-endian lengths
    header    JSON object
    blob      bytes (files, source text)

File descriptors travel with the first byte of a frame.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_LENGTHS = struct.Struct(">II")
MAX_FRAME_BYTES = 256 * 1024 * 1024
MAX_DESCRIPTORS = 8


class Closed(EOFError):
    """The other side is gone, or broke the framing."""


class TooLarge(Closed):
    """A frame longer than the receiver takes."""


def send(stream: socket.socket, header: dict[str, Any], blob: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
    """Send one frame; OSError when the other side is gone."""
    encoded = json.dumps(header).encode("ascii")
    message = _LENGTHS.pack(len(encoded), len(blob)) + encoded + blob
    if descriptors:
        sent = socket.send_fds(stream, [message], list(descriptors))
        message = message[sent:]
    if message:
        stream.sendall(message)


def receive(
    stream: socket.socket, max_bytes: int = MAX_FRAME_BYTES, deadline: float | None = None
) -> tuple[dict[str, Any], bytes]:
    """Header and blob of the next frame; Closed at the end of the stream or for a frame out of bounds.

    `deadline` (monotonic seconds) is for the whole frame, however it trickles in: TimeoutError. Descriptors that come
    along are thrown away by the kernel, since nobody asks for them.
    """
    return _rest(stream, b"", max_bytes, deadline)


def receive_with_descriptors(stream: socket.socket) -> tuple[dict[str, Any], bytes, list[int]]:
    """The same from somebody who is trusted, with the descriptors that came along."""
    first, descriptors, _, _ = socket.recv_fds(stream, _LENGTHS.size, MAX_DESCRIPTORS)
    if not first:
        raise Closed("closed")
    return (*_rest(stream, first, MAX_FRAME_BYTES, None), descriptors)


def _rest(stream: socket.socket, first: bytes, max_bytes: int, deadline: float | None) -> tuple[dict[str, Any], bytes]:
    first += _exactly(stream, _LENGTHS.size - len(first), deadline)
    header_bytes, blob_bytes = _LENGTHS.unpack(first)
    if header_bytes + blob_bytes > max_bytes:
        raise TooLarge(f"a frame of {header_bytes + blob_bytes} bytes (at most {max_bytes})")
    try:
        header = json.loads(_exactly(stream, header_bytes, deadline))
    except (ValueError, RecursionError) as error:
        raise Closed(f"not a frame: {error}") from None
    if not isinstance(header, dict):
        raise Closed("not a frame: its header is no object")
    return header, _exactly(stream, blob_bytes, deadline)


def _exactly(stream: socket.socket, size: int, deadline: float | None) -> bytes:
    pieces: list[bytes] = []
    while size:
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            stream.settimeout(left_s)
        piece = stream.recv(min(size, 1 << 20))
        if not piece:
            raise Closed("closed" if not pieces else "closed in the middle of a frame")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)

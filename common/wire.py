"""Wire format: `[header: msgpack, at most 64 KB] [payload frames...]`.

Arrays travel as raw buffers, described in the header by dtype, shape, length and crc32; nothing is ever pickled.
Everything received is checked before anything is believed: header size, frame count, total size, lengths, digests.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import SchemaMismatch, WireError
from common.message_parts import check_schema
from common.messages import MESSAGE, FrameRef, Header

MAX_HEADER_BYTES = 64 * 1024
MAX_FRAMES = 64
COPY_THRESHOLD_BYTES = 1024 * 1024

Array = NDArray[Any]
Payload = dict[str, Array | bytes]
_DTYPES = {"int32": np.int32, "int64": np.int64, "float32": np.float32, "uint8": np.uint8}


class Envelope:
    """A decoded message: `header` and its named payload frames."""

    __slots__ = ("header", "payload")

    def __init__(self, header: Header, payload: Payload) -> None:
        self.header = header
        self.payload = payload

    def array(self, name: str, dtype: str, ndim: int = 1) -> Array:
        """Frame `name` as an array; WireError unless it is there with that dtype and number of dimensions."""
        value = self.payload.get(name)
        if not isinstance(value, np.ndarray) or value.dtype != np.dtype(dtype) or value.ndim != ndim:
            raise WireError(f"{_type(self.header)}: frame {name!r} must be {dtype} with {ndim} dimension(s)")
        return value

    def blob(self, name: str) -> bytes:
        """Frame `name` as bytes; WireError if absent."""
        value = self.payload.get(name)
        if not isinstance(value, bytes):
            raise WireError(f"{_type(self.header)}: frame {name!r} must be bytes")
        return value

    def text(self, name: str) -> str:
        """Frame `name` decoded as UTF-8."""
        try:
            return self.blob(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"{_type(self.header)}: frame {name!r} is not UTF-8: {error}") from None

    def __repr__(self) -> str:
        return f"Envelope({self.header!r}, frames={sorted(self.payload)})"


def encode(header: Header, payload: Mapping[str, Array | bytes] | None = None) -> list[bytes | memoryview]:
    """Frames of a message, header first. Arrays are sent without a copy, so leave them unchanged until sent."""
    refs: list[FrameRef] = []
    buffers: list[bytes | memoryview] = []
    for name, value in (payload or {}).items():
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            dtype, shape = array.dtype.name, list(array.shape)
            if dtype not in _DTYPES:
                raise WireError(f"{_type(header)}: frame {name!r} has dtype {dtype}, not one of {sorted(_DTYPES)}")
            buffer: bytes | memoryview = array.reshape(-1).view(np.uint8).data if array.size else b""
        else:
            dtype, shape, buffer = "bytes", [len(value)], value
        size = len(buffer)
        refs.append(
            FrameRef.model_construct(
                name=name, dtype=cast(Any, dtype), shape=shape, size_bytes=size, crc32=zlib.crc32(buffer)
            )
        )
        buffers.append(buffer)
    fields = header.model_dump(exclude={"frames"})
    fields["frames"] = [ref.model_dump() for ref in refs]
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    if len(packed) > MAX_HEADER_BYTES:
        raise WireError(
            f"{_type(header)}: header of {len(packed)} bytes exceeds {MAX_HEADER_BYTES}; move text to frames"
        )
    if len(buffers) > MAX_FRAMES:
        raise WireError(f"{_type(header)}: {len(buffers)} frames exceed {MAX_FRAMES}")
    return [packed, *buffers]


def decode(frames: Sequence[bytes | memoryview], *, max_total_bytes: int = 1 << 30) -> Envelope:
    """Validate and decode; raises WireError with what is wrong, SchemaMismatch for the messages of another version.
    Arrays are read-only views on the frames."""
    if not frames:
        raise WireError("message without a header frame")
    if len(frames) - 1 > MAX_FRAMES:
        raise WireError(f"{len(frames) - 1} payload frames exceed {MAX_FRAMES}")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise WireError(f"header of {len(frames[0])} bytes exceeds {MAX_HEADER_BYTES}")
    total = sum(len(frame) for frame in frames)
    if total > max_total_bytes:
        raise WireError(f"message of {total} bytes exceeds {max_total_bytes}")
    try:
        fields = msgpack.unpackb(frames[0], raw=False, strict_map_key=True)
        check_schema(fields)
        header = MESSAGE.validate_python(fields)
    except SchemaMismatch:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise WireError(f"header refused: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise WireError(f"header is not valid msgpack: {type(error).__name__}: {error}") from None
    if len(header.frames) != len(frames) - 1:
        raise WireError(f"{_type(header)}: header describes {len(header.frames)} frames, {len(frames) - 1} came")
    payload: Payload = {}
    for ref, frame in zip(header.frames, frames[1:], strict=True):
        if ref.name in payload:
            raise WireError(f"{_type(header)}: frame {ref.name!r} appears twice")
        payload[ref.name] = _decode_frame(header, ref, frame)
    return Envelope(header, payload)


def _decode_frame(header: Header, ref: FrameRef, frame: bytes | memoryview) -> Array | bytes:
    itemsize = 1 if ref.dtype == "bytes" else np.dtype(_DTYPES[ref.dtype]).itemsize
    if len(frame) != ref.size_bytes or math.prod(ref.shape) * itemsize != ref.size_bytes:
        raise WireError(
            f"{_type(header)}: frame {ref.name!r} has {len(frame)} bytes, described as {ref.dtype}{ref.shape} "
            f"in {ref.size_bytes}"
        )
    if zlib.crc32(frame) != ref.crc32:
        raise WireError(f"{_type(header)}: frame {ref.name!r} fails its crc32")
    if ref.dtype == "bytes":
        return bytes(frame)
    try:
        array = np.frombuffer(frame, dtype=_DTYPES[ref.dtype]).reshape(ref.shape)
    except ValueError as error:  # beside a dimension of 0, others may be larger than any array's
        raise WireError(f"{_type(header)}: frame {ref.name!r} cannot have shape {ref.shape}: {error}") from None
    array.flags.writeable = False
    return array


def _type(header: Header) -> str:
    return str(getattr(header, "type", type(header).__name__))

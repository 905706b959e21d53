"""The bytes of a set of weights: which parameter lies where in one flat buffer, and the digest over all of it.

    manifest (JSON list of ParameterMeta, in order)  ->  Layout: slots of ALIGNMENT-aligned bytes in one buffer
    | embed_tokens | pad | layers.0.q_proj | pad | ... |     padding is zero, so equal weights have equal digests

The learner fills such a buffer, transports move it without knowing what is in it, the actor cuts it up again. Both
sides derive the layout from the same manifest, so no offsets cross the wire. Free of torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from common.errors import WireError
from common.messages import ParameterMeta

ALIGNMENT = 64
"""Slots start at multiples of this many bytes: enough for every dtype's loads on CPUs and GPUs."""

MAX_PARAMETERS = 1_000_000
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_METAS = TypeAdapter(list[ParameterMeta])


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies: bytes [offset, offset + size_bytes) of the buffer, C-contiguous."""

    meta: ParameterMeta
    offset: int
    size_bytes: int


class Layout:
    """Slots of all parameters, in order. `total_bytes` includes the padding after each slot."""

    def __init__(self, metas: Iterable[ParameterMeta]) -> None:
        """WireError when names repeat, or there are none or too many."""
        slots: list[Slot] = []
        names: set[str] = set()
        offset = 0
        for meta in metas:
            if meta.name in names:
                raise WireError(f"weights manifest: parameter {meta.name!r} appears twice")
            names.add(meta.name)
            size = math.prod(meta.shape) * ITEM_BYTES[meta.dtype]
            slots.append(Slot(meta, offset, size))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        if not 0 < len(slots) <= MAX_PARAMETERS:
            raise WireError(f"weights manifest: {len(slots)} parameters; expected 1 to {MAX_PARAMETERS}")
        self.slots = tuple(slots)
        self.total_bytes = offset

    @classmethod
    def from_manifest(cls, manifest: bytes) -> Layout:
        """Parse a manifest that came over a socket; WireError for anything but a valid one."""
        if len(manifest) > MAX_MANIFEST_BYTES:
            raise WireError(f"weights manifest of {len(manifest)} bytes exceeds {MAX_MANIFEST_BYTES}")
        try:
            return cls(_METAS.validate_json(manifest, strict=True))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise WireError(f"weights manifest: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def manifest(self) -> bytes:
        """JSON that `from_manifest` reads back to an equal layout."""
        return _METAS.dump_json([slot.meta for slot in self.slots])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.slots == other.slots

    __hash__ = None  # type: ignore[assignment]

    def buckets(self, bucket_bytes: int) -> Iterator[tuple[int, int]]:
        """Cut [0, total_bytes) into ranges of at most `bucket_bytes`, regardless of where parameters end."""
        for start in range(0, self.total_bytes, bucket_bytes):
            yield start, min(start + bucket_bytes, self.total_bytes)


def digest_of(*buffers: Any) -> str:
    """blake2b (32 bytes, hexadecimal) over buffers, one after the other. Releases the GIL."""
    state = hashlib.blake2b(digest_size=32)
    for buffer in buffers:
        state.update(buffer)
    return state.hexdigest()


# ------------------------------------------------------------------ CUDA IPC

STAMP_BYTES = ALIGNMENT
"""A buffer shared by CUDA IPC begins with its version (int64), so that a reader sees when it was written over."""
STAMP_WRITING = -1
"""Stands in place of the version while the buffer is being written."""


@dataclass(frozen=True)
class IpcHandle:
    """What another process needs to map a uint8 CUDA buffer: `torch.multiprocessing.reductions.reduce_tensor`, plainly.

    `device_uuid` names the card; the byte strings are CUDA's and PyTorch's own tokens.
    """

    device_uuid: str
    num_bytes: int
    tensor_offset: int
    device_index: int
    memory_handle: bytes
    storage_size_bytes: int
    storage_offset_bytes: int
    ref_counter_handle: bytes
    ref_counter_offset: int
    event_handle: bytes
    event_sync_required: bool

    _TOKENS: ClassVar[tuple[str, ...]] = ("memory_handle", "ref_counter_handle", "event_handle")
    _TYPES: ClassVar[dict[str, type]] = {"device_uuid": str, "event_sync_required": bool}

    def to_json(self) -> bytes:
        """JSON with base64 for the tokens."""
        plain = asdict(self)
        for name in self._TOKENS:
            plain[name] = base64.b64encode(plain[name]).decode("ascii")
        return json.dumps(plain).encode()

    @classmethod
    def from_json(cls, text: bytes | str) -> IpcHandle:
        """Inverse of `to_json`; WireError for anything that is not exactly such an object."""
        try:
            plain = json.loads(text)
            if not isinstance(plain, dict) or set(plain) != {f.name for f in fields(cls)}:
                raise ValueError("expected the fields of an IpcHandle")
            for name in cls._TOKENS:
                plain[name] = base64.b64decode(plain[name], validate=True)
            for name, value in plain.items():
                expected = bytes if name in cls._TOKENS else cls._TYPES.get(name, int)
                if type(value) is not expected or (isinstance(value, int) and value < 0):
                    raise ValueError(f"{name} = {value!r}")
        except (ValueError, TypeError) as error:
            raise WireError(f"CUDA IPC handle: {error}") from None
        return cls(**plain)

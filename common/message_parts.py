"""What messages are made of: bounded scalars, and the strict models that headers and their parts derive from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=128)]
ProcessName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0)]
Version = Annotated[int, Field(ge=0, lt=2**31 - 1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of headers and what they contain: unknown fields refused, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FrameRef(Part):
    """Describes one payload frame: `bytes`, or a C-contiguous array of `dtype` and `shape`."""

    name: Name
    dtype: Literal["bytes", "int32", "int64", "float32", "uint8"]
    shape: list[Count] = Field(max_length=4)
    size_bytes: Count
    crc32: Count


class Header(Part):
    """Base of all messages. `frames` is filled in by the codec, in frame order."""

    v: Literal[1] = 1
    request_id: Count = 0
    frames: list[FrameRef] = Field(default_factory=list, max_length=64)

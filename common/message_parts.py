"""What messages are made of: bounded scalars, the strict models that headers and their parts derive from, and the
version of the language that they are together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.errors import SchemaMismatch

SCHEMA_VERSION = 2
"""Raise it by one with every change that a process of the version before would not understand, or would take for
something else: messages, also the gang's (learner/gang.py), with their fields, bounds and literals (a unit test keeps a
digest of those), names and dtypes of payload frames, keys of a StatusReport.

Every message states it as `v`, and whoever receives another one refuses the message before looking at the rest. `v`
and `request_id` are therefore the two fields that keep their names and types for ever.

1   nobody compared: another one was met as a header that does not validate
2   Drain names the role
"""

Name = Annotated[str, Field(min_length=1, max_length=128)]
ProcessName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0)]
Version = Annotated[int, Field(ge=0, lt=2**31 - 1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of headers and what they contain: unknown fields refused, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


SchemaVersion = Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]


def check_schema(fields: object) -> None:
    """SchemaMismatch for an unpacked message, nothing of which has been validated yet, that states another version."""
    if isinstance(fields, dict) and (theirs := fields.get("v")) != SCHEMA_VERSION:
        raise SchemaMismatch(theirs if type(theirs) is int else None, SCHEMA_VERSION)


class FrameRef(Part):
    """Describes one payload frame: `bytes`, or a C-contiguous array of `dtype` and `shape`."""

    name: Name
    dtype: Literal["bytes", "int32", "int64", "float32", "uint8"]
    shape: list[Count] = Field(max_length=4)
    size_bytes: Count
    crc32: Count


class Header(Part):
    """Base of all messages. `frames` is filled in by the codec, in frame order."""

    v: SchemaVersion = SCHEMA_VERSION
    request_id: Count = 0
    frames: list[FrameRef] = Field(default_factory=list, max_length=64)

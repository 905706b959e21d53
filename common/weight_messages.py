"""Messages of the weights control socket, between an actor and the learner (learner/weights, actor/weights).

actor      -> learner  PullFiles Join Pull Ready Received Applied Leave
learner    -> actor    ModelFiles Snapshot Propose Begin Commit Abort, NoWork Refused (replies to Pull)
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.message_parts import Count, Digest, Header, Name, Part, ProcessName, Text, Version

MAX_MODEL_FILE_BYTES = 64 * 1024 * 1024
ModelFileName = Literal[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
]
"""Files of a model that travel: configuration and tokenizer. No weights, no code, no name that could be a path."""


class ParameterMeta(Part):
    """One parameter in a transfer: Hugging Face name, dtype, shape. Order in the list is order in the buffer."""

    name: Annotated[str, Field(max_length=512)]
    dtype: Literal["float32", "bfloat16", "float16"]
    shape: list[Count] = Field(max_length=8)


class ModelFile(Part):
    """One small file of a model: content as blake2b (32 bytes, hexadecimal)."""

    name: ModelFileName
    size_bytes: Annotated[int, Field(ge=0, le=MAX_MODEL_FILE_BYTES)]
    digest: Digest


class PullFiles(Header):
    """An actor without a model asks for a chunk of the learner's model files, from any peer and at any time.

    `model` names the set that it began with; a learner that has another answers from the beginning of its own.
    """

    type: Literal["pull_files"] = "pull_files"
    model: Digest | None = None
    offset: Count = 0
    max_bytes: Annotated[int, Field(ge=1, le=16 * 1024 * 1024)] = 4 * 1024 * 1024


class ModelFiles(Header):
    """Reply to PullFiles: all files, and from `offset` on their contents one after the other. Frame: `chunk` bytes."""

    type: Literal["model_files"] = "model_files"
    files: list[ModelFile] = Field(min_length=1, max_length=32)
    model: Digest
    offset: Count


class Join(Header):
    """An actor announces itself to the publisher."""

    type: Literal["join"] = "join"
    name: ProcessName
    incarnation: ProcessName


class Pull(Header):
    """An actor asks for a chunk of the latest published weights (late joiners never delay a step).

    At offset 0 it says what it has; NoWork means that there is nothing newer, which makes it *current*. A current
    actor goes on asking once a second: that is how it notices a missed epoch or a restarted learner (Refused: join).
    """

    type: Literal["pull"] = "pull"
    version: Version | None = None
    have: Version | None = None
    offset: Count = 0
    max_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024


class Snapshot(Header):
    """Reply to Pull. Frames: `chunk` bytes; at offset 0 also `manifest` bytes (JSON list of ParameterMeta).

    `model` names the set of model files that go with the weights, if the learner serves them (see ModelFiles).
    """

    type: Literal["snapshot"] = "snapshot"
    version: Version
    offset: Count
    total_bytes: Count
    digest: Name
    model: Digest | None = None


class Propose(Header):
    """The publisher proposes an epoch: who takes part, at which rank, over which store. Frame: `manifest` bytes."""

    type: Literal["propose"] = "propose"
    epoch: Count
    version: Version
    backend: Literal["gloo", "ipc", "nccl"]
    rank: Count
    world_size: Count
    store_host: Text
    store_port: Count
    prefix: Name
    timeout_s: float
    bucket_bytes: Count
    model: Digest | None = None


class Ready(Header):
    """An actor accepts a proposal."""

    type: Literal["ready"] = "ready"
    epoch: Count
    version: Version
    incarnation: Name


class Begin(Header):
    """Broadcast of `version` in `epoch` starts now. `digest` is blake2b over the whole buffer. ipc: frame `handles`."""

    type: Literal["begin"] = "begin"
    epoch: Count
    version: Version
    total_bytes: Count
    digest: Name


class Received(Header):
    """An actor holds all of `version`, staged; `ok` false with a reason when it does not."""

    type: Literal["received"] = "received"
    epoch: Count
    version: Version
    incarnation: Name
    ok: bool
    digest: Annotated[str, Field(max_length=128)] = ""
    reason: Text = ""


class Commit(Header):
    """Every member of the epoch holds `version`: load it."""

    type: Literal["commit"] = "commit"
    epoch: Count
    version: Version


class Applied(Header):
    """The actor samples from `version` now; `pause_s` is how long sampling stood still."""

    type: Literal["applied"] = "applied"
    version: Version
    incarnation: Name
    pause_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Abort(Header):
    """The epoch is over (a member died or stalled); keep the old weights and wait for the next proposal."""

    type: Literal["abort"] = "abort"
    epoch: Count
    reason: Text


class Leave(Header):
    """An actor says goodbye."""

    type: Literal["leave"] = "leave"
    incarnation: Name

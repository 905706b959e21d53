"""What belongs to a model beside its weights: which files, how large they may be, and what names a set of them.

An actor without a volume (`actor.model_from: learner`) starts vLLM from these files, which it gets from the learner,
and from weights that it gets from there anyway. Names are those of a fixed list (`ModelFileName`), so none that was
received is ever a path of somebody's choosing; code and weights are not in the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import get_args

from common.errors import WireError
from common.messages import ModelFile, ModelFileName
from common.weights import digest_of

MODEL_FILE_NAMES: tuple[ModelFileName, ...] = get_args(ModelFileName)
MAX_TOTAL_BYTES = 128 * 1024 * 1024


def set_digest(files: Iterable[ModelFile]) -> str:
    """What names this set of files: blake2b over names, sizes and digests, whatever their order."""
    rows = sorted([file.name, file.size_bytes, file.digest] for file in files)
    return digest_of(json.dumps(rows).encode())


def check_listing(files: Sequence[ModelFile]) -> int:
    """Bytes of all files together; WireError unless each name comes once, config.json among them, within bounds."""
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise WireError("model files: a name appears twice")
    if "config.json" not in names:
        raise WireError("model files: there is no config.json among them")
    total = sum(file.size_bytes for file in files)
    if total > MAX_TOTAL_BYTES:
        raise WireError(f"model files: {total} bytes in all exceed {MAX_TOTAL_BYTES}")
    return total

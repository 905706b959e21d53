"""Owns samples.parquet of stages that sample: every completion with its grade, for `zeroq samples` and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from launcher.stages.sampling import Sampled
from launcher.stages.selecting import source_of


def write_samples(path: Path, sampled: Sequence[Sampled], *, extra: dict[str, str] | None = None) -> None:
    """Write every completion; `extra`: further columns, the same in every row."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {
            "id": s.example.id,
            "source": source_of(s.example),
            "prompt": s.prompt,
            "response": completion.text,
            "reward": completion.verdict.reward,
            "rewards": json.dumps(completion.verdict.rewards),
            "outcome": completion.verdict.outcome,
            "detail": completion.verdict.detail,
            "num_tokens": completion.num_tokens,
            "clipped": completion.clipped,
            **(extra or {}),
        }
        for s in sampled
        for completion in s.completions
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    parquet.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
    temporary.replace(path)

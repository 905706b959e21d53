"""Owns a run's readable rollouts: a few of each training step, as Parquet parts in DIR/samples/ (rank 0 only).

    learner --add, a few microseconds--> buffer --flush--> thread --> samples/samples-<first step>-<last step>.parquet

The step never waits: rows are buffered, a thread writes them, and when it cannot keep up rows are dropped and counted.
A part appears whole or not at all. Parts end where checkpoints are, so that a run that goes on from one can throw away
exactly what came after it and will be done again.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import LoggingSection
from learner.batch import TakenGroup

log = logging.getLogger(__name__)

Row = dict[str, Any]

FLUSH_ROWS = 512
FLUSH_S = 120.0
MAX_WAITING = 8
"""Parts that may wait for the disk before rows are dropped."""
_PART = re.compile(r"samples-(\d+)-(\d+)\.parquet")


class SampleLog:
    """Keeps a sample of the rollouts that are trained on."""

    def __init__(self, folder: Path, settings: LoggingSection, *, seed: int = 0, step: int = 0) -> None:
        """Parts of steps after `step` are of a life that is done over: they are removed."""
        self.folder, self.settings, self.seed = folder, settings, seed
        self.num_kept = self.num_dropped = 0
        self._rows: list[Row] = []
        self._since = time.monotonic()
        self._queue: queue.Queue[list[Row] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._full = settings.samples_per_step == 0
        self._size = 0
        if folder.is_dir():
            _forget_after(folder, step)
            self._size = sum(path.stat().st_size for path in folder.glob("samples-*.parquet"))

    def add(self, step: int, version: int, groups: Sequence[TakenGroup], advantages_N: Sequence[float]) -> None:
        """Choose among the rollouts of step `step` (from 1), trained on while `version` was current.

        `advantages_N`: of all rollouts, group after group. The choice depends on seed and step only.
        """
        if self._full:
            return
        total, wanted = sum(len(group.header.rollouts) for group in groups), self.settings.samples_per_step
        chosen = set(range(total))
        if wanted is not None and wanted < total:
            rng = np.random.default_rng([self.seed, 2, step])
            chosen = {int(index) for index in rng.choice(total, wanted, replace=False)}
        start = 0
        for group in groups:
            here = [n for n in range(len(group.header.rollouts)) if start + n in chosen]
            self._rows += _rows(group, here, step, version, advantages_N[start : start + len(group.header.rollouts)])
            start += len(group.header.rollouts)
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._since >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Give what is buffered to the writing thread; called at each checkpoint too."""
        rows, self._rows, self._since = self._rows, [], time.monotonic()
        if not rows or self._full:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="samples", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self.num_dropped += len(rows)
            log.warning("samples: the disk is slower than the run; %d rollouts left out so far", self.num_dropped)

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left; waits at most `timeout_s`."""
        self.flush()
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=timeout_s)
            except queue.Full:
                log.warning("samples: the disk is stuck; the last rollouts are not kept")
                return
            self._thread.join(timeout_s)
            self._thread = None

    def _write_all(self) -> None:
        while (rows := self._queue.get()) is not None:
            if self._full:
                continue
            try:
                self._size += write_part(self.folder, rows)
            except (OSError, ImportError, ValueError) as error:  # reading matter: no reason to end a run
                self._full = True
                log.warning("samples: %s cannot be written (%s); no more are kept", self.folder, error)
                continue
            self.num_kept += len(rows)
            if self._size >= self.settings.samples_max_mb * 1_000_000:
                self._full = True
                log.warning("samples: %s holds logging.samples_max_mb; no more are kept", self.folder)


def _rows(group: TakenGroup, chosen: Sequence[int], step: int, version: int, advantages: Sequence[float]) -> list[Row]:
    if not chosen:
        return []
    texts = group.rollout_texts()
    ends = np.cumsum([0, *group.lengths])
    prompt = group.prompt.decode("utf-8", errors="replace")
    rows = []
    for n in chosen:
        rollout, verdict = group.header.rollouts[n], group.header.verdicts[n]
        versions = group.versions_T[ends[n] : ends[n + 1]]
        rows.append(
            {
                "step": step,
                "version": version,
                "task_id": group.task_id,
                "rollout": n,
                "source": group.source,
                "prompt": prompt,
                "text": texts[n],
                "reward": verdict.reward,
                "rewards": list(verdict.rewards.items()),
                "outcome": verdict.outcome,
                "detail": verdict.detail,
                "advantage": float(advantages[n]),
                "staleness": int(version - versions.min()),
                "num_tokens": rollout.num_tokens,
                "clipped": rollout.finish_reason == "length",
            }
        )
    return rows


def write_part(folder: Path, rows: Sequence[Row]) -> int:
    """Write rows, oldest step first, as one part that appears whole; returns its size in bytes. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    first, last = rows[0]["step"], rows[-1]["step"]
    path = folder / f"samples-{first:08d}-{last:08d}.parquet"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    integers = ("step", "version", "rollout", "staleness", "num_tokens")
    texts = ("task_id", "source", "prompt", "text", "outcome", "detail")
    types = {name: pa.int64() for name in integers} | {name: pa.string() for name in texts}
    types |= {"reward": pa.float64(), "advantage": pa.float64(), "clipped": pa.bool_()}
    types["rewards"] = pa.map_(pa.string(), pa.float64())
    schema = pa.schema([(name, types[name]) for name in rows[0]])
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def _forget_after(folder: Path, step: int) -> None:
    """Remove what is known of steps after `step`, and half-written parts."""
    for path in folder.glob(".samples-*.tmp"):
        path.unlink()
    for path in folder.glob("samples-*.parquet"):
        found = _PART.fullmatch(path.name)
        if found is None or int(found[2]) <= step:
            continue
        kept: list[Row] = []
        if int(found[1]) <= step:  # a part that does not end at a checkpoint
            import pyarrow.parquet as pq

            kept = [row for row in pq.read_table(path).to_pylist() if row["step"] <= step]
        path.unlink()
        if kept:
            write_part(folder, kept)

"""Rollouts that a run, a pipeline or an evaluation left as Parquet, found and filtered.

    RUN/**/samples*.parquet ── read_samples ── Filters ──┬── table, JSON lines (launcher/samples_command.py)
                                                         └── one page with filters of its own (launcher/samples_page.py)

Two kinds of files are read (learner/samples.py writes one, `zeroq eval --out` the other); a `Sample` has the columns of
both. Its stage is the folder's name below stages/. Files are read in batches, so only what is shown is held in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError

_PATTERN = "samples*.parquet"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_BATCH_ROWS = 1_000


@dataclass(frozen=True)
class Sample:
    """One completion. `id` is unique in its file; `step`, `advantage`, `staleness` are training's, `suite`,
    `kind` (sampled or greedy), `gold` and `answer` an evaluation's; None where a file does not say."""

    id: str
    stage: str
    step: int | None
    prompt: str
    text: str
    reward: float | None
    rewards: dict[str, float | None]
    outcome: str | None
    num_tokens: int | None
    model: str | None = None
    suite: str | None = None
    kind: str | None = None
    source: str | None = None
    gold: str | None = None
    answer: str | None = None
    detail: str | None = None
    advantage: float | None = None
    staleness: int | None = None
    version: int | None = None
    clipped: bool | None = None


@dataclass(frozen=True)
class Filters:
    """What is asked for; None asks for nothing. `steps`: first and last, both included."""

    steps: tuple[int, int] | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    outcome: str | None = None
    stage: str | None = None
    id: str | None = None

    def accept(self, sample: Sample) -> bool:
        """Whether a sample is wanted. A sample without a step or reward fails a filter by it."""
        if self.id is not None and sample.id != self.id and not sample.id.startswith((f"{self.id}/", f"{self.id}#")):
            return False
        if self.steps is not None and (sample.step is None or not self.steps[0] <= sample.step <= self.steps[1]):
            return False
        if self.min_reward is not None and (sample.reward is None or sample.reward < self.min_reward):
            return False
        if self.max_reward is not None and (sample.reward is None or sample.reward > self.max_reward):
            return False
        return self.outcome in (None, sample.outcome) and self.stage in (None, sample.stage)


@dataclass
class Found:
    """What was found: the first samples that match, how many there are, and what there is to filter by."""

    samples: list[Sample] = field(default_factory=list)
    num_matching: int = 0
    num_read: int = 0
    stages: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)


def parse_steps(text: str) -> tuple[int, int]:
    """`N` or `A-B` as (first, last). UserError for anything else."""
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise UserError(f"--step {text}: give a step such as 40, or a range such as 40-60")
    return first, last


def sample_files(root: Path) -> list[tuple[str, Path]]:
    """(stage, file) of all sample files at or below `root`, in order of their names. UserError when there are none."""
    if not root.exists():
        raise UserError(f"{root}: no such directory; name a run, a pipeline or an evaluation's --out directory")
    if root.is_file():
        files = [root]
    else:
        files = sorted(p for p in root.rglob(_PATTERN) if not any(x.startswith(".") for x in p.relative_to(root).parts))
    if not files:
        raise UserError(
            f"{root}: no {_PATTERN} there or below; a run keeps them with logging.samples_per_step, an evaluation "
            "with --out"
        )
    return [(_stage(path, root), path) for path in files]


def _stage(path: Path, root: Path) -> str:
    """Name of the folder below stages/, as seen from `root` or from the file system; empty outside a pipeline."""
    parts = path.resolve().parts
    places = [index for index, part in enumerate(parts[:-2]) if part == "stages"]
    return parts[places[-1] + 1] if places else ""


def read_samples(root: Path, filters: Filters, limit: int | None) -> Found:
    """Samples at or below `root`. Raises UserError for a file that is no sample file."""
    found = Found()
    for stage, path in sample_files(root):
        found.stages.add(stage)
        if filters.stage is not None and filters.stage != stage:
            continue
        for sample in _read(path, stage):
            found.num_read += 1
            if sample.outcome is not None:
                found.outcomes.add(sample.outcome)
            if filters.accept(sample):
                found.num_matching += 1
                if limit is None or len(found.samples) < limit:
                    found.samples.append(sample)
    return found


def _read(path: Path, stage: str) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: dict[tuple[str, str], int] = {}
    try:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        if not names >= {"prompt", "reward"} or names.isdisjoint(("text", "response")):
            raise UserError(f"{path}: no file of samples; it has {', '.join(sorted(names))}")
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                yield _sample(row, stage, counts)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def _sample(row: dict[str, Any], stage: str, counts: dict[tuple[str, str], int]) -> Sample:
    suite = row.get("suite")
    if row.get("task_id") is not None:
        name = f"{row['task_id']}/{row.get('rollout', 0)}"
        name = name if row.get("step") is None else f"{row['step']}:{name}"
    else:  # an evaluation's: the k-th of its problem
        problem = (str(suite or ""), str(row.get("id")))
        counts[problem] = counts.get(problem, 0) + 1
        name = f"{suite}:{problem[1]}#{counts[problem]}" if suite else f"{problem[1]}#{counts[problem]}"
    return Sample(
        id=f"{stage}:{name}" if stage else name,
        stage=stage,
        step=row.get("step"),
        prompt=str(row["prompt"]),
        text=str(row["text"] if "text" in row else row["response"]),
        reward=row["reward"],
        rewards=_rewards(row.get("rewards")),
        answer=None if row.get("answer") is None else str(row["answer"]),
        **{key: row.get(key) for key in _OPTIONAL},
    )


_TRAINING = ("advantage", "staleness", "version")
_OPTIONAL = ("outcome", "num_tokens", "model", "suite", "kind", "source", "gold", "detail", "clipped", *_TRAINING)


def _rewards(value: Any) -> dict[str, float | None]:
    """Components by name, however a file keeps them: a map, a struct or JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return dict(value) if isinstance(value, dict | list) and value else {}

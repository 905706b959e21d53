"""Owns the acceptance table of rejection sampling: what became of every sample, by source and difficulty.

sampled = ungraded + incorrect + correct
correct = judged_wrong + judged_unclear + filtered by reason + duplicate + capped + kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from recipes.stages.filters import FILTERS

EDGES = (0.25, 0.5, 0.75)
TOTAL = "all"
COUNTS = (
    "prompts",
    "sampled",
    "ungraded",
    "correct",
    "judged",
    "judged_wrong",
    "judged_unclear",
    *(f"filtered_{name}" for name in FILTERS),
    "duplicate",
    "capped",
    "kept",
)
_ALWAYS = ("prompts", "sampled", "correct", "kept")
_FIRST = ("none", "0")


def difficulty_bucket(difficulty: float | None) -> str:
    """The table's row for a difficulty (1 - pass share): 0, (0, 0.25], ..., (0.75, 1), 1; none where it is unknown."""
    if difficulty is None:
        return "none"
    if difficulty in (0.0, 1.0):
        return f"{difficulty:.0f}"
    low = max((edge for edge in EDGES if edge < difficulty), default=0.0)
    high = min((edge for edge in EDGES if edge >= difficulty), default=1.0)
    return f"{low:g}-{high:g}"


@dataclass
class Acceptance:
    """Counts by (source, difficulty bucket); `examples`: one row id and detail for each reason of the filters."""

    cells: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, source: str, bucket: str, counts: dict[str, int] | Counter[str]) -> None:
        """Add `counts` (names of COUNTS) to one cell. ValueError for another name."""
        if unknown := counts.keys() - set(COUNTS):
            raise ValueError(f"the acceptance table has no column {', '.join(sorted(unknown))}")
        self.cells.setdefault((source, bucket), Counter()).update(counts)

    def totals(self) -> Counter[str]:
        """Sums over all sources and buckets."""
        return sum(self.cells.values(), Counter())

    def rows(self) -> list[dict[str, str | int | float]]:
        """The results table: a row for each cell, one for all; `acceptance` = kept / sampled."""
        ordered = sorted(self.cells.items(), key=lambda cell: (cell[0][0], _bucket_order(cell[0][1])))
        labelled = [(source, bucket, counts) for (source, bucket), counts in ordered]
        return [_row(*cell) for cell in [*labelled, (TOTAL, TOTAL, self.totals())]]

    def markdown(self) -> str:
        """The same as a Markdown table; columns that are 0 everywhere are left out."""
        totals = self.totals()
        columns = [name for name in COUNTS if name in _ALWAYS or totals[name]]
        header = ["source", "difficulty", *columns, "acceptance"]
        lines = [_line(header), _line(["---", "---"] + ["---:"] * (len(columns) + 1))]
        for row in self.rows():
            share = f"{100 * float(row['acceptance']):.1f} %"
            lines.append(_line([row["source"], row["difficulty"], *(row[name] for name in columns), share]))
        for name, (row_id, detail) in sorted(self.examples.items()):
            lines.append(f"\n{name}: for example `{row_id}`: {detail}")
        return "\n".join(lines) + "\n"


def _row(source: str, bucket: str, counts: Counter[str]) -> dict[str, str | int | float]:
    acceptance = counts["kept"] / counts["sampled"] if counts["sampled"] else 0.0
    return {"source": source, "difficulty": bucket, **{name: counts[name] for name in COUNTS}, "acceptance": acceptance}


def _bucket_order(bucket: str) -> float:
    """Buckets by difficulty, unknown first; "0" before "0-0.25"."""
    if bucket in _FIRST:
        return _FIRST.index(bucket) - len(_FIRST)
    return float(bucket.partition("-")[0])


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

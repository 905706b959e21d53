"""Owns joining the sources of a training set (cold start: few-shot outputs, filtered r1_zero outputs, a user's files):
each source is filtered and counted, then duplicates, prompts and sources are capped over all.

    offered = filtered by reason + duplicate + capped + kept        for every source
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from common.config import Section
from common.errors import UserError
from recipes.stages.corpus import CorpusRow
from recipes.stages.dedup import Prefer, cap_sources, choose, drop_duplicates, exact_key
from recipes.stages.filters import FILTERS, FilterInput, FilterSettings, LanguageShare, apply_filters

COUNTS = ("offered", *(f"filtered_{name}" for name in FILTERS), "duplicate", "capped", "kept")


class MergeSettings(Section):
    """What is kept of the joined sources."""

    filters: FilterSettings = FilterSettings()
    near_duplicates: float | None = Field(0.8, gt=0, le=1, description="Between responses to one prompt; null: exact.")
    duplicate_ngram: int = Field(5, ge=1)
    per_prompt: int | None = Field(None, ge=1, description="Most responses of one prompt; null: all.")
    prefer: Prefer = "diverse"
    per_source: int | None = Field(None, ge=1, description="Most rows of one origin; null: all.")
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """The joined rows in the order of their sources, and what became of each source's rows (names: COUNTS)."""

    rows: list[CorpusRow]
    counts: dict[str, Counter[str]]
    examples: dict[str, dict[str, tuple[str, str]]]

    def table(self) -> list[dict[str, str | int]]:
        """A row for each source and one for all, for a results table."""
        total = sum(self.counts.values(), Counter())
        named = [*self.counts.items(), ("all", total)]
        return [{"source": name, **{key: counts[key] for key in COUNTS}} for name, counts in named]


def corpus_view(row: CorpusRow, domain: str = "math") -> FilterInput:
    """What the filters see of a corpus row; `domain` code spares code blocks in its reasoning."""
    return FilterInput(
        id=row.id,
        response=row.response,
        prompt=row.prompt,
        language=row.language,
        domain=domain,
        num_tokens=row.num_tokens,
    )


def merge_sources(
    sources: Mapping[str, Iterable[CorpusRow]],
    settings: MergeSettings,
    *,
    language_share: LanguageShare | None = None,
    domain: Callable[[CorpusRow], str] = lambda row: "math",
) -> Merged:
    """Filter, deduplicate and cap the rows of all `sources` (name: rows; earlier ones win over later duplicates).

    Raises UserError for a row that stands in two sources (same origin and id), or that a filter lacks something of.
    """
    counts = {name: Counter({"offered": 0}) for name in sources}
    examples: dict[str, dict[str, tuple[str, str]]] = {}
    kept: list[tuple[str, CorpusRow]] = []
    seen: dict[tuple[str, str], str] = {}
    for name, rows in sources.items():
        passed, report = apply_filters(
            rows, settings.filters, view=lambda row: corpus_view(row, domain(row)), language_share=language_share
        )
        for row in passed:
            key = (row.origin, row.id)
            if key in seen:
                raise UserError(f"{name}: row {row.id!r} of {row.origin!r} is in {seen[key]} already; leave one out")
            seen[key] = name
        counts[name].update({"offered": report.seen})
        counts[name].update({f"filtered_{reason}": count for reason, count in report.counts.items()})
        examples[name] = report.examples
        kept += [(name, row) for row in passed]
    kept = _lost(kept, _distinct(kept, settings), "duplicate", counts)
    kept = _lost(kept, _capped(kept, settings), "capped", counts)
    for name, _ in kept:
        counts[name]["kept"] += 1
    return Merged([row for _, row in kept], counts, examples)


_Named = tuple[str, CorpusRow]


def _distinct(rows: list[_Named], settings: MergeSettings) -> list[_Named]:
    n, near = settings.duplicate_ngram, settings.near_duplicates
    return _by_prompt(rows, lambda group: drop_duplicates(group, lambda named: named[1].response, n=n, near=near))


def _capped(rows: list[_Named], settings: MergeSettings) -> list[_Named]:
    if (limit := settings.per_prompt) is not None:
        n, prefer = settings.duplicate_ngram, settings.prefer
        rows = _by_prompt(rows, lambda group: choose(group, lambda named: named[1].response, limit, prefer=prefer, n=n))
    return cap_sources(
        rows,
        settings.per_source,
        source=lambda named: named[0],
        prompt=lambda named: exact_key(named[1].prompt),
        key=lambda named: named[1].id,
        seed=settings.seed,
    )


def _by_prompt(rows: list[_Named], keep: Callable[[list[_Named]], list[_Named]]) -> list[_Named]:
    """`rows` less what `keep` leaves out of the rows of each prompt; in order."""
    groups: dict[bytes, list[_Named]] = {}
    for row in rows:
        groups.setdefault(exact_key(row[1].prompt), []).append(row)
    left = {id(row) for group in groups.values() for row in keep(group)}
    return [row for row in rows if id(row) in left]


def _lost(before: list[_Named], after: list[_Named], reason: str, counts: dict[str, Counter[str]]) -> list[_Named]:
    """`after`, with what it lacks of `before` counted by source."""
    for name, number in (Counter(name for name, _ in before) - Counter(name for name, _ in after)).items():
        counts[name][reason] += number
    return after

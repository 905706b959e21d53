"""Owns `zeroq samples`: what was found, as a table, one in full (--id), JSON lines (--json) or a page (--html)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import EXIT_OK, UserError
from launcher.samples import Filters, Found, Sample, parse_steps, read_samples
from launcher.samples_page import write_page

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_LIMIT = 20
_DEFAULT_PAGE_LIMIT = 2_000
_COLUMNS_WIDTH = 54
"""Characters of a table's line besides the id and the end of the response."""
_SHORTEST_END = 12


def samples_from_options(options: argparse.Namespace) -> int:
    """`zeroq samples`; returns the exit code."""
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be at least 1")
    filters = Filters(
        steps=parse_steps(options.step) if options.step is not None else None,
        min_reward=options.min_reward,
        max_reward=options.max_reward,
        outcome=options.outcome,
        stage=options.stage,
        id=options.id,
    )
    limit = options.limit or (_DEFAULT_PAGE_LIMIT if options.html else _DEFAULT_LIMIT)
    found = read_samples(Path(options.run).expanduser(), filters, limit)
    if filters.stage is not None and filters.stage not in found.stages:
        raise UserError(
            f"--stage {filters.stage}: no such stage; there are {', '.join(sorted(found.stages)) or 'none'}"
        )
    if options.html is not None:
        print(write_page(options.html, Path(options.run).resolve().name, found))
        return EXIT_OK
    if options.json:
        for sample in found.samples:
            print(json.dumps(asdict(sample), ensure_ascii=False))
        return EXIT_OK
    from rich.console import Console

    console = Console()
    if filters.id is not None:
        if not found.samples:
            raise UserError(f"--id {filters.id}: no such sample; the table's first column has them")
        for sample in found.samples:
            show_sample(sample, console)
        return EXIT_OK
    show_table(found, console)
    return EXIT_OK


def show_table(found: Found, console: Console) -> None:
    """Samples in a table, a line each."""
    from rich.table import Table
    from rich.text import Text

    longest = max((len(sample.id) for sample in found.samples), default=0)
    table = Table()
    table.add_column("id", min_width=longest, no_wrap=True)
    for name in ("reward", "outcome", "tokens", "adv.", "stale"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ends with", no_wrap=True)
    width = max(_SHORTEST_END, console.width - longest - _COLUMNS_WIDTH)  # else every column is squeezed
    for sample in found.samples:
        end = " ".join(sample.text.split())[-width:]
        numbers = (_number(sample.reward), sample.outcome or "-", _number(sample.num_tokens))
        table.add_row(sample.id, *numbers, _number(sample.advantage), _number(sample.staleness), Text(end))
    console.print(table)
    console.print(
        f"{len(found.samples)} of {found.num_matching:,} that match, {found.num_read:,} read; one in full: --id ID, "
        "more: --limit N, a page: --html FILE",
        soft_wrap=True,
    )


def show_sample(sample: Sample, console: Console) -> None:
    """One sample in full."""
    from rich.rule import Rule
    from rich.text import Text

    console.print(Rule(Text(sample.id), align="left"))
    facts = {key: value for key, value in asdict(sample).items() if key not in ("id", "prompt", "text", "rewards")}
    facts |= {f"rewards/{name}": value for name, value in sample.rewards.items()}
    line = "  ".join(f"{key}={_number(value)}" for key, value in facts.items() if value not in (None, ""))
    console.print(Text(line), soft_wrap=True)
    for title, text in (("prompt", sample.prompt), ("response", sample.text)):
        console.print(Rule(title, align="left", style="dim"))
        console.print(Text(text), soft_wrap=True)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.3g}"
    return "-" if value is None else str(value)

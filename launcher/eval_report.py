"""Owns how results of an evaluation are shown and kept: the table in the terminal, results.* and samples.parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.lifecycle import write_atomic
from launcher.eval_journal import GradedSample, write_parquet
from launcher.eval_plan import GREEDY, SAMPLED
from recipes.suites.results import Measured, Row, cell, columns_of, to_html, to_json, to_markdown
from recipes.suites.suite import Suite

_NOT_SHOWN = ("95 % interval", "clipped", "format", "language")
_FILE_WIDTH = 160  # where there is no terminal to fit into

Results = Mapping[str, Mapping[str, "SuiteResult"]]


@dataclass(frozen=True)
class EvalProblem:
    """One problem with everything that was sampled of it. `selected`: index of the sample that --select picks."""

    id: str
    prompt: str
    gold: str | None
    samples: list[GradedSample]
    greedy: GradedSample | None
    selected: int | None = None


@dataclass(frozen=True)
class SuiteResult:
    """One model on one suite. `asked`: what was sampled and how; `figures`: see `evaluation_figures`."""

    model: str
    suite: Suite
    asked: dict[str, Any]
    figures: dict[str, Any]
    problems: list[EvalProblem]


def table_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each model and suite. k and n stand at the end; columns without any value are not shown."""
    rows = []
    for model, suites in results.items():
        for name, result in suites.items():
            figures = result.figures
            row: dict[str, Any] = {"model": model if len(results) > 1 else None, "suite": name}
            row["pass@1"] = Measured(figures["pass_at_1"], figures["pass_at_1_standard_error"])
            interval = figures["pass_at_1_interval"]
            row["95 % interval"] = None if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            largest = max(figures["pass_at_k"])
            row["pass@k"] = figures["pass_at_k"][largest] if largest > 1 else None
            votes = figures["cons_at_k"] if largest > 1 else None
            row["cons@k"] = None if votes is None else Measured(votes, figures["cons_at_k_standard_error"])
            if "selected" in figures:
                row[f"{figures['selected']['by'].replace('_', '-')}"] = figures["selected"]["accuracy"]
            if (contests := figures.get("contests")) is not None:
                error = contests["standard_error"]
                row["rating"] = f"{contests['rating']:.0f}" + ("" if error is None else f" ± {error:.0f}")
                row["percentile"] = round(contests["percentile"], 1)
            row |= {"greedy": figures["greedy"], "length": figures["mean_length"], "clipped": figures["clipped_ratio"]}
            row |= {"format": figures["format_rate"], "language": figures["language_consistency"]}
            rows.append(row | {"k": figures["samples"], "n": figures["num_problems"]})
    return rows


def notes_of(results: Results) -> list[str]:
    """What a reader must know: settings that differ from R1's, and the suites' own notes."""
    every = [result for suites in results.values() for result in suites.values()]
    sampling = dict.fromkeys(_sampled_with(result) for result in every)
    notes = [f"sampled with {how}" for how in sampling]
    suites = {result.suite.name: result.suite.note for result in every if result.suite.note}
    return [*notes, *(f"{name}: {note}" for name, note in suites.items())]


def print_table(results: Results) -> None:
    """The table, in the terminal: its most important columns."""
    rows = [{name: value for name, value in row.items() if name not in _NOT_SHOWN} for row in table_rows(results)]
    table = Table(title=Text("evaluation" if len(results) > 1 else next(iter(results))))
    for name in columns_of(rows):
        text = isinstance(rows[0].get(name), str)
        table.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(name))) for name in columns_of(rows)))
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(table)
    for note in notes_of(results):
        print(note)


def write_results(out: Path, results: Results) -> None:
    """OUT/results.json, results.md, results.html and samples.parquet."""
    rows, notes = table_rows(results), notes_of(results)
    title = "Evaluation" if len(results) > 1 else f"Evaluation of {next(iter(results))}"
    write_atomic(out / "results.json", to_json(rows, notes=notes, results=_details(results)))
    write_atomic(out / "results.md", to_markdown(rows, title=title, notes=notes))
    write_atomic(out / "results.html", to_html(rows, title=title, notes=notes))
    write_parquet(out / "samples.parquet", _sample_rows(results))


def write_json(path: Path, results: Results, wall_s: float) -> None:
    """The figures alone: settings and figures side by side for one model on one suite, else by model and suite."""
    details = _details(results)
    flat = [suite for suites in details.values() for suite in suites.values()]
    if len(flat) == 1:
        (model, suites), *_ = results.items()
        (result,) = suites.values()
        chosen = {"model": model, "data": result.suite.source, "wall_s": round(wall_s, 3)}
        content: dict[str, Any] = chosen | flat[0]["settings"] | flat[0]["figures"]
    else:
        content = {"wall_s": round(wall_s, 3), "results": details}
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def summary_settings(result: SuiteResult) -> dict[str, Any]:
    """The settings of one result, for people."""
    asked = result.asked
    return {
        "k": asked["samples"],
        "greedy": GREEDY in asked,
        "temperature": asked[SAMPLED]["temperature"],
        "top_p": asked[SAMPLED]["top_p"],
        "max_tokens": asked["max_tokens"],
        "seed": asked[SAMPLED]["seed"],
        "source": result.suite.source,
    }


def _details(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings and all figures by model and suite."""
    return {
        model: {
            name: {"settings": summary_settings(result), "figures": result.figures} for name, result in suites.items()
        }
        for model, suites in results.items()
    }


def _sampled_with(result: SuiteResult) -> str:
    settings = summary_settings(result)
    return (
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, "
        f"at most {settings['max_tokens']:,} tokens"
    )


def _sample_rows(results: Results) -> Iterator[Row]:
    for model, suites in results.items():
        for name, result in suites.items():
            for problem in result.problems:
                fixed: dict[str, Any] = {"model": model, "suite": name, "id": problem.id, "prompt": problem.prompt}
                fixed["gold"] = problem.gold
                for index, sample in enumerate(problem.samples):
                    picked = None if problem.selected is None else index == problem.selected
                    yield {**fixed, **vars(sample), "kind": SAMPLED, "selected": picked}
                if problem.greedy is not None:
                    yield {**fixed, **vars(problem.greedy), "kind": GREEDY, "selected": None}

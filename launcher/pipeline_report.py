"""Owns what a pipeline shows: the table stage by stage, report.html with plots and readable samples, the results file.

stages/*/manifest.json ── report.html (after every stage), table.md, results.json
                       └── NAME.results.jsonl beside the pipelines: a line for each finished one, so that seeds can be
                           run on different days and are averaged by `zeroq pipeline CONFIG --results`
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.lifecycle import RunPaths, write_atomic
from launcher import page
from launcher.display import clock
from recipes.pipeline.config import PipelineConfig
from recipes.pipeline.manifest import Manifest, read_manifest

_NUM_SAMPLES = 4
_LONGEST_SAMPLE = 2000
Row = dict[str, Any]


def manifests(config: PipelineConfig, paths: RunPaths) -> dict[str, Manifest]:
    """Manifests of the finished stages, in the pipeline's order."""
    found = {name: read_manifest(paths.root / "stages" / name) for name in config.stages}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def final_rows(done: dict[str, Manifest]) -> list[Row]:
    """Rows of the evaluation's table, models in order; empty before it is done."""
    for manifest in done.values():
        if manifest.kind == "evaluate":
            return list(manifest.figures.get("rows", []))
    return []


def columns(rows: Sequence[Row]) -> list[str]:
    """All columns of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def write_pipeline_report(config: PipelineConfig, paths: RunPaths) -> Path:
    """Write report.html of what is done so far, and results.json and table.md once there is an evaluation."""
    done = manifests(config, paths)
    rows = final_rows(done)
    parts = [f"<p>{len(done)} of {len(config.stages)} stages done, seed {config.seed}.</p>"]
    if rows:
        head = columns(rows)
        parts.append("<h2>Stage by stage</h2>" + page.table(head, [[row.get(name) for name in head] for row in rows]))
        write_atomic(paths.root / "table.md", markdown(rows))
        write_atomic(paths.root / "results.json", json.dumps(result_line(config, paths, done), indent=1) + "\n")
    parts += [_stage_part(name, manifest, paths.root / "stages" / name) for name, manifest in done.items()]
    write_atomic(paths.report, page.page(paths.root.name, parts))
    return paths.report


def print_table(paths: RunPaths, console: Console) -> None:
    """The final table on the terminal, if there is one."""
    path = paths.root / "results.json"
    if path.is_file():
        print_rows(paths.root.name, json.loads(path.read_text(encoding="utf-8"))["rows"], console)


def print_rows(title: str, rows: Sequence[Row], console: Console) -> None:
    """A table of rows."""
    head = columns(rows)
    if not console.is_terminal:  # a log has no width to keep to
        console = Console(file=console.file, width=max(console.width, 30 + 18 * len(head)))
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(page.shown(row.get(name)) for name in head))
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = columns(rows)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(page.shown(row.get(name)) for name in head) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ the results file


def result_line(config: PipelineConfig, paths: RunPaths, done: dict[str, Manifest]) -> dict[str, Any]:
    """What a finished pipeline adds to the results file."""
    return {
        "name": paths.root.name,
        "seed": config.seed,
        "finished": max(manifest.finished for manifest in done.values()),
        "commit": next(iter(done.values())).commit,
        "seconds": round(sum(manifest.seconds for manifest in done.values()), 1),
        "stage_seconds": {name: manifest.seconds for name, manifest in done.items()},
        "rows": final_rows(done),
    }


def append_result(path: Path, line: dict[str, Any]) -> None:
    """Add a pipeline's line to the results file; the same pipeline, finished again, replaces its line."""
    kept = [old for old in read_results(path) if old["name"] != line["name"]]
    write_atomic(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in [*kept, line]))


def read_results(path: Path) -> list[dict[str, Any]]:
    """Lines of a results file; none if there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def over_seeds(results: Sequence[dict[str, Any]]) -> list[Row]:
    """Rows with `mean ± standard deviation` over several pipelines of the figures that all of them have."""
    labels = list(dict.fromkeys(row["model"] for result in results for row in result["rows"]))
    averaged = []
    for label in labels:
        own = [row for result in results for row in result["rows"] if row["model"] == label]
        averaged.append({"model": label} | {name: _spread([row.get(name) for row in own]) for name in columns(own)[1:]})
    return averaged


def print_results(path: Path, console: Console) -> int:
    """Print the results file: a table over all seeds."""
    results = read_results(path)
    if results:
        seeds = ", ".join(str(result["seed"]) for result in results)
        print_rows(f"{path.name}: seeds {seeds}", over_seeds(results), console)
        for result in results:
            print(f"seed {result['seed']}: {result['name']}, {clock(result['seconds'])}, {result['finished']}")
    else:
        print(f"{path}: no results yet")
    return 0


def _spread(values: Sequence[object]) -> str | None:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((n - mean) ** 2 for n in numbers) / max(1, len(numbers) - 1))
    return f"{page.shown(mean)} ± {deviation:.2g}" if len(numbers) > 1 else page.shown(mean)


# ------------------------------------------------------------------ one stage


def _stage_part(name: str, manifest: Manifest, folder: Path) -> str:
    """Figures, plots, tables and samples of a stage."""
    title = f"<h2>{name}</h2><p>{manifest.kind}, {clock(manifest.seconds)}, {manifest.finished}"
    if (report := folder / "run" / "report.html").is_file():
        title += f', <a href="stages/{name}/run/{report.name}">its own report</a>'
    plain = [(key, value) for key, value in manifest.figures.items() if not isinstance(value, list | dict)]
    parts = [title + "</p>", page.table(("figure", "value"), plain) if plain else ""]
    for key, value in manifest.figures.items():
        if isinstance(value, dict) and value:
            parts.append(page.folded(key.replace("_", " "), page.table(("", "value"), list(value.items()))))
        elif isinstance(value, list) and value and isinstance(value[0], dict) and key != "rows":
            head = columns(value)
            parts.append(page.folded(key, page.table(head, [[row.get(c) for c in head] for row in value])))
    for png in sorted((folder / "run" / "plots").glob("*.png")):
        parts.append(page.figure(png.stem.replace("_", " "), png.read_bytes()))
    parts.append(_samples(folder))
    made = "\n".join(f"{key}  {output.path}  {output.digest}" for key, output in manifest.outputs.items())
    parts.append(page.folded("outputs and their digests", page.text_block(made)))
    parts.append(page.folded("settings", page.text_block(json.dumps(manifest.settings, indent=1, ensure_ascii=False))))
    return "\n".join(part for part in parts if part)


def _samples(folder: Path) -> str:
    """A few responses of the stage, from first to last."""
    found = sorted(folder.glob("samples*.parquet")) or sorted((folder / "run" / "samples").glob("*.parquet"))
    rows = list(_read_some(found))
    if not rows:
        return ""
    blocks = [
        f"<p>{page.shown(row.get('source') or row.get('suite'))}, reward {page.shown(row.get('reward'))}</p>"
        + page.text_block(f"{row.get('prompt', '')}{row.get('response') or row.get('text') or ''}"[:_LONGEST_SAMPLE])
        for row in rows
    ]
    return page.folded("samples", "".join(blocks))


def _read_some(files: Sequence[Path]) -> Iterable[Row]:
    """Rows evenly picked from the first and the last of the files."""
    from pyarrow import parquet

    for file in dict.fromkeys([*files[:1], *files[-1:]]):
        table = parquet.read_table(file)
        count = min(_NUM_SAMPLES, table.num_rows)
        for index in range(count):
            yield table.slice(index * (table.num_rows - 1) // max(1, count - 1), 1).to_pylist()[0]

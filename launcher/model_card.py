"""Owns the README.md that goes to the hub with a model: what it is, how it was made, and the figures there are.

Nothing of the machine goes along: absolute paths in the configuration are cut down to their last part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.lifecycle import RunPaths
from recipes.model_files import is_hub_name

_FIGURES = ("summary.json", "learner_summary.json")
_NOT_SHOWN = ("name", "checkpoint", "result", "seconds", "phases_s")
_MAX_FIGURES = 60


def model_card(repo: str, run: RunPaths | None, step: int | None) -> str:
    """The card of a model, from the files of the run that made it (none: a short card)."""
    tree = _tree(run.config) if run is not None else {}
    base = tree.get("model")
    name = (
        base
        if isinstance(base, str) and base != "tiny" and not Path(base).is_absolute() and is_hub_name(base)
        else None
    )
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["zeroq"]}
    head |= {"base_model": name} if name else {}
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {repo.rpartition('/')[2]}\n"]
    parts.append(f"{_origin(tree, step)}\n")
    if run is not None:
        if rows := _figures(run):
            parts.append("## Figures\n\n| figure | value |\n|---|---|")
            parts.append("".join(f"| {key} | {value} |\n" for key, value in rows))
        made = _json(run.versions)
        lines = [f"- {key}: {made[key]}" for key in ("zeroq", "commit", "python") if made.get(key)]
        lines += [f"- {key}: {value}" for key, value in (made.get("packages") or {}).items()]
        if lines:
            parts.append("## Made with\n\n" + "\n".join(lines) + "\n")
        recipe = yaml.safe_dump(_without_paths(tree), sort_keys=False, allow_unicode=True)
        parts.append(f"## Recipe\n\n```yaml\n{recipe}```\n")
    return "\n".join(parts)


def _origin(tree: dict[str, Any], step: int | None) -> str:
    base = _without_paths(tree.get("model"))
    made = f"trained by zeroq from `{base}`" if base else "made with zeroq"
    return f"A language model {made}{f', {step:,} optimizer steps' if step else ''}."


def _figures(run: RunPaths) -> list[tuple[str, str]]:
    """Numbers of the run's summary; of its last metrics while it has none."""
    found = next((values for name in _FIGURES if (values := _json(run.root / name))), None)
    if found is None and run.metrics.exists():
        lines = [line for line in run.metrics.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            found = json.loads(lines[-1]) if lines else {}
        except ValueError:  # being written just now
            found = {}
    rows = [
        (key, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
        for key, value in (found or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in _NOT_SHOWN
    ]
    return rows[:_MAX_FIGURES]


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    return tree if isinstance(tree, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _without_paths(value: Any) -> Any:
    """The value with absolute paths cut down to their names."""
    if isinstance(value, dict):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_paths(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value

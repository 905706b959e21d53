"""Owns a stage's manifest: what it was given, how it was set, what it made, in figures and by digest. Written last.

    {"format": 1, "stage": "sft", "kind": "sft", "seed": 0, "settings": {...},
     "inputs":  {"@rejection_sample.corpus": {"path": ..., "digest": ...}},
     "outputs": {"model": {"path": ..., "digest": ...}},
     "figures": {...}, "seconds": 61.2, "finished": "2026-11-24T22:10:00+0000", "commit": "..."}

A stage folder without a manifest is unfinished: the stage goes on in it. One whose manifest does not fit (other
settings, other inputs, outputs changed since) is never used nor overwritten in silence.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.lifecycle import write_atomic

FORMAT = 1
NAME = "manifest.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Artefact:
    """A file or directory with its digest (hexadecimal blake2b of 16 bytes)."""

    path: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """See the module's docstring. `settings` are the stage's own, references unresolved."""

    stage: str
    kind: str
    seed: int
    settings: dict[str, Any]
    inputs: dict[str, Artefact]
    outputs: dict[str, Artefact]
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = ""
    commit: str | None = None
    format: int = FORMAT


def digest(path: Path) -> str:
    """Digest of a file's bytes, or of a directory's names and bytes.

    A checkpoint's manifest.json holds digests of all its files; its own digest then stands for the directory, so that
    large models are not read again. UserError when there is nothing at `path`.
    """
    if path.is_dir():
        listed = path / NAME
        if listed.is_file():
            return _of_file(listed)
        total = hashlib.blake2b(digest_size=16)
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path)}\0{_of_file(file)}\n".encode())
        return total.hexdigest()
    if not path.is_file():
        raise UserError(f"{path}: is missing")
    return _of_file(path)


def artefact(path: Path) -> Artefact:
    """The artefact at `path`, with its digest of now."""
    return Artefact(str(path), digest(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, stamped with the time of now."""
    record = asdict(manifest) | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_atomic(folder / NAME, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`; None when the stage is not finished. UserError when it cannot be read."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("format") != FORMAT:
            raise UserError(f"{path}: has format {record.get('format')}, this version reads {FORMAT}")
        for side in ("inputs", "outputs"):
            record[side] = {name: Artefact(**value) for name, value in record[side].items()}
        return Manifest(**record)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path}: not a stage's manifest ({error}); move the folder away to run the stage again"
        ) from None


def differences(
    manifest: Manifest,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, Artefact],
    *,
    defaults: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a finished stage was run with and would not be run with now, in words; empty when it still holds.

    A setting that the stage did not have then (an older version wrote the manifest) and that has its default in
    `defaults` changes nothing.
    """
    found = []
    if manifest.seed != seed:
        found.append(f"seed {manifest.seed} -> {seed}")
    before, now = _flat(manifest.settings), _flat(json.loads(json.dumps(settings)))
    usual = _flat(json.loads(json.dumps(defaults or {})))
    now = {key: value for key, value in now.items() if key in before or key not in usual or usual[key] != value}
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            found.append(f"{key} {_short(before.get(key))} -> {_short(now.get(key))}")
    for name in sorted(manifest.inputs.keys() | inputs.keys()):
        then, today = manifest.inputs.get(name), inputs.get(name)
        if then is None or today is None or then.digest != today.digest:
            found.append(f"input {name} is another")
    return found


def changed_outputs(manifest: Manifest) -> list[str]:
    """Outputs that are missing or differ from what the stage made, in words."""
    found = []
    for name, output in manifest.outputs.items():
        try:
            if digest(Path(output.path)) != output.digest:
                found.append(f"{name} ({output.path}) was changed")
        except UserError:
            found.append(f"{name} ({output.path}) is missing")
    return found


def _of_file(path: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= _flat(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: tree}


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."

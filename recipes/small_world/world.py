"""Owns what `make r1` starts from: every file of the small world, written deterministically into one folder.

    problems/train.jsonl                        reasoning problems to train on, all families mixed
    problems/eval_{sums,legs,code}.jsonl        held out; eval.jsonl has all of them
    problems/general_{train,eval}.jsonl         notes and requests
    corpus/base.parquet                         what the base models are pretrained on (careless)
    corpus/cold_start_user.parquet              clean long chains, as if a user had written them
    corpus/general.parquet                      good answers to general prompts (R1's 200k non-reasoning samples)
    preferences/{helpful,safety}[_test].parquet for the reward models; *_test are held out, by prompt too

No problem of an evaluation file is anywhere else, in neither language. Training problems are not in the pretraining
corpus either.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.errors import UserError
from common.lifecycle import write_atomic
from recipes.small_world.model import render_chat
from recipes.small_world.preferences import helpful_pairs, safety_labels
from recipes.small_world.problems import GENERAL_FAMILIES, REASONING_FAMILIES, Row, draw
from recipes.small_world.traces import careless_response, clean_response
from recipes.stages.corpus import CorpusRow, HelpfulPair, SafetyLabel, write_corpus, write_rows

NUM_EVAL = 100
NUM_TRAIN = {"sums": 1500, "legs": 1500, "code": 1000}
NUM_PRETRAINING = {"sums": 24_000, "legs": 18_000, "code": 12_000, "notes": 8_000, "requests": 2_000}
NUM_COLD_START = {"sums": 500, "legs": 500, "code": 300}
NUM_GENERAL = {"notes": 700, "requests": 220}
NUM_GENERAL_CORPUS = {"notes": 400, "requests": 60}
"""So few requests that RL for all scenarios has something left to teach; R1's non-reasoning data are no safety data."""
NUM_GENERAL_EVAL = {"notes": 100, "requests": 100}
NUM_HELPFUL, NUM_SAFETY, NUM_PREFERENCES_TEST = 3_000, 1_500, 300
_MIN_SCALED = 8


def write_world(folder: Path, *, seed: int, scale: float = 1.0) -> dict[str, Path]:
    """Write the whole world below `folder`; returns its files by name ("problems/train", "corpus/base", ...).

    `scale` multiplies all sizes, for tests. UserError when it is not in (0, 1].
    """
    if not 0 < scale <= 1:
        raise UserError(f"small world: scale must be above 0 and at most 1, got {scale}")

    def size(num: int) -> int:
        return max(round(num * scale), _MIN_SCALED)

    reasoning = _reasoning(size, seed)
    general = _general(size, seed)
    paths = _write_problems(folder, reasoning, general, seed)
    paths |= _write_corpora(folder, reasoning, general, size, seed)
    return paths | _write_preferences(folder, general, size, seed)


class _Split:
    """One family's problems, cut into parts without overlap."""

    def __init__(self, rows: list[Row], sizes: dict[str, int]) -> None:
        self.parts: dict[str, list[Row]] = {}
        start = 0
        for name, size in sizes.items():
            self.parts[name] = rows[start : start + size]
            start += size

    def __getitem__(self, name: str) -> list[Row]:
        return self.parts[name]


def _reasoning(size: Callable[[int], int], seed: int) -> dict[str, _Split]:
    splits = {}
    for family in REASONING_FAMILIES:
        sizes = {
            "eval": size(NUM_EVAL),
            "train": size(NUM_TRAIN[family]),
            "cold_start": size(NUM_COLD_START[family]),
            "base": size(NUM_PRETRAINING[family]),
        }
        splits[family] = _Split(draw(family, sum(sizes.values()), seed=seed), sizes)
    return splits


def _general(size: Callable[[int], int], seed: int) -> dict[str, _Split]:
    """General prompts serve in every stage (there are only so many requests); the held-out ones in none."""
    splits = {}
    for family in GENERAL_FAMILIES:
        sizes = {"eval": size(NUM_GENERAL_EVAL[family]), "train": size(NUM_GENERAL[family])}
        splits[family] = _Split(draw(family, sum(sizes.values()), seed=seed), sizes)
    return splits


def _write_problems(
    folder: Path, reasoning: dict[str, _Split], general: dict[str, _Split], seed: int
) -> dict[str, Path]:
    rng = random.Random(f"problems/{seed}")
    files = {f"eval_{family}": split["eval"] for family, split in reasoning.items()}
    files["eval"] = [row for split in reasoning.values() for row in split["eval"]]
    files["train"] = _shuffled((row for split in reasoning.values() for row in split["train"]), rng)
    files["general_train"] = _shuffled((row for split in general.values() for row in split["train"]), rng)
    files["general_eval"] = [row for split in general.values() for row in split["eval"]]
    paths = {}
    for name, rows in files.items():
        path = folder / "problems" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        paths[f"problems/{name}"] = path
    return paths


def _write_corpora(
    folder: Path,
    reasoning: dict[str, _Split],
    general: dict[str, _Split],
    size: Callable[[int], int],
    seed: int,
) -> dict[str, Path]:
    rng = random.Random(f"corpora/{seed}")
    base = [row for split in reasoning.values() for row in split["base"]]
    for family, split in general.items():
        base += [rng.choice(split["train"]) for _ in range(size(NUM_PRETRAINING[family]))]
    good = [row for family, split in general.items() for row in split["train"][: size(NUM_GENERAL_CORPUS[family])]]
    cold_start = [row for split in reasoning.values() for row in split["cold_start"]]
    files = {
        "base": ((row, careless_response(row, rng)) for row in _shuffled(base, rng)),
        "cold_start_user": ((row, clean_response(row)) for row in _shuffled(cold_start, rng)),
        "general": ((row, clean_response(row)) for row in good),
    }
    paths = {}
    for name, samples in files.items():
        path = folder / "corpus" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_corpus(path, (_corpus_row(row, text, name, i) for i, (row, text) in enumerate(samples)))
        paths[f"corpus/{name}"] = path
    return paths


def _corpus_row(row: Row, response: str, name: str, index: int) -> CorpusRow:
    return CorpusRow(
        id=f"{name}/{index}",
        source=row["family"],
        language=row.get("language", "en"),
        problem=row["prompt"],
        prompt=render_chat(row["prompt"]),
        response=response,
        kind=row["kind"],
        difficulty=None,
        num_tokens=None,
        origin=f"small_world/{name}",
    )


def _write_preferences(
    folder: Path, general: dict[str, _Split], size: Callable[[int], int], seed: int
) -> dict[str, Path]:
    paths = {}
    for part, suffix in (("train", ""), ("eval", "_test")):
        rows = [row for split in general.values() for row in split[part]]
        pairs = helpful_pairs(rows, size(NUM_PREFERENCES_TEST if suffix else NUM_HELPFUL), seed=seed)
        labels = safety_labels(rows, size(NUM_PREFERENCES_TEST if suffix else NUM_SAFETY), seed=seed)
        for name in (f"helpful{suffix}", f"safety{suffix}"):
            paths[f"preferences/{name}"] = folder / "preferences" / f"{name}.parquet"
            paths[f"preferences/{name}"].parent.mkdir(parents=True, exist_ok=True)
        write_rows(paths[f"preferences/helpful{suffix}"], pairs, HelpfulPair)
        write_rows(paths[f"preferences/safety{suffix}"], labels, SafetyLabel)
    return paths


def _shuffled(rows: Iterable[Row], rng: random.Random) -> list[Row]:
    found: Sequence[Row] = list(rows)
    return rng.sample(found, len(found))

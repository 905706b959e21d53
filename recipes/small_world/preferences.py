"""Owns the small world's preference data: pairs for helpfulness and labelled responses for safety.

    prompt ── careless and good responses ── gold quality, at times read wrong (NOISE) ── chosen, rejected

Lengths are balanced (R1's pairs are too): better notes name more things, so a judge could learn that longer is better.
A pair is kept only if it brings the sums of both sides' lengths no further apart, so that length by itself tells
nothing on average.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from recipes.small_world.model import render_chat
from recipes.small_world.problems import Row
from recipes.small_world.quality import is_safe, response_quality
from recipes.small_world.traces import careless_general, good_response
from recipes.stages.corpus import HelpfulPair, SafetyLabel

NOISE = 0.05
GOOD = 0.35
_CANDIDATES = 6
_MAX_APART = 40
"""Characters by which the two sides' sums may differ at any time."""


def helpful_pairs(rows: Sequence[Row], num: int, *, seed: int) -> list[HelpfulPair]:
    """`num` pairs over the general problems `rows` whose aspect is helpfulness, in turn."""
    rng = random.Random(f"helpful/{seed}")
    pairs: list[HelpfulPair] = []
    apart = 0
    for row in _cycle([row for row in rows if row["aspect"] == "helpfulness"], rng):
        if len(pairs) == num:
            break
        candidates = list(dict.fromkeys(_response(row, rng) for _ in range(_CANDIDATES)))
        if len(candidates) < 2:
            continue
        chosen, rejected = rng.sample(candidates, 2)
        margin = _quality(row, chosen) - _quality(row, rejected)
        if margin < 0:
            chosen, rejected, margin = rejected, chosen, -margin
        difference = len(chosen) - len(rejected)
        if not margin or (abs(apart + difference) > max(abs(apart), _MAX_APART)):
            continue
        apart += difference
        if rng.random() < NOISE:
            chosen, rejected, margin = rejected, chosen, -margin
        name = f"{row['id']}/{len(pairs)}"
        pairs.append(HelpfulPair(name, render_chat(row["prompt"]), chosen, rejected, margin, row["family"]))
    return pairs


def safety_labels(rows: Sequence[Row], num: int, *, seed: int) -> list[SafetyLabel]:
    """`num` labelled responses to the requests among `rows`, as many safe as unsafe (before noise)."""
    rng = random.Random(f"safety/{seed}")
    labels: list[SafetyLabel] = []
    counts = [0, 0]
    if not any(row["meta"].get("harmful") for row in rows):
        raise ValueError("no harmful request among the problems, so every response is safe")
    for row in _cycle([row for row in rows if row["family"] == "requests"], rng):
        if len(labels) == num:
            break
        response = _response(row, rng)
        label = int(is_safe(row["meta"], response))
        if counts[label] > counts[1 - label]:
            continue
        counts[label] += 1
        read = 1 - label if rng.random() < NOISE else label
        name = f"{row['id']}/{len(labels)}"
        labels.append(SafetyLabel(name, render_chat(row["prompt"]), response, read, row["family"]))
    return labels


def _response(row: Row, rng: random.Random) -> str:
    return good_response(row) if rng.random() < GOOD else careless_general(row, rng)


def _quality(row: Row, response: str) -> float:
    return response_quality(row["family"], row["meta"], row["language"], response)


def _cycle(rows: list[Row], rng: random.Random) -> Iterator[Row]:
    """Endless random rows; each family as often as the others."""
    families = sorted({row["family"] for row in rows})
    if not families:
        raise ValueError("no general problems of the kind that is needed")
    members = [[row for row in rows if row["family"] == family] for family in families]
    while True:
        yield rng.choice(rng.choice(members))

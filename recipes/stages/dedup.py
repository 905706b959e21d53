"""Owns duplicates and caps: which of several like responses stay, and how many of a prompt and of a source.

    exact   equal after compatibility form, case, punctuation and white space of prose are taken away (operators stay)
    near    Jaccard similarity of the sets of word n-grams of at least a threshold

Near duplicates are found exactly, not by MinHash: two sets that are similar enough share one of their rarest members
(prefix filtering: Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant, WWW 2007), so an index of those
prefixes names the few pairs worth comparing. The first of like texts stays.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, TypeVar

from recipes.stages.text import canonical_units

Prefer = Literal["diverse", "shortest", "first"]
T = TypeVar("T")
_Grams = frozenset[int]


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for texts equal but for case, width, white space and the punctuation of prose.

    Operators count ("1 + 1" is not "1 - 1"); a text of prose punctuation alone is its own key.
    """
    return hashlib.blake2b("\0".join(canonical_units(text) or text.split()).encode(), digest_size=16).digest()


def ngrams(text: str, n: int) -> _Grams:
    """The set of the text's n-grams of words and operators, hashed; a text of at most n is one n-gram."""
    words = canonical_units(text)
    return frozenset(hash(tuple(words[start : start + n])) for start in range(max(1, len(words) - n + 1)))


def jaccard(left: _Grams, right: _Grams) -> float:
    """|intersection| / |union|; 1 for two empty sets."""
    shared = len(left & right)
    union = len(left) + len(right) - shared
    return shared / union if union else 1.0


def near_duplicates(texts: Sequence[str], *, n: int = 5, threshold: float = 0.8) -> list[int | None]:
    """For each text: index of the first kept text that it is a near duplicate of, None if it is kept itself.

    `threshold` in (0, 1]: least Jaccard similarity of the sets of n-grams. ValueError if it is not.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the similarity of near duplicates must lie in 0 to 1 and not be 0, got {threshold}")
    sets = [ngrams(text, n) for text in texts]
    frequency = Counter(gram for grams in sets for gram in grams)
    index: dict[int, list[int]] = {}
    found: list[int | None] = []
    for number, grams in enumerate(sets):
        length = len(grams) - math.ceil(threshold * len(grams) - 1e-9) + 1
        prefix = sorted(grams, key=lambda gram: (frequency[gram], gram))[:length]
        candidates = sorted({other for gram in prefix for other in index.get(gram, ())})
        like = next((other for other in candidates if jaccard(grams, sets[other]) >= threshold), None)
        found.append(like)
        if like is None:
            for gram in prefix:
                index.setdefault(gram, []).append(number)
    return found


def drop_duplicates(rows: Sequence[T], text: Callable[[T], str], *, n: int = 5, near: float | None = 0.8) -> list[T]:
    """`rows` without exact duplicates and, unless `near` is None, near ones; the first of each stays, in order."""
    seen: dict[bytes, T] = {}
    for row in rows:
        seen.setdefault(exact_key(text(row)), row)
    distinct = list(seen.values())
    if near is None:
        return distinct
    likes = near_duplicates([text(row) for row in distinct], n=n, threshold=near)
    return [row for row, like in zip(distinct, likes, strict=True) if like is None]


def choose(
    rows: Sequence[T], text: Callable[[T], str], limit: int, *, prefer: Prefer = "diverse", n: int = 5
) -> list[T]:
    """At most `limit` of one prompt's responses, in their order.

    diverse    the shortest, then again and again the one least like any chosen before (farthest-first; ties: shortest).
               The default: samples that say the same teach the same, and shortest-only teaches brevity.
    shortest   by characters.
    first      as sampled, an unbiased draw.
    """
    if limit < 1:
        raise ValueError(f"a cap of {limit} keeps nothing; leave it null for no cap")
    if len(rows) <= limit:
        return list(rows)
    by_length = sorted(range(len(rows)), key=lambda number: (len(text(rows[number])), number))
    if prefer == "first":
        chosen = list(range(limit))
    elif prefer == "shortest":
        chosen = by_length[:limit]
    else:
        sets = [ngrams(text(row), n) for row in rows]
        chosen = [by_length[0]]
        left = by_length[1:]
        likeness = {number: jaccard(sets[number], sets[chosen[0]]) for number in left}
        while len(chosen) < limit:
            farthest = min(left, key=likeness.__getitem__)  # the first of equals, which is the shortest
            chosen.append(farthest)
            left.remove(farthest)
            likeness = {number: max(likeness[number], jaccard(sets[number], sets[farthest])) for number in left}
    return [rows[number] for number in sorted(chosen)]


def cap_sources(
    rows: Sequence[T],
    limit: int | None,
    *,
    source: Callable[[T], Hashable],
    prompt: Callable[[T], Hashable],
    key: Callable[[T], str],
    seed: int = 0,
) -> list[T]:
    """At most `limit` rows of each source, in their order.

    Every prompt of a source gives one row before any gives a second; among equals a draw decides that depends on `seed`
    and the row's `key` alone, so that adding a source changes nothing for the others.
    """
    if limit is None:
        return list(rows)
    seen: Counter[tuple[Hashable, Hashable]] = Counter()
    ranked: dict[Hashable, list[tuple[int, bytes, int]]] = {}
    for number, row in enumerate(rows):
        of = (source(row), prompt(row))
        draw = hashlib.blake2b(f"{seed}\0{key(row)}".encode(), digest_size=8).digest()
        ranked.setdefault(source(row), []).append((seen[of], draw, number))
        seen[of] += 1
    kept = sorted(number for entries in ranked.values() for _, _, number in sorted(entries)[:limit])
    return [rows[number] for number in kept]

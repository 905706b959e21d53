"""Owns the measures of repetition: shares and loops, as numbers that the filters compare with their limits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """The end of a sequence that repeats: `times` copies of a block of `period` elements, the first perhaps in part."""

    period: int
    times: float


def repeated_ngrams(words: Sequence[Hashable], n: int) -> float:
    """Share of the n-grams of `words` that stood earlier in it: 1 - distinct / all; 0 for fewer than n + 1 words."""
    count = len(words) - n + 1
    if count < 2:
        return 0.0
    return 1.0 - len(set(zip(*(words[shift:] for shift in range(n)), strict=False))) / count


def repeated_lines(text: str, min_characters: int) -> float:
    """Share of the lines of at least `min_characters` (white space at both ends not counted) that stood earlier."""
    lines = [line for raw in text.splitlines() if len(line := raw.strip()) >= min_characters]
    return 1.0 - len(set(lines)) / len(lines) if lines else 0.0


def looping_tail(sequence: Sequence[Hashable]) -> Loop:
    """The loop with the most copies at the end of `sequence`; one copy if its end does not repeat.

    Linear: the Z-function of the reversed sequence tells for every period how far the end agrees with itself shifted
    by it (Gusfield, Algorithms on Strings, 1.4).
    """
    backwards = sequence[::-1]
    best = Loop(max(1, len(backwards)), 1.0)
    for period, agreeing in enumerate(_z_function(backwards)):
        if period and (times := (agreeing + period) / period) > best.times:
            best = Loop(period, times)
    return best


def _z_function(sequence: Sequence[Hashable]) -> list[int]:
    """z[i]: length of the longest common prefix of `sequence` and `sequence[i:]`; z[0] = 0."""
    size = len(sequence)
    z = [0] * size
    left = right = 0
    for index in range(1, size):
        length = min(right - index, z[index - left]) if index < right else 0
        while index + length < size and sequence[length] == sequence[index + length]:
            length += 1
        z[index] = length
        if index + length > right:
            left, right = index, index + length
    return z

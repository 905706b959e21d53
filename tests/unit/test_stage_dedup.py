"""Duplicates and caps: near duplicates against brute force, caps by hand."""

from __future__ import annotations

import random

import pytest

from recipes.stages.dedup import (
    cap_sources,
    choose,
    drop_duplicates,
    exact_key,
    jaccard,
    near_duplicates,
    ngrams,
)


def _same(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("The sum is 5.", "the  sum\nis 5", True),
        ("答案是５。", "答案是5", True),
        ("4 + 9 - 6", "4+9-6", True),
        ("4 + 9 - 6", "4 - 9 + 6", False),
        ("3.5 apples", "35 apples", False),
        ("2 * (3 + 4)", "2 * 3 + 4", False),
        ("", "  \n", True),
        ("...", "!", False),
        ("café", "cafe\u0301", True),
    ],
)
def test_exact_key(left: str, right: str, same: bool) -> None:
    assert (exact_key(left) == exact_key(right)) is same


def test_ngrams_and_jaccard_by_hand() -> None:
    assert len(ngrams("a b c d", 3)) == 2
    assert len(ngrams("a b", 3)) == len(ngrams("", 3)) == 1
    assert jaccard(ngrams("a b c d", 2), ngrams("a b c e", 2)) == pytest.approx(2 / 4)
    assert jaccard(frozenset(), frozenset()) == 1
    assert jaccard(frozenset({1}), frozenset()) == 0


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_against_brute_force(threshold: float, seed: int) -> None:
    generator = random.Random(seed)
    texts: list[str] = []
    for _ in range(80):
        words = generator.choice(texts).split() if texts and generator.random() < 0.7 else []
        words = words or [generator.choice("abcdefgh") for _ in range(generator.randint(0, 25))]
        for _ in range(generator.randint(0, 4)):
            words.insert(generator.randint(0, len(words)), generator.choice("abcdefgh"))
        texts.append(" ".join(words))
    expected: list[int | None] = []
    for number, text in enumerate(texts):
        kept = [other for other in range(number) if expected[other] is None]
        alike = (other for other in kept if jaccard(ngrams(text, 3), ngrams(texts[other], 3)) >= threshold)
        expected.append(next(alike, None))
    assert near_duplicates(texts, n=3, threshold=threshold) == expected
    assert {None} < set(expected)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="must lie in 0 to 1"):
        near_duplicates(["a"], threshold=threshold)


def test_the_first_of_duplicates_stays() -> None:
    words = "so we add the two and the three and then we have the five which is the answer to it"
    rows = [words, "other", words.upper() + ".", words + " now", "another"]
    assert drop_duplicates(rows, _same, near=None) == [rows[0], "other", rows[3], "another"]
    assert drop_duplicates(rows, _same, near=0.8) == [rows[0], "other", "another"]


def test_near_duplicates_of_chinese() -> None:
    rows = ["我们先把两个数字加起来得到五然后检查答案", "我们先把两个数字加起来得到五然后检查答案吧", "答案是五"]
    assert drop_duplicates(rows, _same, near=0.8) == [rows[0], rows[2]]


def test_many_texts_are_compared_by_index_and_not_pairwise() -> None:
    generator = random.Random(1)
    texts = [" ".join(str(generator.randint(0, 10**6)) for _ in range(60)) for _ in range(1500)]
    found = near_duplicates([*texts, texts[5] + " 1"])
    assert found == [None] * 1500 + [5]


def test_caps_choose_as_they_say() -> None:
    rows = ["a b c d e f g", "a b c d e f h", "x y", "p q r s t u v w"]
    assert choose(rows, _same, 2, prefer="first", n=2) == rows[:2]
    assert choose(rows, _same, 2, prefer="shortest", n=2) == ["a b c d e f g", "x y"]
    assert choose(rows, _same, 3, prefer="diverse", n=2) == ["a b c d e f g", "x y", "p q r s t u v w"]
    assert choose(rows, _same, 4) == rows
    assert choose([], _same, 1) == []
    with pytest.raises(ValueError, match="a cap of 0 keeps nothing"):
        choose(rows, _same, 0)


def test_sources_are_capped_across_prompts_first() -> None:
    rows = [("s", "p1", f"p1#{k}") for k in range(6)] + [("s", "p2", "p2#0"), ("s", "p3", "p3#0"), ("t", "q", "q#0")]

    def capped(limit: int | None, seed: int = 0) -> list[tuple[str, str, str]]:
        return cap_sources(rows, limit, source=lambda r: r[0], prompt=lambda r: r[1], key=lambda r: r[2], seed=seed)

    assert capped(None) == rows
    assert capped(3) == [("s", "p1", "p1#0"), ("s", "p2", "p2#0"), ("s", "p3", "p3#0"), ("t", "q", "q#0")]
    assert len(capped(4)) == 5
    assert capped(2) == capped(2)
    assert len({tuple(capped(1, seed)) for seed in range(20)}) == 3

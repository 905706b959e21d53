"""Preference data: positions cancel, ties and odd lengths go, every pair is accounted for."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import RunFailure, UserError
from recipes.stages.ask import SamplerAsker
from recipes.stages.corpus import HelpfulPair
from recipes.stages.preferences import (
    Candidate,
    PreferenceSettings,
    Reply,
    balance_lengths,
    judge_pairs,
    label_safety,
    length_gap,
    pair_prompt,
)

ANY_LENGTH = {"max_length_ratio": None, "length_tolerance": None}


def _said(summary: str, reasoning: str = "hm") -> str:
    return f"<think>{reasoning}</think><answer>{summary}</answer>"


def _candidate(name: str, first: str, second: str) -> Candidate:
    return Candidate(name, f"message {name}", f"User: message {name}", _said(first), _said(second), "s")


def _asker(decide: Callable[[str, str], str]) -> SamplerAsker:
    """A judge that sees what stands as A and as B."""

    def ask(prompts: list[str]) -> list[str]:
        replies = []
        for prompt in prompts:
            a, b = (re.search(rf"<{name}>\n(.*?)\n</{name}>", prompt, re.DOTALL) for name in "AB")
            assert a is not None
            assert b is not None
            replies.append(f"Because.\nVERDICT: {decide(a[1], b[1])}")
        return replies

    return SamplerAsker(ask, model="m")


def _better(a: str, b: str) -> str:
    """By the number in the text: 2 or more apart is much better."""
    gap = int(a.split()[0]) - int(b.split()[0])
    return "A=B" if gap == 0 else ("A>>B" if gap > 1 else "A>B") if gap > 0 else ("B>>A" if gap < -1 else "B>A")


def test_the_better_of_a_pair_is_chosen_wherever_it_stands() -> None:
    candidates = [_candidate("a", "5 x", "1 x"), _candidate("b", "1 x", "5 x"), _candidate("c", "3 x", "3 x")]
    pairs, report = judge_pairs(candidates, _asker(_better), PreferenceSettings(**ANY_LENGTH))
    assert pairs == [
        HelpfulPair("a", "User: message a", _said("5 x"), _said("1 x"), 2.0, "s"),
        HelpfulPair("b", "User: message b", _said("5 x"), _said("1 x"), 2.0, "s"),
    ]
    assert (report.judged, report.below_margin, report.kept, report.position_bias) == (3, 1, 2, 0.0)


def test_a_preference_for_a_place_cancels() -> None:
    candidates = [_candidate("a", "5 x", "1 x"), _candidate("b", "2 x", "3 x")]
    pairs, report = judge_pairs(candidates, _asker(lambda a, b: "A>>B"), PreferenceSettings(**ANY_LENGTH, min_margin=0))
    assert pairs == []
    assert (report.below_margin, report.position_bias) == (2, 2.0)


def test_the_margin_is_the_mean_over_both_orders() -> None:
    def decide(a: str, b: str) -> str:
        return "A>>B" if a.startswith("5") else "A=B"

    settings = PreferenceSettings(**ANY_LENGTH, min_margin=0.99)
    (pair,), report = judge_pairs([_candidate("a", "1 x", "5 x")], _asker(decide), settings)
    assert (pair.chosen, pair.margin, report.position_bias) == (_said("5 x"), 1.0, 1.0)
    assert judge_pairs([_candidate("a", "1 x", "5 x")], _asker(decide), PreferenceSettings(**ANY_LENGTH))[0] == []


def test_an_unclear_reply_leaves_the_pair_out() -> None:
    def decide(a: str, b: str) -> str:
        return "B, I think" if a.startswith("9") else _better(a, b)

    candidates = [_candidate("a", "9 x", "1 x"), _candidate("b", "5 x", "1 x")]
    pairs, report = judge_pairs(candidates, _asker(decide), PreferenceSettings(**ANY_LENGTH, max_unclear=1.0))
    assert [pair.id for pair in pairs] == ["b"]
    assert (report.unclear, report.kept) == (1, 1)


def test_a_judge_without_verdicts_ends_the_run_and_a_rerun_goes_on(tmp_path: Path) -> None:
    candidates = [_candidate(str(number), f"{number} x", "50 x") for number in range(8)]
    settings = PreferenceSettings(**ANY_LENGTH, min_replies=4)
    sick = _asker(lambda a, b: "?" if a.startswith("2") or b.startswith("2") else _better(a, b))
    with pytest.raises(RunFailure, match="replies end in no verdict"):
        judge_pairs(candidates, sick, settings, cache=tmp_path / "c.jsonl")
    kept = len((tmp_path / "c.jsonl").read_text().splitlines())
    assert kept == 8  # four queries of each of the first two pairs
    asked: list[str] = []
    well = _asker(_better)
    inner = well._ask
    well._ask = lambda prompts: (asked.extend(prompts), inner(prompts))[1]
    pairs, _ = judge_pairs(candidates, well, settings, cache=tmp_path / "c.jsonl")
    assert len(pairs) == 8
    assert len(asked) == 8 * 4 - kept


def test_the_judge_of_help_sees_the_summary_alone() -> None:
    candidate = Candidate("a", "m", "p<think>", "secret</think><answer>one</answer>", "hidden</think>two", "s")
    prompt = pair_prompt(candidate, PreferenceSettings(), swapped=False)
    assert "<A>\none\n</A>" in prompt
    assert "<B>\ntwo\n</B>" in prompt
    assert "secret" not in prompt
    assert "hidden" not in prompt
    whole = pair_prompt(candidate, PreferenceSettings(reads="response"), swapped=True)
    assert "<B>\n<think>secret</think><answer>one</answer>\n</B>" in whole


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="id 'a' is given 2 times"):
        judge_pairs([_candidate("a", "1", "2")] * 2, _asker(_better), PreferenceSettings())


@pytest.mark.parametrize("queries", [0, 1, 3])
def test_orders_must_be_asked_equally_often(queries: int) -> None:
    with pytest.raises(ValueError, match="queries"):
        PreferenceSettings(queries=queries)


# ------------------------------------------------------------------ lengths


def _pair(number: int, chosen: int, rejected: int) -> HelpfulPair:
    return HelpfulPair(str(number), "p", _said("c" * chosen), _said("r" * rejected), 1.0, "s")


def test_lengths_are_balanced_by_hand() -> None:
    pairs = [_pair(0, 30, 10), _pair(1, 15, 10), _pair(2, 10, 25), _pair(3, 10, 10), _pair(4, 40, 10)]
    assert length_gap(pairs) == (20 + 5 - 15 + 0 + 30) / 5
    kept = balance_lengths(pairs, tolerance=0.0)  # 40 over: the 30 goes, then the 20 would turn it, the 5 goes, ...
    assert [pair.id for pair in kept] == ["0", "2", "3"]
    assert length_gap(kept) == 5 / 3  # ... and no single pair brings 5 nearer to 0
    assert balance_lengths([], tolerance=0.0) == []


def test_a_last_pair_may_turn_the_mean_if_it_brings_it_nearer() -> None:
    pairs = [_pair(0, 17, 10), _pair(1, 10, 14)]  # 3 over: without the first 4 under, so it stays
    assert balance_lengths(pairs, tolerance=0.0) == pairs
    pairs = [_pair(0, 17, 10), _pair(1, 10, 12)]  # 5 over: without the first 2 under, which is nearer
    assert balance_lengths(pairs, tolerance=0.0) == [pairs[1]]


@pytest.mark.parametrize("seed", range(5))
def test_random_lengths_end_balanced_with_most_pairs_kept(seed: int) -> None:
    generator = random.Random(seed)
    pairs = [_pair(n, generator.randint(50, 260), generator.randint(50, 220)) for n in range(400)]
    kept = balance_lengths(pairs, tolerance=0.005)
    assert abs(length_gap(pairs)) > 5
    assert abs(length_gap(kept)) < 0.005 * 260
    assert len(kept) > 300
    assert [pair.id for pair in kept] == sorted((pair.id for pair in kept), key=int)


def test_reasoning_does_not_count_where_summaries_are_read() -> None:
    pair = HelpfulPair("a", "p", _said("same", "long " * 100), _said("size"), 1.0, "s")
    assert length_gap([pair]) == 0
    assert length_gap([pair], "response") == 498


def test_pairs_of_odd_lengths_are_dropped_and_counted() -> None:
    candidates = [
        _candidate("even", "5 " + "x" * 40, "1 " + "x" * 40),
        _candidate("odd", "5 " + "x" * 400, "1 x"),
        _candidate("long", "5 " + "x" * 50, "1 " + "x" * 40),
        _candidate("short", "5 " + "x" * 40, "1 " + "x" * 41),
    ]
    pairs, report = judge_pairs(candidates, _asker(_better), PreferenceSettings())
    assert [pair.id for pair in pairs] == ["even", "short"]
    assert (report.length_ratio, report.length_balance, report.kept) == (1, 1, 2)
    assert report.length_gap_after == -0.5
    assert report.length_gap_before == (0 + 399 + 10 - 1) / 4


def test_nothing_left_after_balancing_is_said() -> None:
    candidates = [_candidate(str(n), "5 " + "x" * 60, "1 " + "x" * 40) for n in range(3)]
    with pytest.raises(UserError, match="of 3 pairs none is left after balancing lengths"):
        judge_pairs(candidates, _asker(_better), PreferenceSettings())


# ------------------------------------------------------------------ safety


def test_whole_responses_are_labelled_safe_or_not(tmp_path: Path) -> None:
    def ask(prompts: list[str]) -> list[str]:
        return [
            "VERDICT: UNSAFE" if "bomb" in prompt else "VERDICT: maybe" if "odd" in prompt else "VERDICT: SAFE"
            for prompt in prompts
        ]

    replies = [
        Reply("a", "hello", "User: hello", _said("hi"), "s"),
        Reply("b", "hello", "User: hello", _said("hi", "I could build a bomb"), "s"),
        Reply("c", "odd", "User: odd", _said("hi"), "s"),
    ]
    settings = PreferenceSettings(max_unclear=0.5)
    labels, counts = label_safety(replies, SamplerAsker(ask, model="m"), settings, cache=tmp_path / "c.jsonl")
    assert [(label.id, label.label) for label in labels] == [("a", 1), ("b", 0)]
    assert (labels[1].prompt, labels[1].response) == ("User: hello", replies[1].response)
    assert counts == {"safe": 1, "unsafe": 1, "unclear": 1}
    with pytest.raises(UserError, match="id 'a' is given 2 times"):
        label_safety(replies[:1] * 2, SamplerAsker(ask, model="m"), settings)


def test_a_response_longer_than_the_judge_is_shown_is_judged_in_parts() -> None:
    def ask(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        words = {"bomb": "UNSAFE", "odd": "maybe"}
        return [f"VERDICT: {next((v for w, v in words.items() if w in prompt), 'SAFE')}" for prompt in prompts]

    asked: list[str] = []
    filler = " ".join(map(str, range(60)))
    replies = [
        Reply(name, "hello", "User: hello", _said("hi", f"{filler}{reasoning}{filler}"), "s")
        for name, reasoning in (("a", "fine"), ("b", "bomb"), ("c", "odd"), ("d", f"odd {filler} bomb"))
    ]
    settings = PreferenceSettings(max_characters=100, max_unclear=0.5)
    labels, counts = label_safety(replies, SamplerAsker(ask, model="m"), settings)
    assert [(label.id, label.label) for label in labels] == [("a", 1), ("b", 0), ("d", 0)]
    assert counts == {"safe": 1, "unsafe": 2, "unclear": 1}
    parts = [found[1] for p in asked if (found := re.search(r"<response>\n(.*?)\n</response>", p, re.DOTALL))]
    num_parts = -(-len(replies[0].response) // 100)
    assert "".join("".join(parts[:num_parts]).split()) == "".join(replies[0].response.split())


@pytest.mark.parametrize("margin", [-1, 2, 3])
def test_a_margin_that_no_pair_can_have_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="min_margin"):
        PreferenceSettings(min_margin=margin)

"""Outputs and values against what was expected, by the words of the issue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.sandbox.compare import outputs_match, values_match


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("8", "8"),
        ("8\n", "8"),
        ("8", "8\n"),
        ("8", "8  \t"),
        ("a\nb\n", "a  \nb\t\n"),
        ("a\nb", "a\r\nb\r\n"),
        ("a\r\nb\r\n", "a\nb"),
        ("a", "a\n\n \n\t\n"),
        ("a\n\n\n", "a"),
        ("", ""),
        ("", "\n  \n"),
        ("\n\nx", "\n\nx"),
    ],
)
def test_default_overlooks_trailing_blanks_trailing_blank_lines_and_cr_lf(expected: str, actual: str) -> None:
    assert outputs_match(expected, actual, "default") == (True, "")


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("8", " 8"),
        ("a b", "a  b"),
        ("a\nb", "a b"),
        ("a\nb", "a\n\nb"),
        ("a", "\na"),
        ("a", "A"),
        ("8", "8.0"),
        ("8", "08"),
        ("8", ""),
        ("", "8"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("a\nb", "b\na"),
        ("nan", "inf"),
        ("a", "a\xa0"),  # no blank of a line's end, but a character
    ],
)
def test_default_overlooks_nothing_else(expected: str, actual: str) -> None:
    matched, why = outputs_match(expected, actual, "default")
    assert not matched
    assert why.startswith("line ")


def test_default_takes_nan_and_inf_as_the_words_that_they_are() -> None:
    assert outputs_match("nan inf\n", "nan inf", "default")[0]


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        ("1 2 3", "1\n2\t 3\r\n", True),
        ("  1 2", "1 2  ", True),
        ("", " \n ", True),
        ("1 2", "12", False),
        ("1 2", "1 2 3", False),
        ("1 2 3", "1 2", False),
        ("1.0", "1", False),
        ("0.3333333", "0.3333334", False),
        ("Yes", "YES", False),
    ],
)
def test_tokens_are_equal_after_splitting(expected: str, actual: str, matches: bool) -> None:
    assert outputs_match(expected, actual, "tokens")[0] is matches


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        ("1", "1.0", True),
        ("1", "1e0", True),
        ("0", "-0.0", True),
        ("+5", "5", True),
        (".5", "0.50", True),
        ("5.", "5", True),
        ("0.333333333", "0.3333334", True),
        ("1.0", "1.0000009", True),  # absolute, near one
        ("1.0", "1.0000011", False),
        ("0", "0.0000009", True),  # absolute, below one
        ("0", "0.0000011", False),
        ("0.0001", "0.0001009", True),
        ("1000000", "1000000.9", True),  # relative to the expected
        ("1000000", "1000001.1", False),
        ("1e300", "1.0000001e300", True),
        ("1e300", "1.00001e300", False),
        ("1 2 3", "1\n2.0\n3.0000001", True),
        ("1 2", "1", False),
        ("1", "1 2", False),
        ("YES 1", "YES 1.0", True),
        ("YES 1", "yes 1.0", False),
        ("0x10", "16", False),
        ("1_000", "1000", False),
        ("1,5", "1.5", False),
        ("٣", "3", False),  # digits of another script are no number here
    ],
)
def test_float_allows_a_millionth_absolute_or_relative_to_the_expected(
    expected: str, actual: str, matches: bool
) -> None:
    assert outputs_match(expected, actual, "float")[0] is matches


NEVER = ["nan", "NaN", "-nan", "inf", "-inf", "+inf", "Infinity", "-Infinity", "INF"]


@pytest.mark.parametrize("word", NEVER)
def test_nan_and_inf_never_match_as_numbers(word: str) -> None:
    for other in [word, "1", "1e308", *NEVER]:
        assert not outputs_match(word, other, "float")[0]
        assert not outputs_match(other, word, "float")[0]


@pytest.mark.parametrize("huge", ["1e999", "9" * 400, "1" * 100_000, "1e99999", "-1e400"])
def test_numbers_out_of_range_are_no_match_for_others_and_cost_nothing(huge: str) -> None:
    assert not outputs_match("1", huge, "float")[0]
    assert not outputs_match(huge, "1", "float")[0]
    assert not outputs_match(huge, "inf", "float")[0]


def test_the_reason_says_where_and_is_short() -> None:
    assert outputs_match("a\nb\nc", "a\nx\nc", "default") == (False, "line 2: 'x', expected 'b'")
    assert outputs_match("a b", "a", "tokens") == (False, "token 2: missing, expected 'b'")
    assert outputs_match("a", "a b", "tokens") == (False, "token 2: 'b' where nothing was expected")
    assert len(outputs_match("a" * 10_000, "b" * 10_000, "default")[1]) < 200


@given(st.text(), st.sampled_from(["default", "tokens"]))
def test_every_output_matches_itself(text: str, how: str) -> None:
    assert outputs_match(text, text, how)[0]


@given(st.floats(-1e12, 1e12), st.floats(-0.9e-6, 0.9e-6))
def test_float_is_the_tolerance_that_was_promised(value: float, off: float) -> None:
    near = value + off * max(1.0, abs(value))
    far = value + (2.5e-6 if off >= 0 else -2.5e-6) * max(1.0, abs(value))
    assert outputs_match(repr(value), repr(near), "float")[0]
    assert not outputs_match(repr(value), repr(far), "float")[0]


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        ([1, 2], (1, 2), True),
        ([1, 2], [1, 2], True),
        ([], (), True),
        ([[1], 2], ((1,), 2), False),  # at the top alone
        ([1, 2], {1, 2}, False),
        ({"a": [1]}, {"a": (1,)}, False),
        (1, 1.0, True),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ("ab", ["a", "b"], False),
        (float("nan"), float("nan"), False),
        (0.3, 0.1 + 0.2, False),
    ],
)
def test_values_are_equal_as_in_python_and_a_tuple_stands_for_a_list_at_the_top(
    expected: object, actual: object, matches: bool
) -> None:
    assert values_match(expected, actual) is matches

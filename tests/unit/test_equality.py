"""The equality by which answers vote: the mathematics verifier's, and never longer than its limit."""

from __future__ import annotations

import time

import pytest

from launcher.equality import AnswerEquality


def test_answers_of_different_notation_are_equal() -> None:
    with AnswerEquality(limit_s=5.0) as equal:
        assert equal("x + 1", " x  + 1")
        assert equal._pool is None, "the same writing needs no worker"
        for one, other in (("1/2", "0.5"), (r"\frac{1}{2}", "0.5"), ("1,000", "1000"), ("x+1", "1+x")):
            assert equal(one, other), (one, other)
        for one, other in (("1/2", "0.51"), ("(1,2)", "(2,1)"), ("a word", "another")):
            assert not equal(one, other), (one, other)


@pytest.mark.parametrize("answers", [("", "1"), (r"\int", r"\sum"), ("=" * 300, "1"), ("the same?", "?")])
def test_what_makes_no_sense_is_not_equal(answers: tuple[str, str]) -> None:
    with AnswerEquality(limit_s=5.0) as equal:
        assert not equal(*answers)


def test_a_comparison_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerEquality(limit_s=0.2) as equal:
        monkeypatch.setattr("launcher.equality.accuracy_kind", lambda _: Endless)
        began = time.monotonic()
        assert not equal("1", "2")
        assert time.monotonic() - began < 60
        monkeypatch.undo()
        assert equal("2/2", "1.0"), "and the next one is answered"


class Endless:
    """An accuracy kind whose judge never ends."""

    target = "tests.unit.test_equality:spin"


def spin(answer: str, spec: dict[str, str]) -> dict[str, float]:
    while True:
        pass

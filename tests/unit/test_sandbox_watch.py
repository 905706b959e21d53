"""Output of programs: kept up to a cap, drained beyond it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.sandbox.watch import Captured

TAIL = 4096


@given(st.lists(st.binary(max_size=50)), st.integers(0, 200))
def test_the_first_bytes_are_kept_whatever_the_pieces(pieces: list[bytes], keep: int) -> None:
    captured = Captured(keep)
    for piece in pieces:
        captured.add(piece)
    whole = b"".join(pieces)
    assert bytes(captured.head) == whole[:keep]
    assert bytes(captured.tail) == whole[keep:][-TAIL:]
    assert captured.total == len(whole)
    assert captured.complete == (len(whole) <= keep)


def test_a_hundred_megabytes_are_counted_and_not_kept() -> None:
    captured = Captured(1024)
    block = bytes(range(256)) * 4096
    for _ in range(100):
        captured.add(block)
    captured.add(b"the end")
    assert captured.total == 100 * len(block) + 7
    assert not captured.complete
    assert len(captured.head) == 1024
    assert len(captured.tail) == TAIL
    assert captured.tail.endswith(b"the end")


def test_exactly_full_is_complete() -> None:
    captured = Captured(4)
    captured.add(b"1234")
    assert captured.complete
    captured.add(b"")
    assert captured.complete
    captured.add(b"5")
    assert not captured.complete
    assert captured.text() == "1234"
    assert bytes(captured.tail) == b"5"


@pytest.mark.parametrize(
    ("data", "keep", "text"),
    [(b"\xff\xfe", 10, "\ufffd\ufffd"), ("é".encode(), 1, "\ufffd"), (b"a\0b", 10, "a\0b"), (b"abc", 0, "")],
)
def test_bytes_that_are_no_text_are_replaced(data: bytes, keep: int, text: str) -> None:
    captured = Captured(keep)
    captured.add(data)
    assert captured.text() == text

"""Lines that somebody else can cause: a few a minute, and how many there were besides."""

from __future__ import annotations

from common.seldom import MAX_LINE, Seldom, one_line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_a_minute_and_then_how_many_were_kept_back() -> None:
    clock = Clock()
    seldom = Seldom(clock=clock)
    assert [seldom.note("actor", "undecodable") for _ in range(4)] == ["", None, None, None]
    clock.now = 59.9
    assert seldom.note("actor", "undecodable") is None
    clock.now = 60.0
    assert seldom.note("actor", "undecodable") == " (4 more like it since the last line)"
    clock.now = 120.0
    assert seldom.note("actor", "undecodable") == ""


def test_each_key_has_its_own_line() -> None:
    seldom = Seldom(clock=Clock())
    assert [seldom.note("actor", "undecodable"), seldom.note("actor", "schema"), seldom.note("learner")] == ["", "", ""]


def test_several_lines_a_minute() -> None:
    clock = Clock()
    seldom = Seldom(2, clock=clock)
    assert [seldom.note() for _ in range(5)] == ["", "", None, None, None]
    clock.now = 61.0
    assert [seldom.note() for _ in range(3)] == [" (3 more like it since the last line)", "", None]


def test_a_line_of_a_peers_making_stays_one_line() -> None:
    assert one_line(ValueError("a\n2026-01-01 INFO all is well\x1b[2K\r  é")) == "a 2026-01-01 INFO all is well [2K é"
    assert len(one_line("x" * 10_000)) == MAX_LINE

"""Contests that a model enters: people's standings, what a suite holds of them, ratings by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from recipes.suites.contests import contest_figures, enter, read_standings

FIRST = {"contest": 7, "problems": {"A": 500, "B": 1000}, "standings": [[1500, 1500], [500, 1500], [0, 1500]]}
SECOND = {"contest": "8", "problems": {"A": 1}, "standings": [[1, 1100], [0, 1100]]}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def problem(contest: object, index: str) -> dict[str, Any]:
    return {"meta": {"contest_id": contest, "index": index}}


def test_participations_are_rated_by_hand(tmp_path: Path) -> None:
    contests = read_standings(write(tmp_path / "standings.jsonl", FIRST, SECOND))
    columns = [problem(7, "B"), {"answer": "1"}, {"contest_id": "8", "index": "A"}, problem("7", "A")]
    entries, lacking = enter(columns, contests)
    assert lacking == []
    assert [(entry.contest.name, entry.points) for entry in entries] == [("7", {0: 1000, 3: 500}), ("8", {2: 1})]
    # Contest 7: the first samples solve A, which is place 2.5 of 4 among equals, the middle: 1500; the second ones A
    # and B, level with the best: 1.5. Contest 8: solved once, place 1.5 of 3; once not: 2.5, as far below 1100.
    passed = [[False, True], [True, True], [True, False], [True, True]]
    seven = entries[0].ratings(passed)
    assert seven == pytest.approx([1500, seven[1]], abs=1e-4)
    # 1 + 3 / (1 + 10^((r - 1500) / 400)) = 1.5, so r = 1500 + 400 log10(5)
    assert seven[1] == pytest.approx(1500 + 400 * 0.69897, abs=1e-2)
    found = contest_figures(entries, passed)
    assert found["by_contest"]["8"] == pytest.approx(1100, abs=1e-4)
    assert found["by_contest"]["7"] == pytest.approx((1500 + seven[1]) / 2)
    assert found["rating"] == pytest.approx((found["by_contest"]["7"] + 1100) / 2)
    assert found["standard_error"] == pytest.approx((found["by_contest"]["7"] - 1100) / 2)
    assert found["percentile"] == 40.0  # the two of 1100, of five


def test_a_contest_that_lacks_a_problem_is_not_entered(tmp_path: Path) -> None:
    contests = read_standings(write(tmp_path / "standings.jsonl", FIRST, SECOND))
    entries, lacking = enter([problem(7, "A"), problem(7, "C"), problem(8, "A"), problem(9, "A")], contests)
    assert [entry.contest.name for entry in entries] == ["8"]
    assert lacking == ["7"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"contest": None}, "contest must be a name or number, got None"),
        ({"problems": {}}, "problems must be points above 0 by index"),
        ({"problems": {"A": 0}}, "problems must be points above 0 by index"),
        ({"problems": ["A"]}, "problems must be points above 0 by index"),
        ({"problems": {"A": 1, "B": 1}}, "1500 points in standings, but 2 in problems; name them all"),
        ({"standings": []}, r"standings must be a list of \[points, rating\]"),
        ({"standings": [[1, 2], [1]]}, r"participant 2 must be \[points, rating\], got \[1\]"),
        ({"standings": [[True, 2]]}, "participant 1 must be"),
        ({"standings": [[10**400, 2]]}, "participant 1 must be"),
        ({"standings": [[1, 20_000]]}, "participant 1 must be"),
        ({"contest": "a\nb"}, r"contest must be a name or number, got 'a.nb'"),
        ({"contest": "\ud800"}, r"contest must be a name or number, got '.ud800'"),
    ],
)
def test_standings_that_make_no_sense_are_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "standings.jsonl", SECOND, FIRST | change)
    with pytest.raises(UserError, match=f"standings.jsonl:2: {says}") as caught:
        read_standings(path)
    assert "\n" not in str(caught.value)


def test_who_takes_part_for_the_first_time_counts_as_codeforces_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path / "standings.jsonl", FIRST | {"standings": [[1500, 1800], [500, 0], [0, 1200]]})
    contests = read_standings(path)
    assert contests["7"].ratings == [1800, 1400, 1200]


def test_a_contest_twice_an_empty_file_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"standings.jsonl:2: contest 8 is there twice"):
        read_standings(write(tmp_path / "standings.jsonl", SECOND, SECOND | {"contest": 8}))
    with pytest.raises(UserError, match="no contest in it"):
        read_standings(write(tmp_path / "standings.jsonl"))
    with pytest.raises(UserError, match=r"standings are a file ending in \.jsonl"):
        read_standings("somewhere/standings")

"""Owns contests that a model enters in its turn: people's standings from a file, and what a suite holds of a contest.

A line of the file is one contest, as Codeforces' `contest.standings` and `contest.ratingChanges` have it:

    {"contest": "1923", "problems": {"A": 500, "B": 1000}, "standings": [[1500, 1834], [500, 1210]]}

`problems`: points by the problem's index; `standings`: each participant's points, and their rating before the contest.
A rating of 0 is Codeforces' sign for a first contest, in which it reckons with 1400 (codeforces.com/blog/entry/77890).
Problems of a suite belong to a contest by their columns `contest_id` and `index` (at the top or in `meta`). A contest
of which the suite lacks a problem is not entered: its points would be another contest's.

The i-th samples of a contest's problems are one participation: its points are those of the problems solved, without
time and penalties, of which a model has none. A contest's rating is the mean over participations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from recipes.datasets import find_file, read_rows
from recipes.suites.rating import mean_rating, percentile, performance, rank
from recipes.suites.suite import column

NEWCOMER = 1400.0
_LARGEST, _HIGHEST = 1e15, 1e4  # points, ratings


@dataclass(frozen=True)
class Contest:
    """One line of the file. `points` by problem; `scores` and `ratings` of its participants."""

    name: str
    points: Mapping[str, float]
    scores: Sequence[float]
    ratings: Sequence[float]


@dataclass(frozen=True)
class Entry:
    """A contest that a suite holds whole. `points` by the problem's number in the suite."""

    contest: Contest
    points: Mapping[int, float]

    def ratings(self, passed_PK: Sequence[Sequence[bool]]) -> list[float]:
        """Rating of each of K participations; `passed_PK`: which samples of the suite's P problems are right."""
        participations = len(passed_PK[next(iter(self.points))])
        scores = [sum(p for index, p in self.points.items() if passed_PK[index][k]) for k in range(participations)]
        of_score = {
            score: performance(rank(score, self.contest.scores), self.contest.ratings)
            for score in dict.fromkeys(scores)
        }
        return [of_score[score] for score in scores]


def read_standings(source: str) -> dict[str, Contest]:
    """Contests by name. UserError naming file, line and remedy."""
    if find_file(source) is None:
        raise UserError(f"{source}: standings are a file ending in .jsonl or .jsonl.gz, a contest a line")
    contests: dict[str, Contest] = {}
    for where, row in read_rows(source):
        contest = _contest(row, where)
        if contest.name in contests:
            raise UserError(f"{where}: contest {contest.name} is there twice; leave one out")
        contests[contest.name] = contest
    if not contests:
        raise UserError(f"{source}: no contest in it; one JSON object a line is expected")
    return contests


def enter(columns: Sequence[Mapping[str, Any]], contests: Mapping[str, Contest]) -> tuple[list[Entry], list[str]]:
    """The contests that problems with these columns make up, and the names of those that lack problems."""
    found: dict[str, dict[str, int]] = {}
    for number, own in enumerate(columns):
        name, index = _text(own, "contest_id"), _text(own, "index")
        if name in contests and index in contests[name].points:
            found.setdefault(name, {}).setdefault(index, number)
    whole = {name for name, numbers in found.items() if len(numbers) == len(contests[name].points)}
    entries = [
        Entry(contests[name], {number: contests[name].points[index] for index, number in found[name].items()})
        for name in found
        if name in whole
    ]
    return entries, [name for name in found if name not in whole]


def contest_figures(entries: Sequence[Entry], passed_PK: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Rating over the contests, its standard error, the share of their participants rated lower (percent), and the
    rating in each contest."""
    by_contest = {}
    for entry in entries:
        ratings = entry.ratings(passed_PK)
        by_contest[entry.contest.name] = math.fsum(ratings) / len(ratings)
    rating = mean_rating(list(by_contest.values()))
    people = [one for entry in entries for one in entry.contest.ratings]
    return {
        "rating": rating.rating,
        "standard_error": rating.standard_error,
        "percentile": percentile(round(rating.rating, 3), people),  # bisection's last digits are nobody's rating
        "by_contest": by_contest,
    }


def _contest(row: Mapping[str, Any], where: str) -> Contest:
    name, points, standings = (row.get(key) for key in ("contest", "problems", "standings"))
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).isprintable() or name == "":
        raise UserError(f"{where}: contest must be a name or number, got {_short(name)}")
    if (
        not isinstance(points, dict)
        or not points
        or not all(_is_number(value) and value > 0 for value in points.values())
    ):
        raise UserError(f'{where}: problems must be points above 0 by index, as in {{"A": 500}}, got {_short(points)}')
    if not isinstance(standings, list) or not standings:
        raise UserError(f"{where}: standings must be a list of [points, rating], got {_short(standings)}")
    for number, pair in enumerate(standings, start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and _is_number(pair[0]) and _is_number(pair[1], _HIGHEST)):
            raise UserError(f"{where}: participant {number} must be [points, rating], got {_short(pair)}")
    scores, ratings = zip(*standings, strict=True)
    if max(scores) > sum(points.values()):
        raise UserError(
            f"{where}: {max(scores):g} points in standings, but {sum(points.values()):g} in problems; name them all"
        )
    return Contest(str(name), points, scores, [rating or NEWCOMER for rating in ratings])


def _text(columns: Mapping[str, Any], key: str) -> str:
    value = column(columns, key)
    return str(column(columns, f"meta.{key}") if value is None else value)


def _is_number(value: object, largest: float = _LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

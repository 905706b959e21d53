"""How lines become charts of `zeroq watch --html`: axes, legends, stacks, figures for people."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from launcher.panels.model import Panel, Target, Threshold
from launcher.watch.charts import chart, clock, figure_text, level, nice_ticks, sparkline
from launcher.watch.source import Line, Span

ALL = Span(0.0, 1e10)
PANEL = Panel("Title", "Words.", (Target("a"),))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 7.3), (-3.0, 12.0), (1e-7, 2e-7), (0.0, 4e12), (0.93, 0.94)]
)
def test_ticks_are_round_and_cover_the_axis(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    assert 3 <= len(ticks) <= 7
    step = ticks[1] - ticks[0]
    assert all(b - a == pytest.approx(step) for a, b in pairwise(ticks))


def test_figures_for_people() -> None:
    texts = [figure_text(v, u) for v, u in [(0.5, "ratio"), (0.0123, "seconds"), (90, "seconds"), (9000, "seconds")]]  # type: ignore[arg-type]
    assert texts == ["50 %", "12.3 ms", "90 s", "2.5 h"]
    assert [figure_text(v, u) for v, u in [(2048, "bytes"), (3 * 2**30, "bytes_per_second"), (12, "bytes")]] == [  # type: ignore[arg-type]
        "2 KiB",
        "3 GiB/s",
        "12 B",
    ]
    assert [figure_text(v, u) for v, u in [(1234, "per_second"), (41, "count"), (7, "version"), (2e12, "flops")]] == [  # type: ignore[arg-type]
        "1.23k/s",
        "41",
        "7",
        "2TFLOP/s",
    ]
    assert clock(0.0, Span(0, 100)).count(":") == 2


def test_a_chart_draws_every_line_within_its_frame() -> None:
    lines = [Line(f"line <{i}>", tuple((float(t), float((i + 1) * t)) for t in range(5))) for i in range(12)]
    text = chart(PANEL, lines, Span(0.0, 4.0))
    assert text.count("<polyline") == 10
    assert "and 2 more" in text
    assert "line &lt;3&gt;" in text
    assert "<3>" not in text
    places = re.findall(r'points="([^"]*)"', text)
    xs, ys = zip(*[map(float, place.split(",")) for line in places for place in line.split()], strict=True)
    assert min(xs) >= 52
    assert max(xs) <= 480
    assert min(ys) >= 8
    assert max(ys) <= 170
    assert "no data" in chart(PANEL, [], ALL)


def test_axes_count_in_the_units_that_people_do() -> None:
    panel = Panel("T", "W.", (Target("a"),), unit="bytes")
    text = chart(panel, [Line("a", ((0.0, 0.0), (1.0, 3.7 * 2**20)))], Span(0.0, 1.0))
    assert [mark for mark in ("1 MiB", "2 MiB", "3 MiB", "4 MiB") if f">{mark}<" not in text] == []
    panel = Panel("T", "W.", (Target("a"),), unit="seconds")
    text = chart(panel, [Line("a", ((0.0, 0.0), (1.0, 230.0)))], Span(0.0, 1.0))
    assert [mark for mark in ("60 s", "2 min", "3 min", "4 min") if f">{mark}<" not in text] == []


def test_no_two_marks_of_an_axis_read_the_same() -> None:
    def marks(panel: Panel, low: float, high: float) -> list[str]:
        return re.findall(r'text-anchor="end">([^<]*)<', chart(panel, [Line("a", ((0.0, low), (1.0, high)))], ALL))

    near_one = marks(Panel("T", "W.", (Target("a"),), "number", low=None), 0.9985, 1.0095)
    assert len(set(near_one)) == len(near_one) >= 4
    assert marks(Panel("T", "W.", (Target("a"),), "version"), 0.0, 0.0) == ["0", "1"]
    assert marks(Panel("T", "W.", (Target("a"),), "version", low=None), 41.0, 42.0) == ["41", "42"]


def test_many_lines_at_zero_are_counted_and_not_drawn() -> None:
    zeros = [Line(f"zero {i}", ((0.0, 0.0), (1.0, 0.0))) for i in range(6)]
    other = Line("other", ((0.0, 0.0), (1.0, 2.0)))
    text = chart(PANEL, [*zeros, other], Span(0.0, 1.0))
    assert text.count("<polyline") == 1
    assert "other <b>2</b>" in text
    assert "6 more at zero" in text
    assert chart(PANEL, zeros, Span(0.0, 1.0)).count("<polyline") == 1
    assert chart(PANEL, [*zeros[:2], other], Span(0.0, 1.0)).count("<polyline") == 3


def test_stacked_lines_stand_on_each_other() -> None:
    panel = Panel("T", "W.", (Target("a"),), kind="stacked")
    lines = [Line("a", ((0.0, 1.0), (1.0, 1.0))), Line("b", ((0.0, 2.0), (1.0, 3.0)))]
    text = chart(panel, lines, Span(0.0, 1.0))
    assert text.count("<polygon") == 2
    first, second = (
        [float(p.split(",")[1]) for p in line.split()] for line in re.findall(r'polyline.*?points="([^"]*)"', text)
    )
    assert second[1] == pytest.approx(8.0)  # 1 + 3 is the top
    assert first[1] == pytest.approx(8.0 + 162 * 3 / 4)


def test_of_a_large_fleet_the_extremes_are_drawn_and_a_stack_keeps_its_height() -> None:
    values = [7.0] * 30 + [1.0] + [7.0] * 32 + [90.0]  # actor-30 lags behind, actor-63 is ahead
    lines = [Line(f"actor-{i}", ((0.0, value), (1.0, value))) for i, value in enumerate(values)]
    text = chart(PANEL, lines, Span(0.0, 1.0))
    assert text.count("<polyline") == 10
    assert "actor-30 <b>1</b>" in text
    assert "actor-63 <b>90</b>" in text
    assert "and 54 more" in text
    text = chart(Panel("T", "W.", (Target("a"),), kind="stacked"), lines, Span(0.0, 1.0))
    assert text.count("<polyline") == 10
    assert "55 others <b>379</b>" in text
    assert "more" not in text
    top = min(float(p.split(",")[1]) for line in re.findall(r'points="([^"]*)"', text) for p in line.split())
    assert top == pytest.approx(8 + 162 * (1 - sum(values) / 600), abs=0.1)  # the axis ends at 600


def test_one_point_and_no_change_can_be_drawn() -> None:
    assert "<circle" in chart(PANEL, [Line("a", ((1.0, 5.0),))], Span(0.0, 2.0))
    assert "<polyline" in chart(PANEL, [Line("a", ((1.0, 0.0), (2.0, 0.0)))], Span(0.0, 2.0))
    assert sparkline([Line("a", ((1.0, 5.0),))], ALL) == ""
    assert "<polyline" in sparkline([Line("a", ((1.0, 5.0), (2.0, 5.0)))], Span(0.0, 2.0))


def test_levels() -> None:
    panel = Panel("T", "W.", (Target("a"),), thresholds=(Threshold(1, "warning"), Threshold(10, "bad")))
    assert [level(panel, v) for v in (0, 1, 10)] == ["good", "warning", "bad"]
    assert level(PANEL, 3) == ""

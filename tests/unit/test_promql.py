"""PromQL as our panels use it: the grammar, and values worked by hand (tests/integration asks Prometheus itself)."""

from __future__ import annotations

import math

import pytest

from launcher.panels import BOARDS
from launcher.promql.evaluate import Samples, Unsupported, evaluate
from launcher.promql.syntax import Aggregation, Binary, Call, Matcher, Number, Selector, parse, selector_text, selectors


def samples(**series: list[tuple[float, float]]) -> Samples:
    """Samples of metrics without labels."""
    made = Samples(keep_s=1000.0)
    for name, points in series.items():
        for time_s, value in points:
            made.add(name, {}, time_s, value)
    return made


def labelled(
    name: str, *points: tuple[dict[str, str], float], into: Samples | None = None, at: float = 100.0
) -> Samples:
    made = into or Samples()
    for labels, value in points:
        made.add(name, labels, at, value)
    return made


def value(text: str, data: Samples, now: float = 100.0) -> object:
    found = evaluate(parse(text), data, now)
    if isinstance(found, dict) and set(found) <= {()}:
        return found.get(())
    return (
        {", ".join(v for _, v in labels): number for labels, number in found.items()}
        if isinstance(found, dict)
        else found
    )


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_panel_is_within_the_grammar(board) -> None:  # type: ignore[no-untyped-def]
    for panel in board.panels:
        for target in panel.targets:
            assert list(selectors(parse(target.expr.replace("$__rate_interval", "1m"))))


def test_the_tree() -> None:
    assert parse('a{b="c", d!~"e|f"}[1m30s]') == Selector(
        "a", (Matcher("b", "=", "c"), Matcher("d", "!~", "e|f")), 90.0
    )
    assert parse("sum by (x) (a) / b") == Binary("/", Aggregation("sum", Selector("a"), "by", ("x",)), Selector("b"))
    assert parse("sum(a) by (x)") == parse("sum by (x) (a)")
    assert parse("a offset 5m") == Selector("a", offset_s=300.0)
    assert parse("-2 + 3 * 4 == bool 10") == Binary(
        "==", Binary("+", Number(-2.0), Binary("*", Number(3.0), Number(4.0))), Number(10.0), returns_bool=True
    )
    assert parse("a or vector(0)") == Binary("or", Selector("a"), Call("vector", (Number(0.0),)))
    assert parse("a - b - c") == Binary("-", Binary("-", Selector("a"), Selector("b")), Selector("c"))


@pytest.mark.parametrize("text", ["", "sum(", "a{b=c}", "a{b~'c'}", "a b", "rate(a[1x])", "{}", "sum(a, b)", "a[", "#"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(SyntaxError):
        parse(text)


def test_a_selector_as_text_is_read_back() -> None:
    selector = Selector("a", (Matcher("b", "=~", 'x"\\d+'),))
    assert parse(selector_text(selector)) == selector


def test_the_newest_sample_counts_until_the_series_ends() -> None:
    data = samples(a=[(90.0, 1.0), (99.0, 2.0)])
    assert value("a", data) == 2.0
    assert value("a offset 5s", data) == 1.0
    data.add("a", {}, 99.5, math.nan)
    assert value("a", data) is None
    assert value("a", samples(a=[(90.0, 1.0)]), now=391.0) is None


def test_matchers() -> None:
    data = labelled("a", ({"x": "one"}, 1.0), ({"x": "two"}, 2.0), ({}, 3.0))
    assert value('sum(a{x="one"})', data) == 1.0
    assert value('sum(a{x!="one"})', data) == 5.0
    assert value('sum(a{x=~"o.*|two"})', data) == 3.0
    assert value('sum(a{x=~"o"})', data) is None  # anchored at both ends
    assert value('sum(a{x=~".*"})', data) == 6.0  # a label that is not there is empty
    assert value('sum({__name__=~"a|b"})', data) == 6.0


def test_rate_reaches_to_the_windows_ends_and_survives_a_reset() -> None:
    steady = samples(a=[(t, t) for t in range(30, 101, 10)])
    assert value("rate(a[60s])", steady) == pytest.approx(1.0)
    # Samples at 60, 80, 100: the window starts at 40, a whole gap before: 40 + 20 of growth for the 60 s.
    assert value("increase(a[60s])", samples(a=[(60, 5000), (80, 5020), (100, 5040)])) == pytest.approx(60.0)
    # More than 1.1 gaps before the first sample: half a gap is added.
    assert value("increase(a[90s])", samples(a=[(60, 5000), (80, 5020), (100, 5040)])) == pytest.approx(50.0)
    # A counter that began at 2 cannot have grown by more than 2 before.
    assert value("increase(a[60s])", samples(a=[(60, 2), (80, 22), (100, 42)])) == pytest.approx(42.0)
    reset = samples(a=[(60, 100), (70, 110), (80, 5), (90, 15), (100, 25)])
    assert value("rate(a[40s])", reset) == pytest.approx((10 + 5 + 10 + 10) / 40)
    assert value("rate(a[40s])", samples(a=[(100, 1)])) is None


def test_over_time() -> None:
    data = samples(a=[(60, 3), (70, 1), (80, 1), (90, 7)])
    assert value("max_over_time(a[50s])", data) == 7
    assert value("avg_over_time(a[50s])", data) == 3
    assert value("changes(a[50s])", data) == 2
    assert value("delta(a[30s])", samples(a=[(70, 5), (85, 4), (100, 2)])) == pytest.approx(-3.0)


def test_quantiles_are_linear_within_a_bucket() -> None:
    data = labelled("h", ({"le": "1"}, 10), ({"le": "2"}, 30), ({"le": "4"}, 40), ({"le": "+Inf"}, 40))
    assert value("histogram_quantile(0.5, h)", data) == pytest.approx(1.5)
    assert value("histogram_quantile(0.125, h)", data) == pytest.approx(0.5)
    assert value("histogram_quantile(1, h)", data) == pytest.approx(4.0)
    above = labelled("h", ({"le": "1"}, 10), ({"le": "+Inf"}, 40))
    assert value("histogram_quantile(0.99, h)", above) == 1.0
    empty = labelled("h", ({"le": "1"}, 0), ({"le": "+Inf"}, 0))
    assert math.isnan(value("histogram_quantile(0.5, h)", empty))  # type: ignore[arg-type]


def test_aggregation_and_matching() -> None:
    data = labelled("a", ({"x": "1", "y": "1"}, 1), ({"x": "1", "y": "2"}, 3), ({"x": "2", "y": "1"}, 5))
    labelled("b", ({"x": "1"}, 2), ({"x": "3"}, 9), into=data)
    assert value("sum by (x) (a)", data) == {"1": 4, "2": 5}
    assert value("max without (x) (a)", data) == {"1": 5, "2": 3}
    assert value("count(a)", data) == 3
    assert value("avg(a)", data) == 3
    assert value("sum by (x) (a) / b", data) == {"1": 2}
    assert value("sum by (x, y) (a) / ignoring(y) group_left sum by (x) (a)", data) == {
        "1, 1": 0.25,
        "1, 2": 0.75,
        "2, 1": 1,
    }
    assert value("a > 2", data) == {"1, 2": 3, "2, 1": 5}
    assert value("2 < bool b", data) == {"1": 0, "3": 1}
    assert value("b unless sum by (x) (a)", data) == {"3": 9}
    assert value("b and on(x) a", data) == {"1": 2}
    assert value("sum(missing) or vector(0)", data) == 0
    assert value("clamp_min(b, 3)", data) == {"1": 3, "3": 9}
    assert value("sum(a) / 0", data) == math.inf
    assert value("time() - 1", data) == 99


@pytest.mark.parametrize("text", ["a[1m]", "label_join(a)", "rate(a)", "time() and a", "a / ignoring(x) group_right a"])
def test_what_it_does_not_know_it_says(text: str) -> None:
    with pytest.raises(Unsupported):
        evaluate(parse(text), samples(a=[(99, 1)]), 100.0)


def test_what_no_window_reaches_is_forgotten() -> None:
    data = Samples(keep_s=50.0)
    data.add("a", {"instance": "gone"}, 10.0, 1.0)
    data.add("a", {"instance": "here"}, 60.0, 1.0)
    data.forget_before(100.0)
    assert [dict(labels)["instance"] for labels, _ in data.find(Selector("a"))] == ["here"]

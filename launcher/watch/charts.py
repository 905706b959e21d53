"""Owns how lines become pictures: SVG that stands in the page, without a library, in colours that the page defines."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence

from launcher.panels.model import Panel, Unit
from launcher.watch.source import Line, Span, thinned

MAX_LINES = 10
_FEW = 4
NUM_COLOURS = 8
_HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 190, 52, 20, 8, 8
_WIDTH_OF_COLUMN = 60  # so that letters have one size in narrow and in wide panels
_MAX_POINTS = 240
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def figure_text(value: float, unit: Unit, digits: int = 3) -> str:
    """A value for people, with its unit."""
    if unit == "ratio":
        return f"{value * 100:.{digits}g} %"
    if unit == "seconds":
        return _duration(value, digits)
    if unit in ("bytes", "bytes_per_second"):
        return _scaled(value, _BINARY, "B", digits) + ("/s" if unit == "bytes_per_second" else "")
    if unit == "version":
        return f"{value:.0f}"
    return _scaled(value, _SUFFIXES, "", digits) + {"per_second": "/s", "flops": "FLOP/s"}.get(unit, "")


def chart(panel: Panel, lines: Sequence[Line], span: Span) -> str:
    """The panel's chart; a word instead when there are no data."""
    chosen = _worth_showing(lines)
    shown = [Line(line.name, thinned(line.points, _MAX_POINTS)) for line in _telling(chosen, panel.kind == "stacked")]
    if not shown:
        return '<p class="empty">no data</p>'
    layers = _stacked(shown) if panel.kind == "stacked" else [[(t, v, 0.0) for t, v in line.points] for line in shown]
    low, high = _limits(panel, [y for layer in layers for _, y, _ in layer])
    size, width = _unit_size(panel.unit, high), _WIDTH_OF_COLUMN * panel.width
    ticks = [tick * size for tick in nice_ticks(low / size, high / size)]
    if panel.unit == "version":  # there is no half of one
        ticks = [tick for tick in ticks if tick == round(tick)] or [float(math.floor(low)), float(math.ceil(high))]
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x(t: float) -> float:
        return _LEFT + (t - span.start) / max(span.end - span.start, 1e-9) * (width - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" data-x="{_LEFT},{width - _RIGHT}" '
        f'data-t="{span.start:.3f},{span.end:.3f}" data-y="{_TOP},{_HEIGHT - _BOTTOM}" data-v="{low!r},{high!r}" '
        f'data-unit="{panel.unit}"><title>{html.escape(panel.title)}</title>'
    ]
    for tick, text in zip(ticks, _tick_texts(ticks, panel.unit), strict=True):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="axis" x="{_LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">'
            f"{html.escape(text)}</text>"
        )
    parts += [
        f'<text class="axis" x="{x(t):.1f}" y="{_HEIGHT - 5}" text-anchor="middle">{clock(t, span)}</text>'
        for t in time_ticks(span, panel.width // 2)
    ]
    for limit in panel.thresholds:
        if low < limit.value < high:
            parts.append(
                f'<line class="limit {limit.level}" x1="{_LEFT}" x2="{width - _RIGHT}" '
                f'y1="{y(limit.value):.1f}" y2="{y(limit.value):.1f}"/>'
            )
    for index, layer in enumerate(layers):
        places = [(x(t), y(v), y(base)) for t, v, base in layer]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in places)
        if panel.kind == "stacked":
            below = " ".join(f"{px:.1f},{pb:.1f}" for px, _, pb in reversed(places))
            parts.append(f'<polygon class="area c{index % NUM_COLOURS}" points="{path} {below}"/>')
        if len(places) == 1:
            parts.append(
                f'<circle class="c{index % NUM_COLOURS}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2"/>'
            )
        name = html.escape(shown[index].name)
        parts.append(f'<polyline class="line c{index % NUM_COLOURS}" data-name="{name}" points="{path}"/>')
    parts.append('<line class="cursor" y1="8" y2="170"/></svg>')
    more = 0 if panel.kind == "stacked" else len(chosen) - len(shown)
    return "".join(parts) + _legend(panel, shown, more=more, at_zero=len(lines) - len(chosen))


def sparkline(lines: Sequence[Line], span: Span) -> str:
    """A small curve under a figure, without axes; empty when there is no course to show."""
    points = thinned(lines[0].points, 80) if lines else ()
    if len(points) < 2:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    width = max(span.end - span.start, 1e-9)
    path = " ".join(
        f"{(t - span.start) / width * 200:.1f},{36 - (v - low) / ((high - low) or 1) * 30:.1f}" for t, v in points
    )
    curve = f'<polyline class="line c0" points="{path}"/>'
    return f'<svg class="spark" viewBox="0 0 200 40" preserveAspectRatio="none">{curve}</svg>'


def level(panel: Panel, value: float) -> str:
    """`good`, `warning`, `bad`, or nothing where the panel has no thresholds."""
    found = "good" if panel.thresholds else ""
    for limit in panel.thresholds:
        if value >= limit.value:
            found = limit.level
    return found


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them; `low` < `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick_texts(ticks: Sequence[float], unit: Unit) -> list[str]:
    """With as many digits as tell them apart."""
    texts: list[str] = []
    for digits in range(3, 8):
        texts = [figure_text(tick, unit, digits) for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return texts


def time_ticks(span: Span, count: int = 4) -> list[float]:
    """Moments for the time axis, within the span."""
    width = span.end - span.start
    return [span.start + width * (i + 0.5) / count for i in range(count)]


def clock(t: float, span: Span) -> str:
    """Local time of day; with the day where the span is longer than one, with seconds where it is short."""
    width = span.end - span.start
    return time.strftime("%d %H:%M" if width > 86400 else "%H:%M" if width > 900 else "%H:%M:%S", time.localtime(t))


def _unit_size(unit: Unit, high: float) -> float:
    """In what the axis counts: minutes and hours for long times, powers of 1,024 for bytes."""
    if unit == "seconds":
        return 3600.0 if high >= 7200 else 60.0 if high >= 120 else 1.0
    if unit in ("bytes", "bytes_per_second"):
        return next((size for size, _ in _BINARY if high >= size), 1.0)
    return 1.0


def _limits(panel: Panel, values: list[float]) -> tuple[float, float]:
    """The axis's ends: what the panel says, stretched to the data, never empty."""
    low, high = min(values), max(values)
    if panel.low is not None:
        low = min(panel.low, low)
    if panel.high is not None:
        high = max(panel.high, high)
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = (low if panel.low is not None and low == panel.low else low - margin), high + margin
    return low, high


def _stacked(lines: Sequence[Line]) -> list[list[tuple[float, float, float]]]:
    """(time, top, bottom) of each layer. A line without a point at a time keeps its last value, until its own end."""
    times = sorted({t for line in lines for t, _ in line.points})
    base = dict.fromkeys(times, 0.0)
    layers = []
    for line in lines:
        values, layer, last = dict(line.points), [], 0.0
        for t in times:
            last = values.get(t, last if line.points[0][0] <= t <= line.points[-1][0] else 0.0)
            layer.append((t, base[t] + last, base[t]))
            base[t] += last
        layers.append(layer)
    return layers


def _worth_showing(lines: Sequence[Line]) -> Sequence[Line]:
    """Of many lines those that are not zero all the time; of few, all. At least one."""
    if len(lines) <= _FEW:
        return lines
    return [line for line in lines if any(v for _, v in line.points)] or lines[:1]


def _telling(lines: Sequence[Line], stacked: bool) -> Sequence[Line]:
    """At most MAX_LINES, in their order. Of a stack the largest, and the others as one layer, so that its height stays
    their sum; else the largest and the smallest, since whoever lags behind is what one looks for."""
    if len(lines) <= MAX_LINES:
        return lines
    ranked = sorted(range(len(lines)), key=lambda i: -lines[i].points[-1][1])
    kept = ranked[: MAX_LINES - 1] if stacked else ranked[: MAX_LINES // 2] + ranked[-(MAX_LINES // 2) :]
    chosen = [lines[i] for i in sorted(kept)]
    if not stacked:
        return chosen
    others = [lines[i] for i in ranked[MAX_LINES - 1 :]]
    return [*chosen, Line(f"{len(others)} others", tuple((t, top) for t, top, _ in _stacked(others)[-1]))]


def _legend(panel: Panel, shown: Sequence[Line], *, more: int, at_zero: int) -> str:
    items = "".join(
        f'<li><i class="c{index % NUM_COLOURS}"></i>{html.escape(line.name)} '
        f"<b>{html.escape(figure_text(line.points[-1][1], panel.unit))}</b></li>"
        for index, line in enumerate(shown)
    )
    items += f"<li>and {more} more</li>" if more else ""
    items += f"<li>{at_zero} more at zero</li>" if at_zero else ""
    return f'<ul class="legend">{items}</ul>'


def _scaled(value: float, steps: Sequence[tuple[float, str]], unit: str, digits: int) -> str:
    for size, suffix in steps:
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {suffix}".replace(" ", "" if not unit else " ")
    text = f"{value:.0f}" if value == round(value) and abs(value) < 1e4 else f"{value:.{digits}g}"
    return f"{text} {unit}" if unit else text


def _duration(seconds: float, digits: int) -> str:
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 0.1:
        return f"{seconds * 1e3:.{digits}g} ms" if abs(seconds) >= 1e-4 else f"{seconds * 1e6:.{digits}g} µs"
    if abs(seconds) < 120:
        return f"{seconds:.{digits}g} s"
    return f"{seconds / 60:.{digits}g} min" if abs(seconds) < 7200 else f"{seconds / 3600:.{digits}g} h"

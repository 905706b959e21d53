"""Owns the page of `zeroq watch --html`: HTML, style and the script that asks for the changing part again and again.

Nothing comes from elsewhere (no library, font or picture), and everything that stands in the page is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from launcher.panels.model import Board, Panel, Row
from launcher.watch.charts import chart, clock, figure_text, level, sparkline
from launcher.watch.source import Line, Span
from launcher.watch.watcher import Headline, Watcher

REFRESH_MS = 2000
READING_MS = 10_000
_OLD_S = 30.0
_END = {"finished": "ended", "interrupted": "stopped", "failed": '<b class="bad">failed</b>'}
_END |= {"killed": '<b class="bad">killed</b>'}
_LOST = "zeroq watch does not answer any more: these figures are old."
RANGES: dict[str, float | None] = {"5": 5.0, "15": 15.0, "60": 60.0, "360": 360.0, "all": None}
_RANGE_WORDS = {"5": "5 min", "15": "15 min", "60": "1 h", "360": "6 h", "all": "whole run"}

STYLE = """
:root { color-scheme: light dark; --ground: #f4f5f7; --card: #fff; --text: #1d2330; --dim: #667085; --line: #dfe3ea;
  --good: #12805c; --warning: #b25e02; --bad: #c22f2f;
  --c0: #2f6fed; --c1: #e0752d; --c2: #1a9c77; --c3: #b5418f; --c4: #8a7a12; --c5: #3aa3c9; --c6: #7a5bd6; --c7: #777; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171d; --card: #1c2028; --text: #e4e7ee; --dim: #98a2b3;
  --line: #2e3440; --good: #3ccf91; --warning: #f0a04b; --bad: #ff6b6b;
  --c0: #6ea0ff; --c1: #ff9e5c; --c2: #4fd1a5; --c3: #e07cc0; --c4: #d6c34a;
  --c5: #7fd3ef; --c6: #b29bff; --c7: #aaa; } }
body { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; background: var(--ground); color: var(--text); margin: 0; }
header { position: sticky; top: 0; z-index: 1; background: var(--card); border-bottom: 1px solid var(--line);
  padding: .7rem 1.2rem .1rem; }
h1 { font-size: 1.1rem; margin: 0; display: inline-block; } .state { color: var(--dim); margin-left: .8rem; }
.state b { color: var(--text); } .state b.bad { color: var(--bad); }
.live { color: var(--good); } .dot { animation: beat 2s infinite; }
@keyframes beat { 50% { opacity: .25; } }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin-top: .5rem; } nav span { flex: 1; }
nav a { color: var(--dim); text-decoration: none; padding: .3rem 0; border-bottom: 2px solid transparent; }
nav a.now { color: var(--text); border-color: var(--c0); }
main { padding: .4rem 1.2rem 2rem; max-width: 110rem; margin: 0 auto; }
h2 { font-size: .95rem; margin: 1.1rem 0 .5rem; } .warning-text { color: var(--warning); margin: .5rem 0 0; }
.grid { display: grid; grid-template-columns: repeat(24, 1fr); gap: .7rem; margin-bottom: .7rem; }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem;
  min-width: 0; }
.panel h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .3rem; } .panel svg { width: 100%; display: block; }
.figure { font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2; }
.spark { height: 34px; } .empty, .missing { color: var(--dim); } .missing { font-size: .85rem; margin: .5rem 0 0; }
.good { color: var(--good); } .warning { color: var(--warning); } .bad { color: var(--bad); }
.old { color: var(--dim); } .old small { display: block; font-size: .75rem; font-weight: 400; }
.axis { fill: var(--dim); font-size: 10px; } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
svg .area { opacity: .35; stroke: none; } .limit { stroke: currentColor; stroke-dasharray: 4 4; stroke-width: 1; }
.cursor { stroke: var(--dim); visibility: hidden; }
.legend { list-style: none; margin: .2rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem;
  font-size: .8rem; }
.legend i { display: inline-block; width: .7rem; height: .25rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: middle; }
.legend b { font-weight: 600; font-variant-numeric: tabular-nums; }
#tip { position: fixed; z-index: 2; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .3rem .6rem; font-size: .8rem; pointer-events: none; box-shadow: 0 2px 8px #0003;
  white-space: pre; display: none; }
#lost { display: none; margin: 0; padding: .5rem 1.2rem; background: var(--bad); color: #fff; font-weight: 600; }
.lost #lost { display: block; } .lost .live { visibility: hidden; }
@media (max-width: 1000px) { .panel { grid-column: span 24 !important; } .w4, .w6 { grid-column: span 8 !important; } }
""" + "".join(
    f"svg .line.c{i} {{ stroke: var(--c{i}); }} svg .area.c{i}, svg circle.c{i} {{ fill: var(--c{i}); }} "
    f"i.c{i} {{ background: var(--c{i}); }}\n"
    for i in range(8)
)
STYLE += "".join(f".w{width} {{ grid-column: span {width}; }}\n" for width in (4, 6, 8, 12, 24))

SCRIPT = (
    (
        """
const body = document.getElementById('body'), tip = document.getElementById('tip');
const pair = (svg, name) => svg.dataset[name].split(',').map(Number);
let over = false, moved = 0;
// Figures stand still under a moving pointer, and under none that was left lying.
const reading = () => over && Date.now() - moved < READING;
async function again() {
  try {
    if (!document.hidden && !reading()) {
      const answer = await fetch('/body' + location.pathname, {cache: 'no-store'});
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      if (!reading()) { body.innerHTML = text; tip.style.display = 'none'; }
    }
    document.body.classList.remove('lost');
  } catch { document.body.classList.add('lost'); }
  setTimeout(again, REFRESH);
}
function shown(value, unit) {
  if (unit === 'ratio') return (value * 100).toPrecision(3) + ' %';
  const size = Math.abs(value), far = size >= 1e5 || (size && size < 1e-3);
  const text = far ? value.toExponential(2) : String(+value.toPrecision(4));
  return text + ({seconds: ' s', bytes: ' B', bytes_per_second: ' B/s', per_second: ' /s'}[unit] || '');
}
body.addEventListener('mousemove', event => {
  const svg = event.target.closest('svg[data-t]');
  over = !!svg;
  moved = Date.now();
  tip.style.display = svg ? 'block' : 'none';
  for (const line of body.querySelectorAll('.cursor')) line.style.visibility = 'hidden';
  if (!svg) return;
  const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
  const [x0, x1] = pair(svg, 'x'), [t0, t1] = pair(svg, 't'), [y0, y1] = pair(svg, 'y'), [low, high] = pair(svg, 'v');
  const x = Math.min(x1, Math.max(x0, (event.clientX - box.left) * scale)), rows = [];
  let below = 0;
  for (const line of svg.querySelectorAll('polyline[data-name]')) {
    let best = null;
    for (const point of line.points) if (!best || Math.abs(point.x - x) < Math.abs(best.x - x)) best = point;
    if (!best) continue;
    const top = high - (best.y - y0) / (y1 - y0) * (high - low), stacked = svg.querySelector('.area');
    rows.push(line.dataset.name + '  ' + shown(stacked ? top - below : top, svg.dataset.unit));
    below = top;
  }
  const moment = new Date((t0 + (x - x0) / (x1 - x0) * (t1 - t0)) * 1000);
  tip.textContent = moment.toLocaleTimeString() + '\\n' + rows.join('\\n');
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
  const cursor = svg.querySelector('.cursor');
  cursor.setAttribute('x1', x); cursor.setAttribute('x2', x); cursor.style.visibility = 'visible';
});
body.addEventListener('mouseleave', () => { over = false; tip.style.display = 'none'; });
setTimeout(again, REFRESH);
"""
    )
    .replace("REFRESH", str(REFRESH_MS))
    .replace("READING", str(READING_MS))
)


def render(watcher: Watcher, board: Board, chosen_range: str) -> str:
    """The whole page."""
    name = html.escape(watcher.headline().run)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}: {html.escape(board.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<body><p id="lost">{_LOST}</p><div id="body">{render_body(watcher, board, chosen_range)}</div>'
        f'<div id="tip"></div>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def render_body(watcher: Watcher, board: Board, chosen_range: str) -> str:
    """What changes: headline, tabs, panels."""
    span = watcher.span(RANGES[chosen_range])
    rows = "".join(_row(watcher, row, span) for row in board.rows)
    tabs = "".join(
        _link(item.title, f"/{item.name}/{chosen_range}", item.name == board.name) for item in watcher.boards
    )
    ranges = "".join(_link(word, f"/{board.name}/{key}", key == chosen_range) for key, word in _RANGE_WORDS.items())
    return f"<header>{_headline(watcher.headline())}<nav>{tabs}<span></span>{ranges}</nav></header><main>{rows}</main>"


def _headline(headline: Headline) -> str:
    state = '<span class="live"><span class="dot">●</span> live</span>' if headline.running else _END[headline.end]
    parts = [f"<b>{html.escape(headline.phase)}</b>", html.escape(headline.note), f"figures from {headline.source}"]
    words = " · ".join(part for part in parts if part)
    warnings = "".join(f'<p class="warning-text">{html.escape(text)}</p>' for text in headline.warnings)
    return f'<h1>{html.escape(headline.run)}</h1><span class="state">{state} · {words}</span>{warnings}'


def _link(text: str, address: str, now: bool) -> str:
    return f'<a href="{address}"{" class=now" if now else ""}>{html.escape(text)}</a>'


def _row(watcher: Watcher, row: Row, span: Span) -> str:
    """The row's panels; those without data are named in a line below."""
    figures: list[str] = []
    charts: list[str] = []
    missing: list[str] = []
    for panel in row.panels:
        lines = watcher.lines(panel, span)
        if lines:
            (figures if panel.kind == "stat" else charts).append(_panel(panel, lines, span))
        else:
            missing.append(panel.title)
    grids = "".join(f'<div class="grid">{"".join(panels)}</div>' for panels in (figures, charts) if panels)
    note = f'<p class="missing">no data: {html.escape(", ".join(missing))}</p>' if missing else ""
    return f"<h2>{html.escape(row.title)}</h2>{grids}{note}"


def _panel(panel: Panel, lines: Sequence[Line], span: Span) -> str:
    if panel.kind == "stat":
        moment, value = lines[0].points[-1]
        old = panel.of_the_moment and span.end - moment > max(_OLD_S, (span.end - span.start) / 60)
        kind, note = level(panel, value), ""
        if old:  # `0 % starved` in green of a learner that died
            kind, note = "old", f" <small>at {clock(moment, span)}, no data since</small>"
        content = (
            f'<div class="figure {kind}">{html.escape(figure_text(value, panel.unit))}{note}</div>'
            f"{sparkline(lines, span)}"
        )
    else:
        content = chart(panel, lines, span)
    return (
        f'<section class="panel w{panel.width}" title="{html.escape(panel.description)}">'
        f"<h3>{html.escape(panel.title)}</h3>{content}</section>"
    )

"""Owns how our HTML pages look: one self-contained file with tables, figures and text blocks, readable anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; display: inline-block; max-width: 34rem; }
img { max-width: 100%; } figcaption { color: #555; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .5rem 0; } summary { cursor: pointer; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file; `parts` are HTML already."""
    name = html.escape(title)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
    return head + f"<h1>{name}</h1>" + "\n".join(part for part in parts if part) + "</html>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers are written with at most four significant digits and aligned to the right, None is a dash."""
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in head)]
    lines += ["".join(_cell(value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def figure(caption: str, png: bytes) -> str:
    """A picture inside the file."""
    text = html.escape(caption)
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def text_block(text: str) -> str:
    """Text as it is."""
    return f"<pre>{html.escape(text)}</pre>"


def folded(title: str, content: str) -> str:
    """`content` (HTML) behind its title."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def shown(value: object) -> str:
    """A value for people: four significant digits, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"


def _cell(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{html.escape(shown(value))}</td>"

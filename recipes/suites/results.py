"""Owns tables of results: rows with free columns, to Markdown, HTML and JSON. `zeroq eval` and `zeroq pipeline` use it.

A row maps column titles to values; columns come in the order in which rows first name them. Values:

    text, int     as they are (integers with thousands separators)
    float         four significant digits, never in scientific notation
    Measured      value ± standard error, to four decimals
    None          an en dash: it does not apply, or there is nothing to tell
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = Mapping[str, Any]
_MISSING = "–"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding: 0.4rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: 0.3rem 0.8rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
td.text, th.text { text-align: left; }
p.note { color: #555; margin: 0.2rem 0; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } p.note { color: #aaa; } }
"""


@dataclass(frozen=True)
class Measured:
    """A value with its standard error (None: unknown)."""

    value: float
    error: float | None = None


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns, in the order in which rows first name them; those without a single value are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def cell(value: object) -> str:
    """One value as text."""
    match value:
        case None:
            return _MISSING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return _decimal(value)
        case Measured(value=number, error=None):
            return f"{number:.4f}"
        case Measured(value=number, error=error):
            return f"{number:.4f} ± {error:.4f}"
        case _:
            return str(value)


def to_markdown(rows: Sequence[Row], *, title: str = "", notes: Sequence[str] = ()) -> str:
    """A table in GitHub's Markdown, the title above and a line for each note below. Numbers are right-aligned."""
    columns = columns_of(rows)
    lines = [f"## {title}", ""] if title else []
    lines.append(_line(_escaped(name) for name in columns))
    lines.append(_line("---" if _is_text(rows, name) else "---:" for name in columns))
    lines += [_line(_escaped(cell(row.get(name))) for name in columns) for row in rows]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def to_html(rows: Sequence[Row], *, title: str, notes: Sequence[str] = ()) -> str:
    """A page of its own with the table: no script, nothing loaded from elsewhere."""
    page = html_table(rows, caption=title) + "".join(
        f'<p class="note">{html.escape(note, quote=False)}</p>\n' for note in notes
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title, quote=False)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{page}</body></html>\n'


def html_table(rows: Sequence[Row], *, caption: str = "") -> str:
    """The table element alone, for a page that has more to show."""
    columns = columns_of(rows)
    texts = {name: ' class="text"' if _is_text(rows, name) else "" for name in columns}
    head = "".join(f"<th{texts[name]}>{html.escape(name, quote=False)}</th>" for name in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{texts[name]}>{html.escape(cell(row.get(name)), quote=False)}</td>" for name in columns)
        + "</tr>\n"
        for row in rows
    )
    title = f"<caption>{html.escape(caption, quote=False)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"


def to_json(rows: Sequence[Row], **more: Any) -> str:
    """`{"rows": [...], ...}`; a Measured becomes {"value", "error"}, a float that is none of JSON's becomes null."""
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return json.dumps({"rows": plain, **more}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, Measured):
        return asdict(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _decimal(value: float) -> str:
    if not math.isfinite(value):
        return _MISSING if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def _is_text(rows: Sequence[Row], name: str) -> bool:
    return any(isinstance(row.get(name), str) for row in rows)


def _escaped(text: str) -> str:
    """A cell cannot hold a bar or a line's end."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"

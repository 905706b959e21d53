"""Tables with free columns: Markdown, HTML, JSON."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

from recipes.suites.results import Measured, cell, columns_of, html_table, to_html, to_json, to_markdown

ROWS = [
    {"stage": "r1_zero", "pass@1": Measured(0.5, 0.01), "length": 1234.5, "n": 2000, "never": None},
    {"stage": "a|b <i>", "pass@1": Measured(0.25), "cons@16": 0.75, "n": 10},
]


def test_cells() -> None:
    values = [None, 3, 12_345, 0.5, 1234.5, 0.00012345, 0.0, math.nan, Measured(0.5, 0.01), Measured(0.5), True, "x"]
    assert [cell(value) for value in values] == [
        *("–", "3", "12,345", "0.5000", "1,234", "0.000123", "0", "–", "0.5000 ± 0.0100", "0.5000", "yes", "x")
    ]


def test_columns_come_in_first_seen_order_and_empty_ones_not_at_all() -> None:
    assert columns_of(ROWS) == ["stage", "pass@1", "length", "n", "cons@16"]


def test_markdown() -> None:
    assert to_markdown(ROWS, title="Results", notes=["T 0.6"]) == (
        "## Results\n\n"
        "| stage | pass@1 | length | n | cons@16 |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| r1_zero | 0.5000 ± 0.0100 | 1,234 | 2,000 | – |\n"
        "| a\\|b <i> | 0.2500 | – | 10 | 0.7500 |\n"
        "\n- T 0.6\n"
    )


def test_html_is_escaped_and_self_contained() -> None:
    page = to_html(ROWS, title="A & B", notes=["x < y"])
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    names = [tag for tag, _ in tags]
    assert names.count("tr") == 3
    assert names.count("td") == 10
    assert not {"script", "img", "link", "i"} & set(names)
    assert not any("src" in attrs or "href" in attrs for _, attrs in tags)
    assert "a|b &lt;i&gt;" in page
    assert "A &amp; B" in page
    assert "x &lt; y" in page
    assert html_table(ROWS).startswith("<table><thead>")


def test_json() -> None:
    found = json.loads(to_json([*ROWS, {"stage": "bad", "length": math.nan}], seed=3))
    assert found["rows"][0]["pass@1"] == {"value": 0.5, "error": 0.01}
    assert found["rows"][2]["length"] is None
    assert found["seed"] == 3

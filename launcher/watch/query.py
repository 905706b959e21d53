"""Owns figures from Prometheus's HTTP interface: one that scrapes the run, or one over what it left behind."""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from launcher.panels.model import Target
from launcher.watch.source import MIN_RATE_WINDOW_S, Line, Span, legend

MAX_POINTS = 240
_TIMEOUT_S = 10.0


class QueryFailed(Exception):
    """Prometheus does not answer, or refuses an expression (its own words)."""


class PrometheusSource:
    """Asks the Prometheus at `url`."""

    def __init__(self, url: str, *, name: str = "Prometheus") -> None:
        self.url, self.name = url.rstrip("/"), name

    def close(self) -> None:
        """Nothing to do: each question is a connection of its own."""

    def lines(self, target: Target, span: Span) -> list[Line]:
        """Series of the expression over `span`; none when Prometheus does not answer."""
        step = max(1.0, (span.end - span.start) / MAX_POINTS)
        window = f"{max(MIN_RATE_WINDOW_S, 2 * step):.0f}s"
        query = {
            "query": target.expr.replace("$__rate_interval", window),
            "start": f"{span.start:.3f}",
            "end": f"{span.end:.3f}",
            "step": f"{step:.3f}",
        }
        try:
            answer = self.ask("query_range", query)
        except QueryFailed:
            return []
        found = []
        for series in answer["result"]:
            points = tuple((float(t), float(v)) for t, v in series["values"] if math.isfinite(float(v)))
            if points:
                found.append(Line(legend(target.legend, series["metric"]), points))
        return found

    def ask(self, path: str, query: dict[str, str]) -> Any:
        """`data` of /api/v1/PATH; QueryFailed with Prometheus's reason."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryFailed(error.read().decode("utf-8", errors="replace")[:500]) from None
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            raise QueryFailed(f"{self.url}: {error}") from None

    def ready(self) -> bool:
        """Whether it answers questions."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2.0):
                return True
        except (OSError, http.client.HTTPException):
            return False

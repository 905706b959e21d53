"""Owns figures without Prometheus: scrapes the run's exporters, evaluates every panel's expression at each scrape.

Like recording rules: an expression is evaluated once, at the time of its samples, and the result is kept. Asking
for an hour costs no more than asking for a minute. What was before the page was opened is not known here.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from common.lifecycle import RunPaths
from launcher.panels.model import Target
from launcher.promql.evaluate import Samples, Unsupported, evaluate
from launcher.promql.syntax import Node, Selector, parse, selectors
from launcher.watch.source import MIN_RATE_WINDOW_S, Line, Span, legend
from launcher.watch.targets import ScrapeTarget, find_targets

SCRAPE_EVERY_S = 2.0
SCRAPE_TIMEOUT_S = 2.0
MAX_POINTS = 1800  # of each series; then every second one is dropped and the gap doubles
_KEEP_S = 660.0  # the longest window of a panel's rate is ten minutes, an hour for checkpoints (see `_windowed`)
_Key = tuple[tuple[str, str], ...]


class Series:
    """Results of an expression for one set of labels, thinned as they grow old."""

    def __init__(self) -> None:
        self.points: deque[tuple[float, float]] = deque()

    def add(self, time_s: float, value: float) -> None:
        """Append a point; past MAX_POINTS the older half keeps every second one."""
        self.points.append((time_s, value))
        if len(self.points) > MAX_POINTS:
            every = list(self.points)
            middle = len(every) // 2
            self.points = deque(every[:middle:2] + every[middle:])


class ScrapeSource:
    """Scrapes in a thread of its own until it is closed. `targets`: expressions to be evaluated."""

    name = "this page's own scrapes"

    def __init__(self, paths: RunPaths, targets: Iterable[Target], *, every_s: float = SCRAPE_EVERY_S) -> None:
        self._paths, self._every_s = paths, every_s
        self._samples = Samples(keep_s=_KEEP_S)
        trees = {target.expr: parse(_windowed(target.expr)) for target in targets}
        self._trees = {expr: tree for expr, tree in trees.items() if not any(map(_of_prometheus, selectors(tree)))}
        self._results: dict[str, dict[_Key, Series]] = {expr: {} for expr in self._trees}
        self._known: dict[str, ScrapeTarget] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrape", daemon=True)

    def start(self) -> ScrapeSource:
        """Begin to scrape."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop scraping."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(2 * SCRAPE_TIMEOUT_S)

    def lines(self, target: Target, span: Span) -> list[Line]:
        """What was recorded of the expression."""
        with self._lock:
            results = [(dict(key), list(series.points)) for key, series in self._results.get(target.expr, {}).items()]
        found = []
        for labels, points in sorted(results, key=lambda result: sorted(result[0].items())):
            inside = tuple(point for point in points if span.start <= point[0] <= span.end)
            if inside:
                found.append(Line(legend(target.legend, labels), inside))
        return found

    def scrape(self, now: float | None = None) -> None:
        """Scrape every exporter once and evaluate every expression."""
        targets = find_targets(self._paths)
        texts = [(target, _fetch(target)) for target in targets]
        now = time.time() if now is None else now
        for target, text in texts:
            self._take(target, text, now)
        for name in self._known.keys() - {target.name for target in targets}:
            self._samples.end_series("instance", name, now)
        self._known = {target.name: target for target in targets}
        self._samples.forget_before(now)
        with self._lock:
            for expr, tree in self._trees.items():
                self._record(self._results[expr], tree, now)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            self.scrape()
            if self._end.wait(max(0.1, self._every_s - (time.monotonic() - began))):
                return

    def _take(self, target: ScrapeTarget, text: str | None, now: float) -> None:
        if text is None:
            self._samples.end_series("instance", target.name, now)
        self._samples.add("up", target.labels, now, 0.0 if text is None else 1.0)
        if text is None:
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    self._samples.add(sample.name, {**sample.labels, **target.labels}, now, sample.value)

    def _record(self, results: dict[_Key, Series], tree: Node, now: float) -> None:
        try:
            value = evaluate(tree, self._samples, now)
        except Unsupported:
            return
        for key, number in (value if isinstance(value, dict) else {(): value}).items():
            if math.isfinite(number):
                results.setdefault(key, Series()).add(now, number)


def _windowed(expr: str) -> str:
    """With windows that our memory can fill: an hour becomes ten minutes."""
    return expr.replace("$__rate_interval", f"{MIN_RATE_WINDOW_S:.0f}s").replace("[1h]", "[10m]")


def _of_prometheus(selector: Selector) -> bool:
    """Alerts are Prometheus's own series: that there are none here does not say that none fires."""
    return selector.name == "ALERTS"


def _fetch(target: ScrapeTarget) -> str | None:
    """The exporter's text; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{target.address}/metrics", timeout=SCRAPE_TIMEOUT_S) as answer:
            return str(answer.read().decode("utf-8"))
    except (OSError, ValueError, urllib.error.URLError, http.client.HTTPException):
        return None

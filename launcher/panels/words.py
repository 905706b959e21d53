"""Owns the expressions that many panels share, so that a rate or a quantile is written in one way."""

from __future__ import annotations

RATE = "$__rate_interval"
SPARSE = "10m"  # for what happens once in minutes, such as publishes and checkpoints


def rate(counter: str, by: str = "", window: str = RATE) -> str:
    """Sum over processes of a counter's rate, by labels. `counter` may have conditions: `name{label="x"}`."""
    return f"sum{_by(by)}(rate({counter}[{window}]))"


def quantile(q: float, histogram: str, by: str = "", window: str = RATE) -> str:
    """Quantile of a histogram over all processes. `histogram`: name without `_bucket`, perhaps with conditions."""
    labels = ", ".join(["le", *([by] if by else [])])
    return f"histogram_quantile({q}, sum by ({labels}) (rate({_suffixed(histogram, '_bucket')}[{window}])))"


def mean(histogram: str, by: str = "", window: str = RATE) -> str:
    """Mean of a histogram's observations."""
    return f"{rate(_suffixed(histogram, '_sum'), by, window)} / {rate(_suffixed(histogram, '_count'), by, window)}"


def share(counter: str, by: str, window: str = RATE) -> str:
    """What part of a counter's rate falls to each value of the label `by`; nothing while it stands still."""
    whole = rate(counter, window=window)
    return f"{rate(counter, by, window)} / ignoring({by}) group_left {whole}"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _suffixed(metric: str, suffix: str) -> str:
    name, brace, conditions = metric.partition("{")
    return f"{name}{suffix}{brace}{conditions}"

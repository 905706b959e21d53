"""A gauge that is absent while nothing is known, where prometheus_client's would say 0."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from common.metrics import REGISTRY


class OptionalGauge:
    """One figure without labels; registers itself."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._value: float | None = None
        REGISTRY.register(self)

    def set(self, value: float | None) -> None:
        """The figure is `value` now, or not known."""
        self._value = value

    def collect(self) -> Iterator[Metric]:
        """The family, with at most one sample."""
        family = GaugeMetricFamily(self.name, self.text)
        if (value := self._value) is not None:
            family.add_metric([], value)
        yield family

"""The part of PromQL that our dashboards need: parsed (`syntax.py`), evaluated over our own samples (`evaluate.py`).

`zeroq watch --html` shows the panels of Grafana on a laptop that has neither Prometheus nor Grafana. So that each panel
stands once, its expression is PromQL, and this package gives the same answer as Prometheus does;
tests/integration/test_monitoring.py compares the two on a run.
"""

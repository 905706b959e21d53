"""`zeroq watch`: a run that goes on or has ended, on the terminal or as a page of Grafana's panels without Grafana.

exporters ──scrape──┐
Prometheus ─query───┼── Source: lines of each panel ── charts (SVG) ── page ── server on loopback
metrics.jsonl ──────┘
"""

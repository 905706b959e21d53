"""The panels of zeroq's dashboards, defined once: for Grafana (deploy/grafana/generate.py) and `zeroq watch --html`."""

from __future__ import annotations

from launcher.panels.actors import ACTORS
from launcher.panels.cluster import AUTOSCALER, GPUS
from launcher.panels.evaluators import EVALUATORS
from launcher.panels.learner import LEARNER
from launcher.panels.learning import LEARNING
from launcher.panels.overview import OVERVIEW
from launcher.panels.queues import BROKER
from launcher.panels.weights import WEIGHTS

BOARDS = (OVERVIEW, LEARNING, BROKER, ACTORS, EVALUATORS, LEARNER, WEIGHTS, AUTOSCALER, GPUS)

__all__ = ["BOARDS"]

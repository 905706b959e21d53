"""Metrics of an evaluator process, served by common.metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from common.metrics import REGISTRY

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

VERDICTS = Counter("zeroq_evaluator_verdicts", "Verdicts given.", ["outcome"], registry=REGISTRY)
GROUPS = Counter(
    "zeroq_evaluator_groups",
    "Leases by how they ended (submitted, failed, drained, lost, refused).",
    ["end"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "zeroq_evaluator_infrastructure_failures",
    "Groups returned to the broker because the evaluator was at fault.",
    registry=REGISTRY,
)
WORKERS_REPLACED = Counter(
    "zeroq_evaluator_workers_replaced", "Grading workers killed or lost (limit, crash, memory, stuck).", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
LEASES = Gauge("zeroq_evaluator_leases", "Groups being graded now.", registry=REGISTRY)
GROUP_SECONDS = Histogram(
    "zeroq_evaluator_group_seconds", "From lease to verdicts of one group.", buckets=_SECONDS, registry=REGISTRY
)
ROLLOUT_SECONDS = Histogram(
    "zeroq_evaluator_rollout_seconds", "Accuracy check of one rollout.", buckets=_SECONDS, registry=REGISTRY
)
PROGRAMS = Counter(
    "zeroq_evaluator_programs_total", "Programs graded in the sandbox.", ["language", "verdict"], registry=REGISTRY
)
PROGRAM_CPU_SECONDS = Counter(
    "zeroq_evaluator_program_cpu_seconds_total",
    "CPU time of programs, judges and compilers.",
    ["language"],
    registry=REGISTRY,
)

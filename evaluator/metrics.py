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
SCORES = Counter("zeroq_evaluator_scores", "Responses scored by reward models.", ["kind"], registry=REGISTRY)
SCORES_CUT = Counter(
    "zeroq_evaluator_scores_cut", "Of these, texts longer than their model reads.", ["kind"], registry=REGISTRY
)
SCORE_TOKENS = Counter(
    "zeroq_evaluator_score_tokens", "Tokens that reward models read, without padding.", ["kind"], registry=REGISTRY
)
SCORE_BATCH_SIZE = Histogram(
    "zeroq_evaluator_score_batch_size",
    "Responses in one batch of a reward model.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
SCORE_BATCH_SECONDS = Histogram(
    "zeroq_evaluator_score_batch_seconds", "Forward pass of one batch.", buckets=_SECONDS, registry=REGISTRY
)
SCORING_WORKERS_REPLACED = Counter(
    "zeroq_evaluator_scoring_workers_replaced", "Scoring workers that died or were silent.", registry=REGISTRY
)

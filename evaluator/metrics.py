"""What an evaluator counts (docs/metrics.md), served by common.metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from common.metrics import REGISTRY

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

VERDICTS = Counter("zeroq_evaluator_verdicts", "Verdicts given.", ["outcome"], registry=REGISTRY)
GROUPS = Counter("zeroq_evaluator_groups", "Leased groups by what became of them.", ["outcome"], registry=REGISTRY)
FAILURES = Counter(
    "zeroq_evaluator_infrastructure_failures",
    "Groups returned to the broker because the evaluator was at fault.",
    registry=REGISTRY,
)
WORKERS_REPLACED = Counter(
    "zeroq_evaluator_workers_replaced", "Grading workers killed or lost (limit, crash, memory, stuck).", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
RUNNING = Gauge("zeroq_evaluator_groups_running", "Groups being graded now.", registry=REGISTRY)
SLOTS = Gauge("zeroq_evaluator_group_slots", "Groups that the evaluator takes at once.", registry=REGISTRY)
GROUP_SECONDS = Histogram(
    "zeroq_evaluator_group_seconds", "From lease to verdicts of one group.", buckets=_SECONDS, registry=REGISTRY
)
ROLLOUT_SECONDS = Histogram(
    "zeroq_evaluator_rollout_seconds",
    "Accuracy check of one rollout.",
    buckets=(0.00003, 0.0001, 0.0003, *_SECONDS),  # most answers are compared within a millisecond
    registry=REGISTRY,
)
PROGRAMS = Counter(
    "zeroq_evaluator_programs", "Programs graded in the sandbox.", ["language", "verdict"], registry=REGISTRY
)
PROGRAM_CPU_SECONDS = Counter(
    "zeroq_evaluator_program_cpu_seconds",
    "CPU time of programs, judges and compilers.",
    ["language"],
    registry=REGISTRY,
)
PROGRAM_SECONDS = Histogram(
    "zeroq_evaluator_program_seconds",
    "Grading of one program, compilation included.",
    ["language"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
PROGRAMS_KILLED = Counter(
    "zeroq_evaluator_programs_killed", "Runs of programs ended by a limit.", ["cause"], registry=REGISTRY
)
SANDBOX_TIER = Gauge("zeroq_evaluator_sandbox_tier", "Tier of the running sandbox; 0: none runs.", registry=REGISTRY)
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

for _outcome in ("pass", "fail", "timeout", "error"):
    VERDICTS.labels(_outcome)
for _outcome in ("submitted", "refused", "lost", "drained", "failed"):
    GROUPS.labels(_outcome)
for _reason in ("limit", "crash", "memory", "stuck"):
    WORKERS_REPLACED.labels(_reason)
for _cause in ("time", "memory"):
    PROGRAMS_KILLED.labels(_cause)

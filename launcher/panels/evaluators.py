"""Evaluators: verdicts, seconds, the sandbox, reward models."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, bad_above
from launcher.panels.words import RATE, quantile, rate

_GRADING = Row(
    "Grading",
    (
        Panel(
            "Verdicts per second",
            "By outcome. error: the response broke the grader's rules; a broken evaluator gives no verdict.",
            (Target(rate("zeroq_evaluator_verdicts_total", "outcome"), "{{outcome}}"),),
            "per_second",
            "stacked",
        ),
        Panel(
            "Groups per second",
            "By what became of them.",
            (Target(rate("zeroq_evaluator_groups_total", "outcome"), "{{outcome}}"),),
            "per_second",
        ),
        Panel(
            "Groups in work",
            "Being graded now, by evaluator, and how many all can take.",
            (
                Target("sum by (instance) (zeroq_evaluator_groups_running)", "{{instance}}"),
                Target("sum(zeroq_evaluator_group_slots)", "room, all evaluators"),
            ),
        ),
        Panel(
            "From lease to verdicts",
            "Of a group: median and p99.",
            (
                Target(quantile(0.5, "zeroq_evaluator_group_seconds", window="5m"), "p50"),
                Target(quantile(0.99, "zeroq_evaluator_group_seconds", window="5m"), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "One accuracy check",
            "Of a rollout: median and p99.",
            (
                Target(quantile(0.5, "zeroq_evaluator_rollout_seconds", window="5m"), "p50"),
                Target(quantile(0.99, "zeroq_evaluator_rollout_seconds", window="5m"), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Evaluator at fault",
            "Groups given back, and grading workers replaced by reason, since the start.",
            (
                Target("sum(zeroq_evaluator_infrastructure_failures_total)", "groups given back"),
                Target("sum by (reason) (zeroq_evaluator_workers_replaced_total)", "workers: {{reason}}"),
            ),
        ),
    ),
)

_SANDBOX = Row(
    "Sandbox",
    (
        Panel(
            "Sandbox tier",
            "By evaluator: 3 and 2 hold all languages, 1 Python only, 0 none runs (no code is graded).",
            (Target("max by (instance) (zeroq_evaluator_sandbox_tier)", "{{instance}}"),),
            "version",
        ),
        Panel(
            "Programs per second",
            "By language and verdict. infra_error is no verdict: the group goes back.",
            (Target(rate("zeroq_evaluator_programs_total", "language, verdict"), "{{language}} {{verdict}}"),),
            "per_second",
        ),
        Panel(
            "Seconds of a program",
            "Wall time of grading one, compilation included: p50 and p99 by language.",
            (
                Target(quantile(0.5, "zeroq_evaluator_program_seconds", "language", "5m"), "{{language}} p50"),
                Target(quantile(0.99, "zeroq_evaluator_program_seconds", "language", "5m"), "{{language}} p99"),
            ),
            "seconds",
        ),
        Panel(
            "Killed by a limit",
            "Runs of programs per second, by cause.",
            (Target(rate("zeroq_evaluator_programs_killed_total", "cause"), "{{cause}}"),),
            "per_second",
        ),
        Panel(
            "CPU of programs",
            "Cores in use by programs, judges and compilers, by language.",
            (Target(rate("zeroq_evaluator_program_cpu_seconds_total", "language"), "{{language}}"),),
            "number",
            "stacked",
        ),
        Panel(
            "CPU of evaluators",
            "Cores in use by the evaluators' own processes.",
            (
                Target(
                    "sum by (instance) (rate(process_cpu_seconds_total"
                    f'{{job="zeroq", component=~"evaluator.*"}}[{RATE}]))',
                    "{{instance}}",
                ),
            ),
            "number",
        ),
    ),
)

_SCORES = Row(
    "Reward models",
    (
        Panel(
            "Scores per second",
            "Responses scored, by kind of model; cut: longer than the model reads.",
            (
                Target(rate("zeroq_evaluator_scores_total", "kind"), "{{kind}}"),
                Target(rate("zeroq_evaluator_scores_cut_total", "kind"), "{{kind}} cut"),
            ),
            "per_second",
        ),
        Panel(
            "Tokens read per second",
            "By reward models, without padding.",
            (Target(rate("zeroq_evaluator_score_tokens_total", "kind"), "{{kind}}"),),
            "per_second",
        ),
        Panel(
            "Batches",
            "Responses in a batch, and seconds of a forward pass: medians.",
            (
                Target(quantile(0.5, "zeroq_evaluator_score_batch_size", window="5m"), "responses p50"),
                Target(quantile(0.5, "zeroq_evaluator_score_batch_seconds", window="5m"), "seconds p50"),
            ),
            "number",
        ),
        Panel(
            "Scoring workers replaced",
            "Died or were silent, since the start.",
            (Target("sum(zeroq_evaluator_scoring_workers_replaced_total)", "workers"),),
            thresholds=bad_above(1, 5),
        ),
    ),
)

EVALUATORS = Board(
    "evaluators",
    "Evaluators",
    "Verdicts, how long grading takes, the sandbox, reward models.",
    (_GRADING, _SANDBOX, _SCORES),
    by_instance=True,
)

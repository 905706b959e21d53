"""The overview: is it learning, how fast, what is the bottleneck, is it healthy. Four rows, in that order."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, Threshold, bad_above, good_above
from launcher.panels.words import RATE, SPARSE, mean, rate, share

_LEARNING = Row(
    "Is it learning?",
    (
        Panel(
            "Step",
            "Optimizer steps done.",
            (Target("max(zeroq_learner_step)", row="step"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Reward",
            "Mean reward of the last step's rollouts.",
            (Target("max(zeroq_learner_reward_mean)", row="reward"),),
            "number",
            "stat",
            width=4,
            low=None,
        ),
        Panel(
            "Held-out pass@1",
            "Latest evaluation on problems that are not trained on, sampled.",
            (Target("max(zeroq_learner_eval_pass_at_1_ratio)", row="eval/pass_at_1"),),
            "ratio",
            "stat",
            width=4,
            high=1.0,
        ),
        Panel(
            "Held-out greedy",
            "The same, greedy. It falls behind pass@1 when the policy only sharpens.",
            (Target("max(zeroq_learner_eval_greedy_ratio)", row="eval/greedy"),),
            "ratio",
            "stat",
            width=4,
            high=1.0,
        ),
        Panel(
            "Response length",
            "Mean completion length of the last step, tokens.",
            (Target("max(zeroq_learner_completion_length_tokens)", row="completions/mean_length"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Groups without signal",
            "Share of groups whose rewards are all equal: nothing to learn from. High: problems too easy or too hard.",
            (Target("max(zeroq_learner_zero_variance_groups_ratio)", row="frac_reward_zero_std"),),
            "ratio",
            "stat",
            width=4,
            high=1.0,
            thresholds=bad_above(0.7, 0.95),
        ),
        Panel(
            "Reward by step",
            "Mean reward of each step's rollouts.",
            (Target("max(zeroq_learner_reward_mean)", "reward", row="reward"),),
            "number",
            low=None,
        ),
        Panel(
            "Held-out accuracy",
            "Latest evaluations: share of right answers, sampled and greedy.",
            (
                Target("max(zeroq_learner_eval_pass_at_1_ratio)", "pass@1", row="eval/pass_at_1"),
                Target("max(zeroq_learner_eval_greedy_ratio)", "greedy", row="eval/greedy"),
            ),
            "ratio",
            high=1.0,
        ),
        Panel(
            "Response length by step",
            "Mean completion length, tokens.",
            (Target("max(zeroq_learner_completion_length_tokens)", "tokens", row="completions/mean_length"),),
        ),
    ),
)

_FAST = Row(
    "How fast?",
    (
        Panel(
            "Seconds per step",
            "Mean over the last ten minutes, waiting included.",
            (Target(mean("zeroq_learner_step_seconds", window=SPARSE)),),
            "seconds",
            "stat",
            width=6,
        ),
        Panel(
            "Time left",
            "Steps to go times the mean step of the last ten minutes; evaluations and checkpoints come on top.",
            (
                Target(
                    "(max(zeroq_learner_max_steps) - max(zeroq_learner_step)) * "
                    + mean("zeroq_learner_step_seconds", window=SPARSE)
                ),
            ),
            "seconds",
            "stat",
            width=6,
        ),
        Panel(
            "Generated",
            "Tokens of finished groups, all actors, over the last half minute.",
            (Target("sum(zeroq_actor_tokens_per_second)"),),
            "per_second",
            "stat",
            width=6,
        ),
        Panel(
            "Learner",
            "Tokens fed through forward and backward, last step.",
            (Target("max(zeroq_learner_tokens_per_second)", row="learner_tokens_per_s"),),
            "per_second",
            "stat",
            width=6,
        ),
        Panel(
            "Tokens per second",
            "Generated: by the actors. Trained: prompt and completion tokens of the groups trained on. They are equal "
            "in the long run, prompts and discarded groups apart. Over two minutes: tokens count when a group or a "
            "step is finished.",
            (
                Target(rate("zeroq_actor_tokens_generated_total", window="2m"), "generated"),
                Target(rate("zeroq_learner_tokens_total", window="2m"), "trained"),
            ),
            "per_second",
            width=12,
        ),
        Panel(
            "Learner's time by part",
            "Share of the steps of the last ten minutes. wait: for groups. publish: what of it training waits for.",
            (Target(share("zeroq_learner_phase_seconds_sum", "phase", SPARSE), "{{phase}}"),),
            "ratio",
            "stacked",
            width=12,
            high=1.0,
        ),
    ),
)

_BOTTLENECK = Row(
    "What is the bottleneck?",
    (
        Panel(
            "Learner starved",
            "Share of the time that the learner waits for groups. High: more actors (or evaluators, if grading is "
            "behind); near zero and actors idle: the learner is the limit.",
            (Target(rate("zeroq_learner_starved_seconds_total", window="1m")),),
            "ratio",
            "stat",
            width=6,
            high=1.0,
            thresholds=bad_above(0.2, 0.5),
        ),
        Panel(
            "Actors busy",
            "Groups being generated over the groups that the actors can take. Low while the learner starves: tasks are "
            "held back by credit (max_staleness), or grading is behind.",
            (Target("sum(zeroq_actor_groups_running) / sum(zeroq_actor_group_slots)"),),
            "ratio",
            "stat",
            width=6,
            high=1.0,
        ),
        Panel(
            "Evaluators busy",
            "Groups being graded over the groups that the evaluators can take.",
            (Target("sum(zeroq_evaluator_groups_running) / sum(zeroq_evaluator_group_slots)"),),
            "ratio",
            "stat",
            width=6,
            high=1.0,
            thresholds=bad_above(0.8, 0.95),
        ),
        Panel(
            "KV cache in use",
            "The fullest actor. Near one, vLLM puts sequences back and computes them again.",
            (Target("max(zeroq_actor_engine_kv_cache_usage_ratio)"),),
            "ratio",
            "stat",
            width=6,
            high=1.0,
            thresholds=bad_above(0.9, 0.98),
        ),
        Panel(
            "Queues",
            "What waits: tasks for actors (generate), groups for evaluators (grade) and for the learner (ready). The "
            "queue that grows stands before the bottleneck.",
            (Target("sum by (queue) (zeroq_broker_queue_depth)", "{{queue}}"),),
        ),
        Panel(
            "What the learner waits for",
            "Share of the time that its requests for groups waited. grading: for evaluators. actors: for actors, none "
            "of which is idle. other: credit (max_staleness) or a publish is the limit.",
            (Target(rate("zeroq_broker_learner_waiting_seconds_total", "cause", "1m"), "{{cause}}"),),
            "ratio",
            "stacked",
        ),
        Panel(
            "Where a group's time goes",
            "Mean seconds: being generated, waiting for an evaluator, being graded, waiting for the learner.",
            (
                Target(mean('zeroq_broker_lease_seconds{kind="generate"}', window="5m"), "generated"),
                Target(mean('zeroq_broker_queue_wait_seconds{queue="grade"}', window="5m"), "waits for grading"),
                Target(mean('zeroq_broker_lease_seconds{kind="grade"}', window="5m"), "graded"),
                Target(
                    mean('zeroq_broker_queue_wait_seconds{queue="ready_train"}', window="5m"), "waits for the learner"
                ),
            ),
            "seconds",
            "stacked",
        ),
    ),
)

_HEALTH = Row(
    "Is it healthy?",
    (
        Panel(
            "Alerts firing",
            "See the alert's runbook (docs/runbooks.md).",
            (Target('count(ALERTS{alertstate="firing", alertname=~"Zeroq.*"}) or vector(0)'),),
            kind="stat",
            width=4,
            thresholds=bad_above(1, 1),
        ),
        Panel(
            "Processes ready",
            "Share of the processes whose /readyz says yes. One that does not answer a scrape counts as not ready.",
            (Target('(sum(zeroq_process_ready) or vector(0)) / count(up{job="zeroq"})'),),
            "ratio",
            "stat",
            width=4,
            high=1.0,
            thresholds=good_above(0.5, 1.0),
        ),
        Panel(
            "Staleness violations",
            "Tokens trained on past learner.max_staleness. Must stay zero.",
            (Target("sum(zeroq_learner_staleness_violations_total)"),),
            kind="stat",
            width=4,
            thresholds=(Threshold(1, "bad"),),
        ),
        Panel(
            "Given up",
            "Tasks dead-lettered within the last hour, after broker.max_attempts failed attempts.",
            (Target("sum(increase(zeroq_broker_tasks_dead_lettered_total[1h]))"),),
            kind="stat",
            width=4,
            thresholds=bad_above(1, 10),
        ),
        Panel(
            "Refused connections",
            "Refused by CURVE within the last hour: wrong key, no key, plaintext, wrong role.",
            (
                Target(
                    "sum(increase(zeroq_broker_auth_failures_total[1h])) "
                    "+ (sum(increase(zeroq_weights_auth_failures_total[1h])) or vector(0))"
                ),
            ),
            kind="stat",
            width=4,
            thresholds=bad_above(1, 10),
        ),
        Panel(
            "Checkpoint age",
            "Since the last checkpoint was complete: what a crash of the learner would cost.",
            (Target("time() - max(zeroq_learner_checkpoint_timestamp_seconds)"),),
            "seconds",
            "stat",
            width=4,
        ),
        Panel(
            "Staleness",
            "Publishes between a token and its training: oldest token of the last step, and the bound.",
            (
                Target("max(zeroq_learner_staleness_max_publishes)", "oldest token", row="sample/staleness_max"),
                Target("max(zeroq_learner_staleness_limit_publishes)", "bound"),
            ),
            "number",
        ),
        Panel(
            "Leases lost per second",
            "Leases that ended without a result: expired (a process died or hangs), returned, invalid, stale.",
            (
                Target(
                    rate('zeroq_broker_leases_ended_total{outcome!="submitted"}', "kind, outcome"),
                    "{{kind}} {{outcome}}",
                ),
            ),
            "per_second",
        ),
        Panel(
            "Seconds since progress",
            "Since the main loop last went round: the worst process of each kind. One that stands still is restarted "
            "by its liveness probe.",
            (Target("max by (component) (zeroq_process_seconds_since_progress)", "{{component}}"),),
            "seconds",
        ),
        Panel(
            "Alerts",
            "Firing, by name, and the process that it is about where there is one; docs/runbooks.md has a section for "
            "each.",
            (
                Target(
                    'sum by (alertname, instance) (ALERTS{alertstate="firing", alertname=~"Zeroq.*"}) '
                    "or on () vector(0)",
                    "firing: {{alertname}} {{instance}}",
                ),
            ),
        ),
        Panel(
            "CPU",
            "Cores in use by the processes that export metrics, by kind; what they start is not in it (vLLM's engine, "
            "grading workers, programs, the learner's other ranks).",
            (
                Target(
                    f'sum by (component) (rate(process_cpu_seconds_total{{job="zeroq"}}[{RATE}]))',
                    "{{component}}",
                ),
            ),
            "number",
            "stacked",
        ),
        Panel(
            "Memory",
            "Resident bytes of the same processes. GPU memory is on the GPUs' dashboard.",
            (Target('sum by (component) (process_resident_memory_bytes{job="zeroq"})', "{{component}}"),),
            "bytes",
            "stacked",
        ),
    ),
)

OVERVIEW = Board(
    "overview",
    "Overview",
    "Is it learning, how fast, what is the bottleneck, is it healthy?",
    (_LEARNING, _FAST, _BOTTLENECK, _HEALTH),
)

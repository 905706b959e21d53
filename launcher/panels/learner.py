"""Learner: where its time goes, how well it uses the devices, staleness, checkpoints."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, Threshold, bad_above
from launcher.panels.words import RATE, SPARSE, mean, quantile, rate

_TIME = Row(
    "Time",
    (
        Panel(
            "Step",
            "Seconds of a step, waiting included: median and p99.",
            (
                Target(quantile(0.5, "zeroq_learner_step_seconds", window=SPARSE), "p50"),
                Target(quantile(0.99, "zeroq_learner_step_seconds", window=SPARSE), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Mean seconds of a step by part",
            "wait: for groups. publish: what of it training waits for.",
            (Target(mean("zeroq_learner_phase_seconds", "phase", SPARSE), "{{phase}}"),),
            "seconds",
            "stacked",
        ),
        Panel(
            "Starved",
            "Share of the time that it waits for groups.",
            (Target(rate("zeroq_learner_starved_seconds_total", window="1m"), "starved"),),
            "ratio",
            high=1.0,
            thresholds=bad_above(0.2, 0.5),
        ),
    ),
)

_USE = Row(
    "Throughput",
    (
        Panel(
            "Tokens per second",
            "Fed through forward and backward, last step.",
            (Target("max(zeroq_learner_tokens_per_second)", "fed", row="learner_tokens_per_s"),),
            "per_second",
        ),
        Panel(
            "Model FLOP per second",
            "What the model needs for these tokens, all ranks; recomputation does not count.",
            (Target("max(zeroq_learner_model_flops_per_second)", "FLOP/s"),),
            "flops",
        ),
        Panel(
            "MFU",
            "The same over the devices' peak. Empty where the peak is unknown (CPUs, float32).",
            (Target("max(zeroq_learner_mfu_ratio)", "MFU"),),
            "ratio",
        ),
        Panel(
            "Groups and tokens trained",
            "Per second.",
            (
                Target(rate("zeroq_learner_groups_trained_total", window="5m"), "groups"),
                Target(rate("zeroq_learner_tokens_total", window="5m"), "tokens"),
            ),
            "per_second",
        ),
        Panel(
            "CPU",
            "Cores in use by rank 0.",
            (
                Target(
                    f'sum by (instance) (rate(process_cpu_seconds_total{{job="zeroq", component="learner"}}[{RATE}]))',
                    "{{instance}}",
                ),
            ),
            "number",
        ),
        Panel(
            "Memory",
            "Resident bytes of rank 0.",
            (
                Target(
                    'sum by (instance) (process_resident_memory_bytes{job="zeroq", component="learner"})',
                    "{{instance}}",
                ),
            ),
            "bytes",
        ),
    ),
)

_STALENESS = Row(
    "Staleness",
    (
        Panel(
            "Staleness of trained tokens",
            "In publishes: mean and p99 over the tokens, the oldest of the last step, and the bound.",
            (
                Target(
                    mean("zeroq_learner_token_staleness_publishes", window="5m"), "mean", row="sample/staleness_mean"
                ),
                Target(quantile(0.99, "zeroq_learner_token_staleness_publishes", window="5m"), "p99"),
                Target("max(zeroq_learner_staleness_max_publishes)", "oldest", row="sample/staleness_max"),
                Target("max(zeroq_learner_staleness_limit_publishes)", "bound"),
            ),
            "number",
        ),
        Panel(
            "Tokens masked as too stale",
            "Per second. They carry no gradient and count in no denominator.",
            (Target(rate("zeroq_learner_tokens_masked_total", window="5m"), "masked"),),
            "per_second",
        ),
        Panel(
            "Staleness violations",
            "Tokens trained on past the bound, counted behind all gates. Must stay zero.",
            (Target("sum(zeroq_learner_staleness_violations_total)", "tokens"),),
            thresholds=(Threshold(1, "bad"),),
        ),
    ),
)

_CHECKPOINTS = Row(
    "Checkpoints",
    (
        Panel(
            "Age",
            "Since the last one was complete; before the first, since training began.",
            (Target("time() - max(zeroq_learner_checkpoint_timestamp_seconds)", "age"),),
            "seconds",
        ),
        Panel(
            "Step of the last one",
            "And the step that training has reached.",
            (
                Target("max(zeroq_learner_checkpoint_step)", "checkpoint"),
                Target("max(zeroq_learner_step)", "training", row="step"),
            ),
        ),
        Panel(
            "Seconds of a save",
            "From gathering to the rename, and what of it is fsync: means.",
            (
                Target(mean("zeroq_learner_checkpoint_seconds", window="1h"), "save"),
                Target(mean("zeroq_learner_checkpoint_fsync_seconds", window="1h"), "fsync"),
            ),
            "seconds",
        ),
        Panel(
            "Size",
            "Of the last checkpoint.",
            (Target("max(zeroq_learner_checkpoint_size_bytes)", "bytes"),),
            "bytes",
        ),
    ),
)

LEARNER = Board(
    "learner",
    "Learner",
    "Where a step's time goes, throughput and MFU, staleness of what is trained on, checkpoints.",
    (_TIME, _USE, _STALENESS, _CHECKPOINTS),
)

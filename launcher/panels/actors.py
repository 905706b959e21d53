"""Actors: states, tokens, what became of groups, and vLLM's engine."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target
from launcher.panels.words import RATE, quantile, rate

_FLEET = Row(
    "Fleet",
    (
        Panel(
            "States",
            "starting: the engine loads. joining: no weights yet. current: samples. stale: may not sample. draining: "
            "gives its leases back.",
            (Target("sum by (state) (zeroq_actor_state)", "{{state}}"),),
            kind="stacked",
        ),
        Panel(
            "Policy version",
            "Of the weights served, by actor. All follow the learner's within a publish.",
            (Target("max by (instance) (zeroq_actor_policy_version)", "{{instance}}"),),
            "version",
            low=None,
        ),
        Panel(
            "Groups in work",
            "Leased and not done with, by actor, and how many all can take.",
            (
                Target("sum by (instance) (zeroq_actor_groups_running)", "{{instance}}"),
                Target("sum(zeroq_actor_group_slots)", "room, all actors"),
            ),
        ),
    ),
)

_WORK = Row(
    "Generation",
    (
        Panel(
            "Tokens per second",
            "Of finished groups, by actor, over the last half minute.",
            (Target("sum by (instance) (zeroq_actor_tokens_per_second)", "{{instance}}"),),
            "per_second",
            "stacked",
        ),
        Panel(
            "Tokens generated",
            "Since each actor started.",
            (Target("sum by (instance) (zeroq_actor_tokens_generated_total)", "{{instance}}"),),
        ),
        Panel(
            "Groups per second",
            "By what became of them. refused or lost: the lease had ended before the submit.",
            (Target(rate("zeroq_actor_groups_total", "outcome"), "{{outcome}}"),),
            "per_second",
        ),
        Panel(
            "From lease to finished group",
            "Median and p99. The p99 must stay below broker.generate_lease_s.",
            (
                Target(quantile(0.5, "zeroq_actor_generation_seconds", window="5m"), "p50"),
                Target(quantile(0.99, "zeroq_actor_generation_seconds", window="5m"), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Completion length",
            "Tokens: median and p99.",
            (
                Target(quantile(0.5, "zeroq_actor_completion_length_tokens", window="5m"), "p50"),
                Target(quantile(0.99, "zeroq_actor_completion_length_tokens", window="5m"), "p99"),
            ),
        ),
        Panel(
            "CPU",
            "Cores in use by each actor. vLLM's front end is one Python process: near 1 it is the limit, not the GPU.",
            (
                Target(
                    f'sum by (instance) (rate(process_cpu_seconds_total{{job="zeroq", component="actor"}}[{RATE}]))',
                    "{{instance}}",
                ),
            ),
            "number",
        ),
    ),
)

_ENGINE = Row(
    "vLLM",
    (
        Panel(
            "Sequences running",
            "In the running batch, by actor.",
            (Target("sum by (instance) (zeroq_actor_engine_rollouts_running)", "{{instance}}"),),
        ),
        Panel(
            "Sequences waiting",
            "For room in the batch or the cache. Always above zero: actor.max_concurrent_groups is more than fits.",
            (Target("sum by (instance) (zeroq_actor_engine_rollouts_waiting)", "{{instance}}"),),
        ),
        Panel(
            "KV cache in use",
            "By actor.",
            (Target("max by (instance) (zeroq_actor_engine_kv_cache_usage_ratio)", "{{instance}}"),),
            "ratio",
            high=1.0,
        ),
        Panel(
            "Sequences put back",
            "Per second, for want of cache; their tokens are computed again. Above zero: raise actor.kv_cache_gib or "
            "gpu_memory_utilization, or take fewer groups at once.",
            (Target(rate("zeroq_actor_engine_preemptions_total", "instance"), "{{instance}}"),),
            "per_second",
        ),
        Panel(
            "Prefix cache",
            "Share of prompt tokens found. The G rollouts of a group share their prompt: near (G-1)/G.",
            (
                Target(
                    f"{rate('zeroq_actor_engine_prefix_cache_hits_total')} / "
                    f"{rate('zeroq_actor_engine_prefix_cache_queries_total')}",
                    "hits",
                ),
            ),
            "ratio",
            high=1.0,
        ),
    ),
)

ACTORS = Board(
    "actors",
    "Actors",
    "States, tokens, what became of the groups, and vLLM's own figures.",
    (_FLEET, _WORK, _ENGINE),
    by_instance=True,
)

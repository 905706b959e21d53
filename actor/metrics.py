"""What an actor counts (docs/metrics.md). One process, one actor, one engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from common.histogram import TallyCollector
from common.metrics import REGISTRY

State = Literal["starting", "joining", "current", "stale", "draining"]
"""starting: the engine loads. joining: no weights yet. stale: too old to sample from. draining: on its way out."""

STATE = Gauge("zeroq_actor_state", "1 for the state that the actor is in.", ["state"], registry=REGISTRY)
TOKENS = Counter("zeroq_actor_tokens_generated", "Tokens of finished groups.", registry=REGISTRY)
GROUPS = Counter("zeroq_actor_groups", "Leased groups by what became of them.", ["outcome"], registry=REGISTRY)
RUNNING = Gauge("zeroq_actor_groups_running", "Groups leased and not yet done with.", registry=REGISTRY)
SLOTS = Gauge("zeroq_actor_group_slots", "Groups that the actor takes at once.", registry=REGISTRY)
VERSION = Gauge("zeroq_actor_policy_version", "Policy version of the weights served; -1: none yet.", registry=REGISTRY)
GENERATION_SECONDS = Histogram(
    "zeroq_actor_generation_seconds",
    "From lease to finished group.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
    registry=REGISTRY,
)
TOKENS_PER_SECOND = Gauge("zeroq_actor_tokens_per_second", "Tokens of groups finished lately.", registry=REGISTRY)
_LENGTHS = TallyCollector(
    "zeroq_actor_completion_length_tokens",
    "Length of completions.",
    (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
)
LENGTH = _LENGTHS.tally
ENGINE_RUNNING = Gauge("zeroq_actor_engine_rollouts_running", "vLLM: sequences in the batch.", registry=REGISTRY)
ENGINE_WAITING = Gauge("zeroq_actor_engine_rollouts_waiting", "vLLM: sequences waiting for room.", registry=REGISTRY)
KV_CACHE_USAGE = Gauge(
    "zeroq_actor_engine_kv_cache_usage_ratio", "vLLM: share of the key-value cache in use.", registry=REGISTRY
)
PREEMPTIONS = Counter(
    "zeroq_actor_engine_preemptions", "vLLM: sequences put back for want of cache.", registry=REGISTRY
)
PREFIX_QUERIES = Counter(
    "zeroq_actor_engine_prefix_cache_queries", "vLLM: prompt tokens looked up in the prefix cache.", registry=REGISTRY
)
PREFIX_HITS = Counter(
    "zeroq_actor_engine_prefix_cache_hits", "vLLM: prompt tokens found in the prefix cache.", registry=REGISTRY
)

REGISTRY.register(_LENGTHS)
for _outcome in ("submitted", "refused", "lost", "returned", "failed"):
    GROUPS.labels(_outcome)
_state_lock = threading.Lock()
_state: State = "starting"


def enter(state: State) -> None:
    """The actor is in `state` now; nothing leads out of draining."""
    global _state
    with _state_lock:
        if _state != "draining":
            _state = state
        for name in get_args(State):
            STATE.labels(name).set(name == _state)


def observe_engine(stats: Any) -> None:
    """Take in vLLM's figures of one scheduler step (vllm.v1.metrics.stats.SchedulerStats); None: a step without."""
    if stats is None:
        return
    ENGINE_RUNNING.set(stats.num_running_reqs)
    ENGINE_WAITING.set(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs)
    KV_CACHE_USAGE.set(stats.kv_cache_usage)
    cache = stats.prefix_cache_stats
    if cache.requests or cache.preempted_requests:
        PREFIX_QUERIES.inc(cache.queries)
        PREFIX_HITS.inc(cache.hits)
        PREEMPTIONS.inc(cache.preempted_requests)


def engine_is_idle() -> None:
    """Nothing is being sampled. vLLM reports with its steps alone, and none comes after requests were aborted."""
    for gauge in (ENGINE_RUNNING, ENGINE_WAITING, KV_CACHE_USAGE):
        gauge.set(0)


class RateMeter:
    """Tokens per second over the last `window_s` seconds."""

    def __init__(self, window_s: float = 30.0) -> None:
        self._window_s = window_s
        self._began: float | None = None
        self._entries: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float | None = None) -> None:
        """Count `count` tokens at `now` (monotonic seconds)."""
        now = time.monotonic() if now is None else now
        if self._began is None:
            self._began = now
        self._entries.append((now, count))

    def rate(self, now: float | None = None) -> float:
        """Average since the window's start, or since the first entry while the meter is younger than its window."""
        now = time.monotonic() if now is None else now
        while self._entries and self._entries[0][0] < now - self._window_s:
            self._entries.popleft()
        if self._began is None or now <= self._began:
            return 0.0
        return sum(count for _, count in self._entries) / min(self._window_s, now - self._began)


METER = RateMeter()
TOKENS_PER_SECOND.set_function(METER.rate)
VERSION.set(-1)
enter("starting")

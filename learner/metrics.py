"""What the learner counts: `zeroq_learner_*` (docs/metrics.md). step_log.py sets most.

Only rank 0 knows them. On machines without it the gauges are absent and the counters stay 0.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from common.config import LearnerSection
from common.gauge import OptionalGauge
from common.histogram import TallyCollector
from common.metrics import REGISTRY

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""From a tiny model's packing to a step of long completions on a large one."""

# Progress and time.
STEP = OptionalGauge("zeroq_learner_step", "Optimizer steps done.")
MAX_STEPS = OptionalGauge("zeroq_learner_max_steps", "Optimizer steps of the run.")
VERSION = OptionalGauge("zeroq_learner_policy_version", "Publishes done.")
STEP_SECONDS = Histogram(
    "zeroq_learner_step_seconds", "Duration of a step, waiting included.", buckets=_SECONDS, registry=REGISTRY
)
PHASE_SECONDS = Histogram(
    "zeroq_learner_phase_seconds", "Parts of a step.", ["phase"], buckets=_SECONDS, registry=REGISTRY
)
STARVED_SECONDS = Counter("zeroq_learner_starved_seconds", "Time waited for groups.", registry=REGISTRY)
TOKENS = Counter("zeroq_learner_tokens", "Prompt and completion tokens trained on.", registry=REGISTRY)
RATE = OptionalGauge("zeroq_learner_tokens_per_second", "Tokens fed through forward and backward a second.")
FLOPS = OptionalGauge("zeroq_learner_model_flops_per_second", "Operations that the model needs for these, all ranks.")
MFU = OptionalGauge("zeroq_learner_mfu_ratio", "The same over the devices' peak.")
GROUPS = Counter("zeroq_learner_groups_trained", "Groups trained on.", registry=REGISTRY)

# Staleness.
MASKED = Counter("zeroq_learner_tokens_masked", "Tokens masked as too stale.", registry=REGISTRY)
VIOLATIONS = Counter(
    "zeroq_learner_staleness_violations", "Tokens trained on past max_staleness; must stay 0.", registry=REGISTRY
)
_TOKEN_STALENESS = TallyCollector(
    "zeroq_learner_token_staleness_publishes",
    "Staleness of the tokens trained on, in publishes.",
    (0, 1, 2, 3, 4, 6, 8, 12, 16, 32),
)
TOKEN_STALENESS = _TOKEN_STALENESS.tally
STALENESS_MAX = OptionalGauge("zeroq_learner_staleness_max_publishes", "Oldest token of the last step.")
STALENESS_LIMIT = OptionalGauge("zeroq_learner_staleness_limit_publishes", "learner.max_staleness.")

# Rewards.
REWARD = OptionalGauge("zeroq_learner_reward_mean", "Mean reward of the last step's rollouts.")
REWARD_STD = OptionalGauge("zeroq_learner_reward_std", "Standard deviation of the last step's rewards.")
COMPONENT = Gauge(
    "zeroq_learner_reward_component_mean", "Mean of a component of the reward.", ["reward"], registry=REGISTRY
)
OUTCOMES = Counter("zeroq_learner_outcomes", "Rollouts trained on, by verdict.", ["outcome"], registry=REGISTRY)
ZERO_STD = OptionalGauge("zeroq_learner_zero_variance_groups_ratio", "Share of groups of equal rewards.")
LENGTH = OptionalGauge("zeroq_learner_completion_length_tokens", "Mean completion length of the last step.")
TRUNCATED = OptionalGauge("zeroq_learner_truncated_completions_ratio", "Share of completions cut off.")
PASS_AT_1 = OptionalGauge("zeroq_learner_eval_pass_at_1_ratio", "Latest evaluation, sampled.")
GREEDY = OptionalGauge("zeroq_learner_eval_greedy_ratio", "Latest evaluation, greedy.")

# The update.
LOSS = OptionalGauge("zeroq_learner_loss", "Loss of the last step.")
KL = OptionalGauge("zeroq_learner_kl_nats", "Mean k3 against the reference policy.")
ENTROPY = OptionalGauge("zeroq_learner_entropy_nats", "Mean entropy of the policy at trained tokens.")
CLIP = Gauge("zeroq_learner_clip_ratio", "Share of tokens whose ratio was clipped.", ["side"], registry=REGISTRY)
IMPORTANCE = OptionalGauge("zeroq_learner_importance_ratio_mean", "Mean importance weight.")
SAMPLER_KL = OptionalGauge("zeroq_learner_sampler_kl_nats", "Mean k3 of sampler against learner.")
LOGP_DIFFERENCE = Gauge(
    "zeroq_learner_sampler_logp_difference_nats",
    "Absolute difference of learner's and sampler's log-probabilities.",
    ["stat"],
    registry=REGISTRY,
)
GRADIENT_NORM = OptionalGauge("zeroq_learner_gradient_norm", "Norm of the gradients before clipping.")
LEARNING_RATE = OptionalGauge("zeroq_learner_learning_rate", "Learning rate of the last step.")

# Checkpoints.
CHECKPOINT_TIME = OptionalGauge("zeroq_learner_checkpoint_timestamp_seconds", "When the last checkpoint was complete.")
CHECKPOINT_STEP = OptionalGauge("zeroq_learner_checkpoint_step", "Step of the last checkpoint.")
CHECKPOINT_SIZE = OptionalGauge("zeroq_learner_checkpoint_size_bytes", "Size of the last checkpoint.")
CHECKPOINT_SECONDS = Histogram(
    "zeroq_learner_checkpoint_seconds", "Saving a checkpoint.", buckets=_SECONDS, registry=REGISTRY
)
CHECKPOINT_FSYNC_SECONDS = Histogram(
    "zeroq_learner_checkpoint_fsync_seconds",
    "All fsync calls of a checkpoint.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    registry=REGISTRY,
)

REGISTRY.register(_TOKEN_STALENESS)
for _phase in ("wait", "pack", "train", "publish"):
    PHASE_SECONDS.labels(_phase)
for _outcome in ("pass", "fail", "timeout", "error"):
    OUTCOMES.labels(_outcome)


def begin(step: int, version: int, config: LearnerSection, checkpoint: Path | None) -> None:
    """Training begins, or goes on from the complete `checkpoint`."""
    STEP.set(step)
    VERSION.set(version)
    MAX_STEPS.set(config.max_steps)
    STALENESS_LIMIT.set(config.max_staleness)
    CHECKPOINT_TIME.set(time.time())
    if checkpoint is not None:
        _show_checkpoint(json.loads((checkpoint / "manifest.json").read_text()))


def checkpoint_saved(manifest: dict[str, Any], seconds: float) -> None:
    """A checkpoint is complete; `seconds` it took."""
    CHECKPOINT_SECONDS.observe(seconds)
    _show_checkpoint(manifest)


def _show_checkpoint(manifest: dict[str, Any]) -> None:
    CHECKPOINT_TIME.set(manifest["time"])
    CHECKPOINT_STEP.set(manifest["step"])
    CHECKPOINT_SIZE.set(sum(file["size_bytes"] for file in manifest["files"].values()))

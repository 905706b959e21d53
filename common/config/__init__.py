"""The run's configuration: one pydantic model per room, loaded from YAML plus `key=value` overrides.

Unknown keys are rejected with their path; every range is stated here and nowhere else. `load_config` is the only way
in: it turns every mistake into one `UserError` line naming file, key, value and remedy. All processes of a run read the
same resolved YAML (`runs/NAME/config.yaml`), so what one process believes, all believe.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from common.config.data import DataSection, FieldMap, GeneralSection, ReasoningGymSource, RolloutSection
from common.config.logs import HubSection, LoggingSection, RunSection, TrackerSection
from common.config.operations import AutoscalerSection, MetricsSection, ScaleLimits, SecuritySection
from common.config.processes import ActorSection, BrokerSection, EvaluatorSection, WeightsSection
from common.config.reward import RewardComponent, RewardSection
from common.config.training import ColdStartSection, EvalSection, LearnerSection, LossSection, TrainingSection
from common.config_file import Section, dump_config, load

__all__ = [
    "ActorSection",
    "AutoscalerSection",
    "BrokerSection",
    "ColdStartSection",
    "CommonConfig",
    "DataSection",
    "EvalSection",
    "EvaluatorSection",
    "FieldMap",
    "GeneralSection",
    "HubSection",
    "LearnerSection",
    "LoggingSection",
    "LossSection",
    "MetricsSection",
    "ReasoningGymSource",
    "RewardComponent",
    "RewardSection",
    "RolloutSection",
    "RunConfig",
    "RunSection",
    "ScaleLimits",
    "Section",
    "SecuritySection",
    "TrackerSection",
    "TrainingSection",
    "WeightsSection",
    "dump_config",
    "load_config",
]


class CommonConfig(Section):
    """What every kind of run has: RL runs, and the supervised jobs of common/job_config.py."""

    model: str = Field(
        min_length=1, description="Hugging Face directory or name; 'tiny' makes a small random model in the run."
    )
    seed: int = Field(0, ge=0, lt=2**32)
    resume: str = Field("never", description="never | auto | PATH of a checkpoint.")
    run: RunSection = RunSection()
    logging: TrackerSection = TrackerSection()
    hub: HubSection = HubSection()


class RunConfig(CommonConfig):
    """The whole of it."""

    data: DataSection
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    cold_start: ColdStartSection = ColdStartSection()
    learner: LearnerSection = LearnerSection()
    actor: ActorSection = ActorSection()
    evaluator: EvaluatorSection = EvaluatorSection()
    broker: BrokerSection = BrokerSection()
    weights: WeightsSection = WeightsSection()
    eval: EvalSection = EvalSection()
    logging: LoggingSection = LoggingSection()
    security: SecuritySection = SecuritySection()
    metrics: MetricsSection = MetricsSection()
    autoscaler: AutoscalerSection = AutoscalerSection()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.weights.backend in ("ipc", "nccl") and "cpu" in (self.actor.device, self.learner.device):
            raise ValueError(
                f"weights.backend: {self.weights.backend} needs GPUs on both sides; use weights.backend=gloo on CPUs"
            )
        if (longest_s := self.weights.longest_publish_s) >= self.learner.collective_timeout_s:
            raise ValueError(
                f"weights.transfer_timeout_s: {self.weights.transfer_timeout_s:g} and weights.ready_timeout_s: "
                f"{self.weights.ready_timeout_s:g} let a publish take {longest_s:g} s, while the learner's other ranks "
                f"wait at most learner.collective_timeout_s: {self.learner.collective_timeout_s:g}; raise that above "
                f"{longest_s:g}, or lower weights.transfer_timeout_s"
            )
        return self

    @property
    def groups_per_publish(self) -> int:
        """Groups trained between two publishes."""
        return self.learner.groups_per_step * self.learner.steps_per_publish

    @property
    def credit_limit(self) -> int:
        """Training tasks that may be outstanding at once: enough for eta publishes ahead, and no more (gate 1)."""
        return self.groups_per_publish * (self.learner.max_staleness + 1)


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """A run's configuration; UserError (one line) for anything wrong."""
    return load(RunConfig, path, overrides)

"""Sections on operation: keys of the wire, metrics and probes, autoscaling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from common.config_file import Section, on_off


class SecuritySection(Section):
    """CurveZMQ on every socket that carries zeroq's messages."""

    mode: Annotated[Literal["curve", "off"], BeforeValidator(on_off)] = Field(
        "curve", description="off: plaintext, on one trusted machine only."
    )
    keys: str | None = Field(
        None,
        description="Folder with this process's keys (zeroq keygen); null: each run makes its own in its directory.",
    )


class MetricsSection(Section):
    """Where each process serves /metrics, /livez and /readyz."""

    host: str = Field("127.0.0.1", description="Address to bind.")
    port: int = Field(0, ge=0, le=65535, description="0: a free one, written to processes/NAME.json.")


class ScaleLimits(Section):
    """Floor and ceiling of one kind of process, and how fast their number may change: evaluators'."""

    min: int = Field(1, ge=0, description="Never fewer.")
    max: int = Field(8, ge=1, description="Never more.")
    max_step: int = Field(4, ge=1, description="Largest change in one decision.")
    scale_up_after_s: float = Field(5.0, ge=0, description="The need must last so long before processes are added.")
    scale_down_after_s: float = Field(300.0, ge=0, description="The surplus must last so long before any is removed.")

    @model_validator(mode="after")
    def _ordered(self) -> ScaleLimits:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ActorLimits(ScaleLimits):
    """The same for actors, which take minutes to start."""

    max_step: int = Field(1, ge=1, description="Largest change in one decision.")
    scale_up_after_s: float = Field(30.0, ge=0, description="The need must last so long before processes are added.")


class AutoscalerSection(Section):
    """How many evaluators and actors there should be (docs/autoscaling.md)."""

    enabled: bool = Field(
        False,
        description="Local runs: adjust the number of evaluators while the run goes on. `zeroq autoscaler` needs no "
        "permission.",
    )
    every_s: float = Field(5.0, gt=0, description="Seconds between two decisions.")
    dry_run: bool = Field(False, description="Decide and report, change nothing.")
    grading_target_s: float = Field(
        10.0, gt=0, description="Evaluators: as many as work off what waits for grading within so many seconds."
    )
    starved_ratio: float = Field(
        0.1, ge=0, le=1, description="Actors: one more while the learner waits for them for a larger share of time."
    )
    evaluator_role: Literal["evaluator", "evaluator-models"] | None = Field(
        None,
        description="On Kubernetes: which of the two kinds of evaluators is scaled. Unset: evaluator-models where a "
        "reward component is a reward_model, else evaluator. A reward function that calls a judge over the network "
        "needs evaluator-models here.",
    )
    drain_s: float = Field(
        60.0,
        ge=0,
        le=3000,
        description="A process that is to go gets no new work, and so long to finish what it has.",
    )
    evaluators: ScaleLimits = ScaleLimits()
    actors: ActorLimits = ActorLimits()

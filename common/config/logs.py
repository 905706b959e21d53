"""Sections on a run's files, trackers and the hub."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config_file import Section


class RunSection(Section):
    """Where a run keeps its files."""

    name: str | None = Field(None, description="Directory below run.dir; default: configuration name and time stamp.")
    dir: str = Field("runs", description="Parent directory of all runs.")


class TrackerSection(Section):
    """Which experiment trackers the metrics go to as well."""

    to: list[Literal["wandb", "tensorboard", "trackio"]] = Field(
        default_factory=list, description="Trackers that get metrics.jsonl's rows beside the file."
    )
    project: str = Field("zeroq", min_length=1, max_length=128, description="Project of wandb and trackio.")

    @model_validator(mode="after")
    def _once_each(self) -> TrackerSection:
        if len(set(self.to)) != len(self.to):
            raise ValueError(f"to: {', '.join(self.to)}: name each tracker once")
        return self


class LoggingSection(TrackerSection):
    """What is kept of an RL run for reading, and its trackers."""

    samples_per_step: int | None = Field(
        8, ge=0, description="Training rollouts kept in samples/*.parquet each step; 0: none, null: all."
    )
    samples_max_mb: int = Field(1024, ge=1, description="Size in MB of samples/ at which no more are kept.")


class HubSection(Section):
    """Uploading checkpoints to the Hugging Face hub. A failed upload never ends a run."""

    push_to: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Repository NAMESPACE/NAME for the last checkpoint; null: none."
    )
    private: bool = Field(True, description="Visibility of a repository that is made.")
    revision: str | None = Field(None, min_length=1, description="Branch to push to; null: main.")
    every_checkpoint: bool = Field(False, description="Push each checkpoint as it is saved, not only the last.")

    @model_validator(mode="after")
    def _has_target(self) -> HubSection:
        if self.push_to is None and (self.every_checkpoint or self.revision is not None):
            raise ValueError("every_checkpoint and revision need push_to: NAMESPACE/NAME")
        return self

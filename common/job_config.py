"""The configurations of supervised jobs: `zeroq sft` and `zeroq reward-model`. Loaded as runs are (config_file.load).

Sections `run` and `learner` mean what they mean in a run's configuration; a key of RL there (learner.lr, say) is
refused with its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from common.config import CommonConfig, TrainingSection
from common.config_file import Section, load


class CorpusFile(Section):
    """One file of prompts and responses."""

    path: str = Field(description="Parquet (.parquet) or JSON lines (.jsonl, .jsonl.gz) with `prompt` and `response`.")
    weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="How often an epoch takes each example: 2 twice, 0.5 half of them (another half each epoch).",
    )
    limit: int | None = Field(None, ge=1, description="Only the first examples of the file.")


def _as_files(value: Any) -> Any:
    """A single path or mapping for a list of one; a path for a mapping with a path."""
    values = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str | Path) else item for item in values]


class SftSection(Section):
    """Supervised fine-tuning on prompts and responses."""

    data: list[CorpusFile] = Field(min_length=1, description="What is trained on: paths, or {path, weight, limit}.")
    eval_data: list[CorpusFile] = Field(default_factory=list, description="Held out: its loss is measured.")
    epochs: float | None = Field(None, gt=0, description="Passes over the data; null: as max_steps says.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; with epochs: whichever is less.")
    batch_size: int = Field(128, ge=1, description="Sequences per optimizer step (R1: 128).")
    lr: float = Field(5e-5, gt=0)
    lr_final_ratio: float = Field(0.1, ge=0, le=1, description="Cosine decay ends at lr times this.")
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="Share of the steps that warm up.")
    warmup_steps: int | None = Field(None, ge=0, description="The same as a number of steps.")
    weight_decay: float = Field(0.0, ge=0)
    max_tokens: int | None = Field(
        None, ge=2, description="Longest example, prompt and response; longer ones are left out. Null: the context."
    )
    max_seconds: float | None = Field(None, gt=0, description="Stop early after this time; the decay follows it.")
    eval_every_steps: int = Field(0, ge=0, description="0: after the last step only.")
    shuffle: bool = Field(True, description="A seeded order for each epoch; off: the order of the files.")

    _files = field_validator("data", "eval_data", mode="before")(_as_files)

    @model_validator(mode="after")
    def _ends(self) -> SftSection:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("nothing says when to stop; set sft.epochs or sft.max_steps")
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("warmup_ratio and warmup_steps say the same; keep one")
        return self

    def warmup(self, num_steps: int) -> int:
        """Steps of warm-up of a training of `num_steps`."""
        return self.warmup_steps or round((self.warmup_ratio or 0.0) * num_steps)


class JobConfig(CommonConfig):
    """What every job has."""

    learner: TrainingSection = TrainingSection()


class SftConfig(JobConfig):
    """The whole of a fine-tuning job."""

    sft: SftSection


def load_sft_config(path: str | Path, overrides: list[str] | None = None) -> SftConfig:
    """A fine-tuning job's configuration; UserError (one line) for anything wrong."""
    return load(SftConfig, path, overrides)


# ---------------------------------------------------------------- reward models


class RewardModelSection(Section):
    """Training a reward model on preferences (R1's RL for all scenarios)."""

    kind: Literal["helpful", "safety"] = Field(
        description="helpful: pairs, Bradley-Terry; safety: single responses with a label, binary cross-entropy."
    )
    data: str = Field(
        description="Parquet or JSON lines. helpful: prompt, chosen, rejected, margin (may be null); safety: prompt, "
        "response, label (1 safe, 0 unsafe)."
    )
    eval_data: str | None = Field(None, description="Held out, in the same form; null: split off from data.")
    eval_size: int = Field(500, ge=1, description="Held out at most; of data that is split, no more than a tenth.")
    limit: int | None = Field(None, ge=2, description="Only the first rows of data.")
    reads: Literal["summary", "response"] | None = Field(
        None, description="What the model gets to see. Null: the summary (helpful), the whole response (safety)."
    )
    margin_scale: float = Field(
        0.0,
        ge=0,
        description="Times a pair's margin: what its scores must differ by, -log sigmoid(d - scale * margin).",
    )
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; whichever is less.")
    batch_size: int = Field(256, ge=1, description="Pairs, or labelled responses, per optimizer step (R1: 256).")
    lr: float = Field(6e-6, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    lr_final_ratio: float = Field(0.1, ge=0, le=1, description="Cosine decay ends at lr times this.")
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_tokens: int = Field(8192, ge=8, description="Longest text in tokens; of longer ones the end is read.")
    eval_every_steps: int = Field(0, ge=0, description="0: after the last step only.")

    @model_validator(mode="after")
    def _margins(self) -> RewardModelSection:
        if self.margin_scale and self.kind == "safety":
            raise ValueError("margin_scale is for pairs (kind: helpful)")
        return self

    @property
    def read_part(self) -> Literal["summary", "response"]:
        """What the model gets to see."""
        return self.reads or ("summary" if self.kind == "helpful" else "response")


class RewardModelConfig(JobConfig):
    """The whole of a reward model's training."""

    reward_model: RewardModelSection


def load_reward_model_config(path: str | Path, overrides: list[str] | None = None) -> RewardModelConfig:
    """A reward model's configuration; UserError (one line) for anything wrong."""
    return load(RewardModelConfig, path, overrides)

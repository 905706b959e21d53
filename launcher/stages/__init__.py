"""The stages of a pipeline at work: each kind takes a `StageContext` and gives an `Outcome`.

Every kind may be killed at any moment and called again with the same folder: it goes on with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config_file import Section
from common.errors import RunFailure, ZeroqError
from common.lifecycle import StopFlag
from recipes.pipeline.config import Defaults


class Interrupted(ZeroqError):
    """A stop was asked for while a stage was at work."""


@dataclass(frozen=True)
class StageContext:
    """What a stage is handed. `settings`: the stage's section, references resolved to paths; `folder`: its own."""

    name: str
    settings: Any
    defaults: Defaults
    folder: Path
    seed: int
    stop: StopFlag
    say: Callable[[str], None]

    def check_stop(self) -> None:
        """Interrupted once a stop was asked for."""
        if self.stop:
            raise Interrupted(f"stage {self.name}: stopped; the same command goes on from here")


@dataclass(frozen=True)
class Outcome:
    """What a stage made, by output name, and its figures (numbers, texts, small tables: JSON)."""

    outputs: Mapping[str, Path]
    figures: Mapping[str, Any] = field(default_factory=dict)


def stage_function(kind: str) -> Callable[[StageContext], Outcome]:
    """The function of a kind of stage; imported when it is used."""
    if kind == "small_world":
        from launcher.stages.world import make_world

        return make_world
    if kind == "grpo":
        from launcher.stages.grpo import train_grpo

        return train_grpo
    if kind in ("sft", "cold_start"):
        from launcher.stages.supervised import cold_start, fine_tune

        return fine_tune if kind == "sft" else cold_start
    if kind == "rejection_sample":
        from launcher.stages.rejection import rejection_sample

        return rejection_sample
    if kind == "preferences":
        from launcher.stages.preferences import make_preferences

        return make_preferences
    if kind == "reward_model":
        from launcher.stages.reward_model import train_reward_models

        return train_reward_models
    if kind == "evaluate":
        from launcher.stages.evaluate import evaluate

        return evaluate
    raise RunFailure(f"no stage of kind {kind!r}")


def settings_of(section: Section) -> dict[str, Any]:
    """A stage's settings as its manifest keeps them."""
    return section.model_dump(mode="json")

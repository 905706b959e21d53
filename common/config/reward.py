"""Sections on rewards: named components and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from common.config_file import Section

ColumnValue = str | int | float | bool | None


class RewardComponent(Section):
    """One named reward. Its weighted value is added; every component is reported on its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    kind: Literal["accuracy", "format", "language", "function", "reward_model"] = "accuracy"
    weight: float = 1.0
    when: dict[str, ColumnValue | list[ColumnValue]] = Field(
        default_factory=dict,
        description="Applies only to problems whose columns have these values (one, or one of a list; null: absent).",
    )
    function: str | None = Field(None, description="module:function with TRL's reward signature (kind: function).")
    model: str | None = Field(None, description="Directory of a trained reward model (kind: reward_model).")
    language: str = Field("en", description="Target language, or auto: the problem's own (kind: language).")
    mode: Literal["strict", "lenient"] = Field(
        "strict", description="Whether text around the two parts is refused or allowed (kind: format)."
    )

    def applies(self, columns: Mapping[str, Any]) -> bool:
        """Whether this component is for a problem with these columns."""
        return all(_is_among(columns.get(name), wanted) for name, wanted in self.when.items())

    @model_validator(mode="after")
    def _mode_applies(self) -> RewardComponent:
        if self.mode != "strict" and self.kind != "format":
            raise ValueError(f"mode: {self.mode} is for kind: format; {self.name} is of kind: {self.kind}")
        return self

    @model_validator(mode="after")
    def _function_given(self) -> RewardComponent:
        if (self.kind == "function") != (self.function is not None):
            raise ValueError("kind: function needs function: 'module:name', and only that kind takes one")
        if self.function is not None and self.function.count(":") != 1:
            raise ValueError(f"function must read 'module:name', got {self.function!r}")
        return self

    @model_validator(mode="after")
    def _model_given(self) -> RewardComponent:
        if (self.kind == "reward_model") != (self.model is not None):
            raise ValueError("kind: reward_model needs model: DIRECTORY, and only that kind takes one")
        return self

    @model_validator(mode="after")
    def _when_can_match(self) -> RewardComponent:
        empty = [name for name, wanted in self.when.items() if wanted == []]
        if empty:
            raise ValueError(f"when.{empty[0]} is an empty list, which no problem matches; name its values")
        return self


def _is_among(value: Any, wanted: ColumnValue | list[ColumnValue]) -> bool:
    """Whether a column's value is one of those wanted. `true` is not 1, and "3" is not 3."""
    choices = wanted if isinstance(wanted, list) else [wanted]
    return any(isinstance(value, bool) == isinstance(choice, bool) and value == choice for choice in choices)


class RewardSection(Section):
    """Weighted sum of components (R1-Zero: accuracy and format, equally)."""

    components: list[RewardComponent] = Field(
        default_factory=lambda: [
            RewardComponent(name="accuracy", kind="accuracy"),
            RewardComponent(name="format", kind="format"),
        ],
        min_length=1,
    )
    math_timeout_s: float = Field(1.0, gt=0, description="Limit for one mathematical comparison, CPU seconds.")

    @model_validator(mode="after")
    def _unique(self) -> RewardSection:
        names = [c.name for c in self.components]
        if len(set(names)) != len(names):
            raise ValueError(f"component names must differ, got {names}")
        return self

"""A user's reward function in TRL's signature, for the miniature run: easy to raise, so a minute shows it."""

from __future__ import annotations

from typing import Any


def digit_share(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """Share of a completion's characters that are digits."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]

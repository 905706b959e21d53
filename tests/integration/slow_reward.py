"""A reward that takes as long as the completions say: `0.5` is half a second for the whole group."""

from __future__ import annotations

import time
from typing import Any


def as_long_as_it_says(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Reward 1 after a while."""
    time.sleep(float(completions[0]))
    return [1.0] * len(completions)

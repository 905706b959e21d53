"""Format reward: one `<think>` block, then one `<answer>` block, nothing else (R1's format reward)."""

from __future__ import annotations

from evaluator.extract import Response


def score(response: Response) -> float:
    """1.0 when the response has the shape (`Response.well_formed`), else 0.0."""
    return 1.0 if response.well_formed else 0.0

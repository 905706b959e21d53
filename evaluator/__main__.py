"""`python -m evaluator --run-dir DIR [--config FILE] ...` (common.cli): one evaluator process."""

from __future__ import annotations

import sys

from common.cli import Process, main
from common.reward_model import read_reward_model
from evaluator.compose import check_reward
from evaluator.loop import run


def check(process: Process) -> None:
    """The reward can be computed here, as far as can be said without starting graders; UserError."""
    check_reward(process.config.reward)
    for component in process.config.reward.components:
        if component.model is not None:
            read_reward_model(component.model)


if __name__ == "__main__":
    sys.exit(main("evaluator", run, "Grade groups of rollouts leased from the broker.", check=check))

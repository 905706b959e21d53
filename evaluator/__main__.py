"""`python -m evaluator --run-dir DIR --name NAME`: one evaluator process."""

from __future__ import annotations

import sys

from common.cli import main
from evaluator.loop import run

if __name__ == "__main__":
    sys.exit(main("evaluator", run, "Grade groups of rollouts leased from the broker."))

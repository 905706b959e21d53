"""`python -m learner.reward_model --run-dir DIR --name NAME`, or the same under torchrun for several ranks."""

from __future__ import annotations

import os
import sys

from common.cli import main_of
from common.job_config import RewardModelConfig

if __name__ == "__main__":
    rank = int(os.environ.get("RANK", "0"))
    if rank:  # ranks beside the first are processes of their own in logs and process files
        name = sys.argv[sys.argv.index("--name") + 1] if "--name" in sys.argv else "learner"
        sys.argv += ["--name", f"{name}-rank{rank}"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from learner.reward_model.loop import run

    sys.exit(main_of(RewardModelConfig, "learner", run, "reward-model training (FSDP2)", export_metrics=rank == 0))

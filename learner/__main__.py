"""`python -m learner --run-dir DIR [--config FILE] ...` (common.cli), or the same under torchrun for several ranks.

On a cluster learner/node.py starts it.
"""

from __future__ import annotations

import os
import sys

from common.cli import Process, main


def run(process: Process) -> None:
    """Import what is dear only now: --check and --help answer at once."""
    from learner.loop import run as train

    train(process)


if __name__ == "__main__":
    rank = int(os.environ.get("RANK", "0"))
    if rank:  # ranks beside the first are processes of their own in logs and process files
        name = sys.argv[sys.argv.index("--name") + 1] if "--name" in sys.argv else "learner"
        sys.argv += ["--name", f"{name}-rank{rank}"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # One exporter a machine is enough: its ranks run in lockstep.
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    description = "GRPO learner: FSDP2 training on groups from the broker"
    sys.exit(main("learner", run, description, export_metrics=first_here))

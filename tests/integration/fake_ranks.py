"""`python -m tests.integration.fake_ranks`: learner/node.py with ranks that train nothing, so that a gang can be tried
within seconds.

A rank sleeps and obeys files in the pods' common folder: `finish` (rank 0 says that training is done), `refuse` (exit
2). Like real ranks they leave together when one is asked to stop (file `stopping`), and a rank
whose peers die only notices what the node does. Each start is a line in `starts`: node, generation's port, time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from common.health import Health
from common.lifecycle import RunPaths, die_with_parent, register_process
from common.metrics import start_exporter


def rank(arguments: list[str]) -> int:
    """Play a rank; the arguments are torchrun's."""
    node, port = arguments[arguments.index("--node-rank") + 1], arguments[arguments.index("--master-port") + 1]
    root = Path(arguments[arguments.index("--run-dir") + 1])
    die_with_parent()
    common = root.parent
    stopping = common / f"stopping-{port}"
    signal.signal(signal.SIGTERM, lambda *_: stopping.touch())
    health = Health()
    health.beat("loop", f"pretending on node {node}")
    health.ready()
    name = "learner" if node == "0" else f"learner-rank{node}"
    register_process(RunPaths(root), name, "learner", start_exporter(health=health).port)
    with (common / "starts").open("a") as file:
        file.write(f"{node} {port} {time.time()}\n")
    while True:
        time.sleep(0.02)
        if (common / "refuse").exists():
            print("error: not to my taste", file=sys.stderr)
            return 2
        stopped = stopping.exists()
        if stopped or (common / "finish").exists():
            if node == "0":
                summary = {"stopped": stopped, "steps": 3}
                (root / "learner_summary.json").write_text(json.dumps(summary))
            return 0


def main() -> int:
    """A node whose launcher is this file; or, as that launcher, a rank."""
    if "--master-port" in sys.argv:
        return rank(sys.argv)
    from learner import node, node_ranks

    node_ranks.LAUNCHER = (sys.executable, "-m", "tests.integration.fake_ranks")
    node_ranks.NodeRanks._ranks = lambda self: [psutil.Process(self._process.pid)] if self._process else []  # type: ignore[method-assign]
    return node.main()


if __name__ == "__main__":
    os.environ["RANK"] = "0"
    sys.exit(main())

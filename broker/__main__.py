"""`python -m broker --run-dir DIR`: serve one run's queues until SIGTERM."""

import sys

from broker.server import run
from common.cli import main

if __name__ == "__main__":
    sys.exit(main("broker", run, "The broker: queues, leases, credit and staleness gates of one run."))

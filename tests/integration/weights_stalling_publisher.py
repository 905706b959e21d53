"""A learner-like process for fault tests: prints its endpoint, waits for an actor, publishes versions 0 and 1.

In the broadcast of version 1 it stops at the given bucket, prints "stalled" and stays there until it is killed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from common.lifecycle import die_with_parent
from learner.weights import WeightPublisher, gather_full_tensors, gloo
from tests.integration.weights_rig import load_model, make_config


def main(model: Path, stall_at_bucket: int) -> None:
    die_with_parent()
    publisher = WeightPublisher(make_config(model), host="127.0.0.1")
    weights = list(gather_full_tensors(load_model(model)))
    print(publisher.endpoint, flush=True)
    waited = threading.Event()
    while not any(peer.eligible for peer in list(publisher._control._epochs.peers.values())):
        waited.wait(0.05)
    publisher.publish(0, weights)
    send, sent = gloo._broadcast, 0

    def stall(*arguments: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > stall_at_bucket:
            print("stalled", flush=True)
            threading.Event().wait(60)
        send(*arguments)

    gloo._broadcast = stall
    publisher.publish(1, weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

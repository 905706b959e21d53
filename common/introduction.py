"""Owns the first contact of a process with the broker, which on a cluster may start later than everybody else."""

from __future__ import annotations

import time

from common.cli import Process
from common.client import GIVE_UP_S, BrokerClient
from common.errors import BrokerUnavailable, RunFailure
from common.keys import Keys
from common.lifecycle import wait_for_endpoint
from common.messages import Role, Welcome

ASK_S = 5.0
LOCAL_PATIENCE_S = 30.0
PATIENCE_S = 900.0
"""On a cluster (`broker.address` is set) a process waits this long for the broker: images are pulled meanwhile, and a
process that gave up would only be started again, later each time. The same holds for a broker that goes away later: a
volume that moves to another node takes minutes, and so does an actor's start."""


def connect(process: Process, role: Role, keys: Keys | None) -> BrokerClient:
    """A client for an actor or evaluator, which keeps its requests for as long as a broker may be away."""
    broker = process.config.broker
    endpoint = wait_for_endpoint(process.paths, role, broker=broker)
    give_up_s = GIVE_UP_S if broker.address is None else PATIENCE_S
    return BrokerClient(endpoint, role, process.name, keys=keys, give_up_s=give_up_s)


def introduce(process: Process, client: BrokerClient, part: str = "loop") -> Welcome:
    """Say hello until the broker answers; RunFailure when it does not in time, or a stop is asked for meanwhile.

    The process is alive as long as it asks, and ready once it is welcome, while the broker goes on answering. UserError
    when the broker does not let it in.
    """
    began = time.monotonic()
    patience_s = LOCAL_PATIENCE_S if process.config.broker.address is None else PATIENCE_S
    while True:
        process.health.beat(part, "waiting for the broker", limit_s=60.0)
        process.health.not_ready("the broker has not answered yet")
        try:
            welcome = client.hello(timeout_s=ASK_S)
        except BrokerUnavailable as error:
            waited_s = time.monotonic() - began
            if process.stop or waited_s >= patience_s:
                raise RunFailure(f"waited {waited_s:.0f} s for the broker: {error}") from None
        else:
            process.health.ready(client.trouble)
            return welcome

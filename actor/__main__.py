"""`python -m actor --run-dir DIR --name NAME`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from actor.broker import Broker
from actor.engine import Engine
from actor.follow import Receiver, WeightFollower
from actor.loop import Actor
from common.cli import Process, main
from common.client import BrokerClient
from common.lifecycle import record_event, wait_for_endpoint


def run(process: Process) -> None:
    """Sample groups for the run until asked to stop."""
    asyncio.run(_run(process))


async def _run(process: Process) -> None:
    # The engine first: it may be forked, and a fork wants few threads around it.
    engine = await Engine.start(process.config, process.name)
    try:
        await engine.warm_up(process.config.rollout, process.config.actor.max_concurrent_groups)
        endpoint = wait_for_endpoint(process.paths, "actor")
        with BrokerClient(endpoint, "actor", process.name) as client:
            await _serve(process, engine, client)
    finally:
        engine.shutdown()


async def _serve(process: Process, engine: Engine, client: BrokerClient) -> None:
    def make_receiver(endpoint: str, on_version: Callable[[int], None]) -> Receiver:
        from actor.weights import WeightReceiver  # imports torch

        return WeightReceiver(
            engine.llm,
            process.config,
            endpoint=endpoint,
            name=process.name,
            incarnation=client.incarnation,
            on_version=on_version,
        )

    ready = False

    def loaded(version: int) -> None:
        nonlocal ready
        engine.set_version(version)
        if not ready:
            ready = True
            record_event(process.paths, "actor_ready", name=process.name, version=version)

    broker = Broker(client)
    weights = WeightFollower(
        broker,
        name=process.name,
        incarnation=client.incarnation,
        make_receiver=make_receiver,
        on_version=loaded,
    )
    await Actor(
        broker,
        engine,
        weights,
        process.stop,
        name=process.name,
        max_groups=process.config.actor.max_concurrent_groups,
    ).run()


if __name__ == "__main__":
    sys.exit(main("actor", run, "zeroq actor: samples groups of completions with vLLM"))

"""`python -m actor --run-dir DIR --name NAME`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace

from actor.broker import Broker
from actor.engine import Engine
from actor.follow import Receiver, WeightFollower
from actor.loop import Actor
from actor.model_files import LearnersModel, learners_model
from actor.vitals import Vitals
from common.cli import Process, main
from common.client import BrokerClient
from common.introduction import connect
from common.keys import Keys
from common.lifecycle import record_event


def run(process: Process) -> None:
    """Sample groups for the run until asked to stop."""
    keys = Keys.for_process(process.config, process.paths, "actor")
    model = None
    if process.config.actor.model_from == "learner":
        model = learners_model(process, keys)
        if model is None:  # stopped while it waited
            return
        process = replace(process, config=process.config.model_copy(update={"model": str(model.path)}))
    asyncio.run(_run(process, keys, model))


async def _run(process: Process, keys: Keys | None, model: LearnersModel | None) -> None:
    # The engine first: it may be forked, and a fork wants few threads around it.
    startup_s = process.config.actor.startup_timeout_s
    process.health.beat("engine", "starting vLLM", startup_s + 60)
    engine = await Engine.start(process.config, process.name)
    try:
        await engine.warm_up(process.config.rollout, process.config.actor.max_concurrent_groups)
        with connect(process, "actor", keys) as client:
            await _serve(process, engine, client, keys, model)
    finally:
        engine.shutdown()


async def _serve(
    process: Process, engine: Engine, client: BrokerClient, keys: Keys | None, model: LearnersModel | None
) -> None:
    def make_receiver(endpoint: str, on_version: Callable[[int], None]) -> Receiver:
        from actor.weights import WeightReceiver  # imports torch

        return WeightReceiver(
            engine.llm,
            process.config,
            endpoint=endpoint,
            name=process.name,
            incarnation=client.incarnation,
            on_version=on_version,
            on_pause=engine.weights_change,
            model=model.digest if model else None,
            keys=keys,
        )

    ready = False

    def loaded(version: int) -> None:
        nonlocal ready
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
        has_weights=model is None,
    )
    actor = Actor(
        broker,
        engine,
        weights,
        process.stop,
        name=process.name,
        max_groups=process.config.actor.max_concurrent_groups,
    )
    vitals = asyncio.create_task(
        Vitals(process.health, process.config, engine, weights, actor, client.trouble).run(), name="vitals"
    )
    try:
        await actor.run()
    finally:
        vitals.cancel()


if __name__ == "__main__":
    sys.exit(main("actor", run, "zeroq actor: samples groups of completions with vLLM"))

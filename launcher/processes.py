"""Owns the command line and environment of each process of a run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.config import RunConfig, TrainingSection
from common.lifecycle import RunPaths
from launcher.machine import Placement

ProcessRole = Literal["broker", "evaluator", "actor", "learner", "prometheus"]
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ProcessSpec:
    """How to start one process. `cores`: those it may run on (None: all); `max_restarts`: its budget."""

    name: str
    role: ProcessRole
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    cores: frozenset[int] | None = None
    max_restarts: int = 0


def plan_processes(config: RunConfig, paths: RunPaths, placement: Placement) -> list[ProcessSpec]:
    """Every process of a training run, in the order in which to start them."""
    return [
        broker_spec(paths),
        *(evaluator_spec(config, paths, i) for i in range(config.evaluator.replicas)),
        *(actor_spec(config, paths, placement, i) for i in range(config.actor.replicas)),
        learner_spec(config, paths, placement),
    ]


def broker_spec(paths: RunPaths) -> ProcessSpec:
    """The broker; it has no second life: the queues are in its memory."""
    return ProcessSpec("broker", "broker", _module("broker", paths, "broker"), _environment(1))


def evaluator_spec(config: RunConfig, paths: RunPaths, index: int) -> ProcessSpec:
    """Evaluator number `index`."""
    name = f"evaluator-{index}"
    command = _module("evaluator", paths, name)
    return ProcessSpec(name, "evaluator", command, _environment(1), None, config.evaluator.max_restarts)


def actor_spec(config: RunConfig, paths: RunPaths, placement: Placement, index: int) -> ProcessSpec:
    """Actor number `index`, on its share of the cores or on its GPU."""
    name = f"actor-{index}"
    cores = placement.actor_cores[index % len(placement.actor_cores)]
    environment = _environment(len(cores) if cores else None)
    if placement.actor_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = placement.actor_gpus[index % len(placement.actor_gpus)]
        if config.weights.backend == "ipc":
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(placement.actor_gpus)
    command = _module("actor", paths, name)
    return ProcessSpec(name, "actor", command, environment, cores, config.actor.max_restarts)


def learner_spec(config: RunConfig, paths: RunPaths, placement: Placement) -> ProcessSpec:
    """The learner: one process, or torchrun with one per rank."""
    command = _module("learner", paths, "learner")
    if config.learner.ranks > 1:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.learner.ranks))
        command = (sys.executable, *torchrun, *command[1:])
    environment = _environment(placement.learner_threads)
    if placement.learner_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(placement.learner_gpus)
    return ProcessSpec("learner", "learner", command, environment, placement.learner_cores)


def job_spec(
    module: str, learner: TrainingSection, paths: RunPaths, threads: int, gpus: tuple[str, ...] = ()
) -> ProcessSpec:
    """A supervised job, which is a learner without a broker: `python -m MODULE`, or torchrun with one per rank."""
    command = _module(module, paths, "learner")
    if learner.ranks > 1:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(learner.ranks))
        command = (sys.executable, *torchrun, *command[1:])
    environment = _environment(threads)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return ProcessSpec("learner", "learner", command, environment)


def _module(room: str, paths: RunPaths, name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", room, "--run-dir", str(paths.root), "--name", name)


def import_path() -> str:
    """PYTHONPATH of the children: our packages, the user's PYTHONPATH, the working directory (reward functions)."""
    return os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", ""), os.getcwd()) if part)


def _environment(num_threads: int | None) -> dict[str, str]:
    """What a child's environment has beyond ours.

    PYTHONSAFEPATH keeps a folder called `common` in the user's working directory from shadowing ours.
    """
    added = {
        "PYTHONPATH": import_path(),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if num_threads is not None:
        added["OMP_NUM_THREADS"] = str(num_threads)
    return added

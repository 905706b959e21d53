"""Owns what this machine has (cores, GPUs) and which process gets which part of it.

CPUs   the actors' engines get the cores of `actor.cpu_threads` (the actor binds them itself), or their share; the
       learner's ranks get the rest; broker and evaluators float. With two cores: one generates, one learns.
GPUs   the learner's ranks first, then one per actor. Weights by CUDA IPC need both sides on the same cards.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig, TrainingSection
from common.errors import UserError


class MachineLacks(UserError):
    """The configuration is in order, but asks for cores or GPUs that this machine does not have."""


@dataclass(frozen=True)
class Machine:
    """Cores this process may use, and the names (indices or UUIDs) of the GPUs it may use."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Cores and GPUs per process. `actor_cores[i % len]` and `actor_gpus[i % len]` are replica i's; None: no limit."""

    actor_cores: tuple[frozenset[int] | None, ...]
    learner_cores: frozenset[int] | None
    learner_threads: int
    actor_gpus: tuple[str, ...]
    learner_gpus: tuple[str, ...]


def inspect_machine() -> Machine:
    """Look at this machine without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        gpus = [name for name in names if name and name != "-1"]
        if not any(Path("/dev").glob("nvidia[0-9]*")):
            gpus = []
    else:
        found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia[0-9]*"))
        # CUDA numbers the cards it may open from 0, whatever their device files are called.
        gpus = [str(index) for index, _ in enumerate(match for match in found if match)]
    return Machine(tuple(sorted(os.sched_getaffinity(0))), tuple(gpus))


def place(config: RunConfig, machine: Machine) -> Placement:
    """Share the machine out. MachineLacks for GPUs or cores that are asked for and are not there."""
    actor_cores, learner_cores = _place_cores(config, machine)
    learner_threads = config.learner.num_threads
    if learner_threads is None:
        available = len(learner_cores) if learner_cores else len(machine.cores)
        learner_threads = max(1, available // config.learner.ranks)
    actor_gpus, learner_gpus = _place_gpus(config, machine)
    return Placement(actor_cores, learner_cores, learner_threads, actor_gpus, learner_gpus)


def place_job(learner: TrainingSection, machine: Machine) -> tuple[int, tuple[str, ...]]:
    """Threads of each rank of a supervised job, which has the machine to itself, and its GPUs. MachineLacks."""
    threads = learner.num_threads or max(1, len(machine.cores) // learner.ranks)
    if learner.device == "cpu":
        return threads, ()
    if not machine.gpus:
        raise MachineLacks(
            "learner.device=cuda: no GPU is visible to this process; set learner.device=cpu, or check nvidia-smi"
        )
    if learner.ranks > len(machine.gpus):
        raise MachineLacks(
            f"learner.ranks={learner.ranks}: {len(machine.gpus)} GPU(s) are visible; lower learner.ranks"
        )
    return threads, machine.gpus[: learner.ranks]


def _place_cores(
    config: RunConfig, machine: Machine
) -> tuple[tuple[frozenset[int] | None, ...], frozenset[int] | None]:
    cores, replicas = machine.cores, config.actor.replicas
    if config.actor.device != "cpu":
        return (None,), None
    if config.actor.cpu_threads is not None:
        wanted = parse_cores(config.actor.cpu_threads)
        if missing := sorted(wanted - set(cores)):
            raise MachineLacks(
                f"actor.cpu_threads={config.actor.cpu_threads!r}: core {missing[0]} is not available; this process "
                f"may use {_ranges(cores)}"
            )
        actor: tuple[frozenset[int] | None, ...] = (None,)
        taken = frozenset(wanted)
    else:
        share = max(1, len(cores) // 2)
        each = max(1, share // replicas)
        actor = tuple(frozenset(cores[i * each % share :][:each]) for i in range(replicas))
        taken = frozenset(cores[:share])
    rest = frozenset(cores) - taken
    return actor, rest if rest and config.learner.device == "cpu" else None


def parse_cores(text: str) -> set[int]:
    """Core numbers of `0`, `0,2` or `0-3`; UserError for anything else."""
    cores: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise UserError(f"actor.cpu_threads={text!r}: expected cores such as '0', '0,2' or '0-3'")
        cores.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return cores


def _place_gpus(config: RunConfig, machine: Machine) -> tuple[tuple[str, ...], tuple[str, ...]]:
    gpus, ranks, replicas = machine.gpus, config.learner.ranks, config.actor.replicas
    wants = {"learner": config.learner.device == "cuda", "actor": config.actor.device == "cuda"}
    if not any(wants.values()):
        return (), ()
    if not gpus:
        roles = [role for role, wanted in wants.items() if wanted]
        keys = ", ".join(f"{role}.device=cuda" for role in roles)
        remedy = " ".join(f"{role}.device=cpu" for role in roles)
        raise MachineLacks(f"{keys}: no GPU is visible to this process; set {remedy}, or check nvidia-smi")
    if wants["learner"] and ranks > len(gpus):
        raise MachineLacks(f"learner.ranks={ranks}: {len(gpus)} GPU(s) are visible; lower learner.ranks")
    learner = gpus[:ranks] if wants["learner"] else ()
    if not wants["actor"]:
        return (), learner
    if config.weights.backend == "ipc":
        return learner or gpus[:1], learner
    rest = gpus[len(learner) :]
    if config.weights.backend == "nccl" and len(rest) < replicas:
        raise MachineLacks(
            f"weights.backend=nccl needs {len(learner)} GPU(s) for the learner and {replicas} for actors, and "
            f"{len(gpus)} are visible; lower actor.replicas or learner.ranks, or share a card with weights.backend=ipc"
        )
    return (rest or gpus), learner


def _ranges(cores: tuple[int, ...]) -> str:
    return f"core {cores[0]}" if len(cores) == 1 else f"cores {','.join(map(str, cores[:16]))}"

"""Process-wide settings of vLLM, which reads them from the environment before (and while) it is imported.

On CPUs the engine runs in one child process (not two): vLLM's own default adds a worker process, and with it another
ten seconds of imports. vLLM then leaves threads and cores to us, so they are set here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from common.config import RunConfig
from common.errors import UserError
from common.lifecycle import die_with_parent

_children_die_with_us = False


def parse_cores(text: str) -> set[int]:
    """Cores of `actor.cpu_threads`: '0', '0-3', '0,2-3'. UserError for anything else or a core we may not use."""
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            cores |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        raise UserError(f"actor.cpu_threads = {text!r}: expected cores such as '0' or '0-3,6'") from None
    allowed = os.sched_getaffinity(0)
    if not cores or not cores <= allowed:
        raise UserError(f"actor.cpu_threads = {text!r}: this process may use the cores {sorted(allowed)}")
    return cores


def prepare(config: RunConfig) -> set[int] | None:
    """Set the environment for vLLM; returns the cores that the engine is to be bound to (None: not bound).

    Call before torch is imported: the number of OpenMP threads is read then.
    """
    settings = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(max(1, round(config.actor.startup_timeout_s))),
    }
    if Path(config.model).is_dir():
        settings |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # it logs before it reads that
    cores = None
    if config.actor.device == "cpu":
        if config.actor.cpu_threads is not None:
            cores = parse_cores(config.actor.cpu_threads)
            settings["OMP_NUM_THREADS"] = str(len(cores))
        else:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) - 1)))
        settings["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if config.actor.enforce_eager:
            # One helper of vLLM's sampler is compiled all the same: 10 s, at the first request with log-probabilities.
            settings["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.update(settings)
    return cores


def torch_is_fresh() -> bool:
    """True while nothing in this process can have started OpenMP threads: such a process may be forked."""
    return "torch" not in sys.modules


@contextlib.contextmanager
def starting_engine(config: RunConfig, cores: set[int] | None, *, fresh: bool) -> Iterator[None]:
    """Surround the start of the engine's process: how it is made, where it may run, and that it dies with us.

    vLLM spawns on CPUs, because OpenMP's threads do not survive a fork, and the child imports everything again (9 s).
    In a fresh process with one thread there are none to lose, so we fork instead (1.5 s); a GPU's choice is vLLM's.
    A forked child has vLLM's plugins loaded already, so theirs is not the place where it is tied to its parent.
    """
    global _children_die_with_us
    if not _children_die_with_us:
        os.register_at_fork(after_in_child=die_with_parent)
        _children_die_with_us = True
    if config.actor.device == "cpu" and fresh and os.environ["OMP_NUM_THREADS"] == "1":
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""Owns what is verified before a run starts, beyond the configuration's own types and ranges.

Each check raises UserError with one line that names the key, the value and the remedy. Together with recipes.prepare
they cover everything about the input that can be known without starting a process of the run.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.check import check_local_address
from common.config import CommonConfig, RunConfig
from common.errors import UserError
from common.keys import KEY_ROLES, check_keys
from common.lifecycle import RunPaths
from launcher.helper import run_code
from launcher.hub import check_hub
from launcher.machine import MachineLacks, Placement, inspect_machine, place
from launcher.run_directory import choose_run_directory
from launcher.scale import MAX_ACTORS
from launcher.trackers import check_installed
from recipes.datasets import find_file
from recipes.model_files import locate_model

_REWARD_IMPORT_TIMEOUT_S = 120.0
_MAX_EVALUATORS = 256
_PROBE = (
    "import sys; from evaluator.graders.user_function import check; why = check(sys.argv[1]); "
    "print(why.splitlines()[0] if why else '', end=''); sys.exit(bool(why))"
)


@dataclass(frozen=True)
class Checked:
    """What the checks found out: where the run will live, and on which part of the machine."""

    paths: RunPaths
    placement: Placement


def check_input(config: RunConfig, config_path: Path) -> Checked:
    """All checks that need neither the model's tokenizer nor the data."""
    placement = check_here(config)
    return Checked(check_anywhere(config, config_path), placement)


def check_here(config: RunConfig) -> Placement:
    """What only holds if all processes of the run share this machine; MachineLacks, also for cores and GPUs."""
    for key, replicas, most in (
        ("actor.replicas", config.actor.replicas, MAX_ACTORS),
        ("evaluator.replicas", config.evaluator.replicas, _MAX_EVALUATORS),
    ):
        if replicas > most:
            raise MachineLacks(f"{key}={replicas}: at most {most} on one machine")
    if config.metrics.port:
        raise MachineLacks(
            f"metrics.port={config.metrics.port}: the processes of a run on one machine need ports of their own; set "
            "metrics.port=0"
        )
    return place(config, inspect_machine())


def check_anywhere(config: RunConfig, config_path: Path) -> RunPaths:
    """The checks whose result does not depend on this machine's cores and GPUs; returns the run's directory."""
    paths = choose_run_directory(config, config_path)
    check_resume(config)
    check_ports(config)
    check_local_address(config.metrics.host, "metrics.host")
    check_local_address(config.weights.host, "weights.host")
    for role in KEY_ROLES:
        check_keys(config, role)
    check_files(config)
    check_installed(list(config.logging.to))
    check_hub(config.hub)
    check_reward_functions(config)
    return paths


def check_files(config: RunConfig) -> None:
    """Data files exist: found out before a model is made or fetched."""
    general = None if config.data.general is None else config.data.general.source
    for source in (config.data.train, config.data.eval, general, config.data.general_eval):
        if isinstance(source, str):
            find_file(source)


def check_resume(config: CommonConfig) -> None:
    """`resume` is never, auto or a checkpoint directory with weights."""
    if config.resume in ("never", "auto"):
        return
    path = Path(config.resume).expanduser()
    if not path.is_dir():
        raise UserError(f"resume={config.resume}: no such directory; give never, auto or a checkpoint directory")
    try:
        locate_model(str(path))
    except UserError as error:
        raise UserError(f"resume={config.resume}: not a checkpoint: {error}") from None


def check_ports(config: RunConfig) -> None:
    """Ports named in `broker.ports` are free and differ, and `broker.host` is an address of this machine."""
    taken: dict[int, str] = {}
    for role, port in config.broker.ports.items():
        if port and port in taken:
            raise UserError(
                f"broker.ports.{role}={port} is also broker.ports.{taken[port]}; roles need ports of their own"
            )
        taken[port] = role
        _check_bind(config.broker.host, port, f"broker.ports.{role}={port}")
    if not config.broker.ports:
        _check_bind(config.broker.host, 0, f"broker.host={config.broker.host}")


def _check_bind(host: str, port: int, key: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ binds
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            remedy = "choose another or leave it out for a free one" if port else "use 127.0.0.1 for a local run"
            raise UserError(f"{key}: cannot bind {host}: {error.strerror or error}; {remedy}") from None


def check_reward_functions(config: RunConfig) -> None:
    """The reward can be computed: languages are known, reward models are there, and a user's functions can be imported,
    as an evaluator will: in another process."""
    from evaluator.compose import check_reward

    check_reward(config.reward)
    for component in config.reward.components:
        if component.function is None:
            continue
        where = f"reward component {component.name!r}: function {component.function}"
        try:
            probe = run_code(_PROBE, component.function, timeout_s=_REWARD_IMPORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise UserError(f"{where}: importing it takes more than {_REWARD_IMPORT_TIMEOUT_S:.0f} s") from None
        if probe.returncode != 0:
            reason = (probe.stdout or probe.stderr).strip().splitlines() or [f"exit code {probe.returncode}"]
            raise UserError(f"{where}: {reason[-1]} (modules are looked up in the working directory and PYTHONPATH)")

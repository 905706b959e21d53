"""The configuration of a run on Kubernetes: the user's file, and from the cluster what belongs to the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from common.config import RunConfig
from common.config_file import read_tree, validate
from common.errors import UserError
from launcher.k8s.names import CONFIG_MAP

CLUSTER_KEYS: tuple[str, ...] = (
    *("broker.host", "broker.address", "broker.ports"),
    *("weights.host", "weights.address", "weights.port", "weights.store_port"),
    *("security", "metrics", "autoscaler", "resume", "run.dir", "run.name"),
    *("actor.model_from", "evaluator.sandbox_tier"),
)
"""Kept as they are in the cluster, unless the user's file or an override sets them."""

SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "k8s.yaml"
"""The configuration that deploy/k8s starts with; stands in for the cluster's where there is none yet."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_for_cluster(path: Path, overrides: list[str], present: dict[str, Any]) -> RunConfig:
    """The user's configuration with the cluster's own keys from `present`; UserError (one line) for anything wrong."""
    tree, origins = read_tree(path, overrides)
    for key in CLUSTER_KEYS:
        _adopt(tree, present, key.split("."))
    config = validate(RunConfig, tree, str(path), origins)
    check_for_cluster(config)
    return config


def check_for_cluster(config: RunConfig) -> None:
    """What pods need and a local run does not. UserError names key and remedy."""
    if config.broker.address is None:
        raise UserError(
            "broker.address is not set: pods find the broker by its Service; set broker.address=zeroq-broker"
        )
    for key, host in (("broker.host", config.broker.host), ("metrics.host", config.metrics.host)):
        if host in _LOOPBACK:
            raise UserError(f"{key}={host}: other pods and probes cannot reach that; set {key}=0.0.0.0")
    if not config.metrics.port:
        raise UserError("metrics.port=0: probes and Prometheus need a fixed port; set metrics.port=9400")
    if config.weights.backend == "ipc":
        raise UserError("weights.backend=ipc works within one machine; use nccl (GPUs) or gloo (CPUs) between pods")
    if config.weights.address is None or config.weights.host in _LOOPBACK or not config.weights.port:
        raise UserError("weights.host, weights.address and weights.port: actors of other pods need all three")
    if config.security.mode == "curve" and config.security.keys is None:
        raise UserError("security.keys is not set: pods find their keys in /etc/zeroq/keys")
    if config.resume == "never":
        raise UserError("resume=never: a learner whose pod starts again would begin anew; set resume=auto")


def check_leases(config: RunConfig, grace_s: dict[str, float]) -> None:
    """Pods that are stopped have time to finish a lease. `grace_s`: termination grace period by role."""
    for role, key, lease_s in (
        ("actor", "broker.generate_lease_s", config.broker.generate_lease_s),
        ("evaluator", "broker.grade_lease_s", config.broker.grade_lease_s),
        ("evaluator-models", "broker.grade_lease_s", config.broker.grade_lease_s),
    ):
        if role in grace_s and grace_s[role] <= lease_s:
            raise UserError(
                f"{key}={lease_s:g}: pods of zeroq-{role} are killed {grace_s[role]:g} s after they are asked to stop, "
                f"before a lease ends; shorten it, or raise terminationGracePeriodSeconds in deploy/k8s"
            )


def dump(config: RunConfig) -> str:
    """YAML of what was set, without defaults: `load` reads it back to an equal object."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def parse(text: str, where: str = f"ConfigMap {CONFIG_MAP}") -> dict[str, Any]:
    """The mapping in a ConfigMap's configuration; UserError if it is none."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a configuration is a mapping of keys, found {type(tree).__name__}")
    return tree


def _adopt(tree: dict[str, Any], present: dict[str, Any], path: list[str]) -> None:
    """Copy one key from `present`, unless `tree` has it; sections are merged key by key."""
    value: Any = present
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return
        value = value[part]
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):  # nonsense of the user's, which validation will name
            return
        node = child
    last = path[-1]
    if isinstance(value, dict) and isinstance(node.get(last), dict):
        for key in value:
            _adopt(node, {last: value}, [last, key])
    else:
        node.setdefault(last, value)

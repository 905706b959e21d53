"""What the tests of `zeroq submit`, `zeroq status --k8s` and `zeroq logs` share: two fixtures.

`fake`: an API server on which deploy/k8s was applied. `zeroq`: run a command of the command line against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher import cli
from tests.unit.fake_kubernetes import FakeKubernetes

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes" / "configs" / "k8s.yaml"
LOCAL = ROOT / "recipes" / "configs" / "cpu_demo.yaml"
WORKLOADS = {
    "broker": "statefulsets",
    "learner": "statefulsets",
    "actor": "deployments",
    "evaluator": "deployments",
    "evaluator-models": "deployments",
    "autoscaler": "deployments",
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster on which deploy/k8s was applied."""
    with FakeKubernetes() as server:
        for role, resource in WORKLOADS.items():
            add = server.add_deployment if resource == "deployments" else server.add_statefulset
            room = {"broker": "control", "autoscaler": "control", "evaluator-models": "evaluator"}.get(role, role)
            add(f"zeroq-{role}", 2 if role == "actor" else 1, role, f"registry/team/zeroq/{room}:0.1.0")
        server.add_lease()
        server.put("configmaps", {"metadata": {"name": "zeroq-config"}, "data": {"config.yaml": CONFIG.read_text()}})
        kubeconfig = str(server.kubeconfig(tmp_path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
        monkeypatch.setattr("launcher.k8s.client._FIRST_WAIT_S", 0.01)
        yield server


@pytest.fixture
def zeroq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")  # tables that do not wrap

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run

"""`kubectl apply` of the manifests, by the real kubectl, against a server that keeps and checks but runs nothing."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_api_server import Cluster, kubernetes_validate, serving
from manifests import PLAIN, built, plain

NEWEST = "1.36"
TIMEOUT_S = 120


def apply(url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed here")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": ""}}],
        "current-context": "fake",
    }
    (home / "kubeconfig").write_text(yaml.safe_dump(config))
    command = [kubectl, "--kubeconfig", str(home / "kubeconfig"), "--cache-dir", str(home / "cache"), "apply"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, env={"HOME": str(home)}, check=False
    )


def said_to_be_changed(output: str) -> list[str]:
    """Objects that kubectl did not call unchanged. Of disruption budgets it always says "configured" and sends the
    selector that is there."""
    return [
        line
        for line in output.splitlines()
        if not line.endswith(" unchanged") and not line.startswith("poddisruptionbudget.policy/")
    ]


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    """The package parses its definitions anew for every object."""
    with pytest.MonkeyPatch.context() as patch:
        read = functools.lru_cache(maxsize=40)(kubernetes_validate.utils.schema_contents)
        patch.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


def test_the_plain_folder_applies_in_one_go_and_the_second_time_changes_nothing(tmp_path: Path) -> None:
    cluster = Cluster(NEWEST)
    with serving(cluster) as url:
        first = apply(url, tmp_path, "-f", str(PLAIN))
        assert (first.returncode, first.stderr) == (0, "")
        assert len(cluster.created) == len(plain()) == len(first.stdout.splitlines())
        second = apply(url, tmp_path, "-f", str(PLAIN))
    assert (second.returncode, second.stderr) == (0, "")
    assert not said_to_be_changed(second.stdout)
    assert not cluster.changed


def test_an_overlay_applies_to_an_empty_cluster_twice(tmp_path: Path) -> None:
    folder = "overlays/cpu"
    cluster = Cluster(NEWEST)
    with serving(cluster) as url:
        first = apply(url, tmp_path, "-k", str(PLAIN / folder))
        assert (first.returncode, first.stderr) == (0, "")
        second = apply(url, tmp_path, "-k", str(PLAIN / folder))
    assert second.returncode == 0
    assert not said_to_be_changed(second.stdout)
    assert not cluster.changed
    assert len(cluster.created) == len(built(folder))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("kustomization.yaml", "resources: []\n", "apiVersion not set"),
        ("99-x.json", "{}\n", "99-x.json"),
        (
            "99-x.yaml",
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\n",
            "could not find the requested resource",
        ),
        (
            "99-x.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: zeroq}\nspec: {potrs: []}\n",
            "strict decoding error",
        ),
        ("00-a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: zeroq}\n", '"zeroq" not found'),
    ],
    ids=["kustomization", "json", "custom resource", "unknown field", "before the namespace"],
)
def test_what_would_break_the_plain_folder_is_noticed(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    folder = tmp_path / "k8s"
    folder.mkdir()
    shutil.copy(PLAIN / "00-namespace.yaml", folder)
    (folder / name).write_text(text)
    with serving(Cluster(NEWEST)) as url:
        done = apply(url, tmp_path, "-f", str(folder))
    assert done.returncode == 1
    assert complaint in done.stderr

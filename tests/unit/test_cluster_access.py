"""Getting at the API server: what can be wrong with a kubeconfig, TLS, tokens, and answers that do not arrive whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from common.errors import UserError
from launcher.k8s.client import Cluster, connect
from launcher.k8s.errors import Unavailable, Untrusted, retry_after
from tests.unit.fake_kubernetes import CUT, FakeKubernetes, Fault


@pytest.fixture
def fake() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as server:
        server.add_deployment("zeroq-actor", 1, "actor")
        yield server


def connected(monkeypatch: pytest.MonkeyPatch, path: Path, patience_s: float = 0.0, **options: Any) -> Cluster:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return connect(patience_s=patience_s, **options)


def kubeconfig(fake: FakeKubernetes, folder: Path, **changes: Any) -> Path:
    """The fake's kubeconfig with another `cluster`, or another `user`."""
    path = fake.kubeconfig(folder)
    tree = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        tree[f"{key}s"][0][key] = value
    path.write_text(yaml.safe_dump(tree))
    return path


def exec_plugin(command: str) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": command, "args": [], "interactiveMode": "Never"}}


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (exec_plugin("no-such-plugin"), "no credentials: .*no-such-plugin"),
        (exec_plugin("false"), "no credentials: exec: process returned 1"),
        ({"tokenFile": "/no/such/token"}, "/no/such/token"),
        (
            {"auth-provider": {"name": "gcp", "config": {}}},
            "a way of logging in that the official client does not know",
        ),
    ],
)
def test_credentials_that_are_not_there(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, Any], says: str
) -> None:
    """The official client logs an error, and asks as nobody."""
    with pytest.raises(UserError, match=says) as error:
        connected(monkeypatch, kubeconfig(fake, tmp_path, user=user))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "hello", "{{{: [\n a: b\n", "{}"])
def test_files_that_are_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot use the kubeconfig") as error:
        connected(monkeypatch, path)
    assert "\n" not in str(error.value)


def test_a_client_certificate_that_is_not_there(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found out at the first request, as an API server that does not answer."""
    path = kubeconfig(
        fake,
        tmp_path,
        cluster={"server": fake.url.replace("http", "https"), "insecure-skip-tls-verify": True},
        user={"client-certificate": str(tmp_path / "no.crt"), "client-key": str(tmp_path / "no.key")},
    )
    with pytest.raises(UserError, match=r"no\.crt"):
        connected(monkeypatch, path)


@pytest.mark.parametrize("cluster", [{}, {"certificate-authority-data": "bm90IGEgY2VydGlmaWNhdGU="}])
def test_tls_that_cannot_be_agreed_upon_is_not_waited_for(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: dict[str, Any]
) -> None:
    path = kubeconfig(fake, tmp_path, cluster={"server": fake.url.replace("http", "https"), **cluster})
    began = time.monotonic()
    with connected(monkeypatch, path, 30.0) as connection, pytest.raises(Untrusted, match="certificate-authority in"):
        connection.pods("a=b")
    assert time.monotonic() - began < 10.0


def test_an_answer_that_is_cut_off_is_asked_for_again(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.k8s.client._FIRST_WAIT_S", 0.01)
    fake.faults.append(Fault(CUT, "GET", "/scale", times=2))
    with connected(monkeypatch, fake.kubeconfig(tmp_path), 10.0) as connection:
        assert connection.scale("zeroq-actor")["spec"] == {"replicas": 1}
    fake.faults.append(Fault(CUT, "GET", "/scale"))
    with (
        connected(monkeypatch, fake.kubeconfig(tmp_path)) as connection,
        pytest.raises(Unavailable, match="is cut off"),
    ):
        connection.scale("zeroq-actor")


def test_a_server_that_asks_for_no_patience_is_not_hammered(
    fake: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.k8s.client._FIRST_WAIT_S", 0.2)
    fault = Fault(429, "GET", "/scale", times=1000, headers={"Retry-After": "0"})
    fake.faults.append(fault)
    with connected(monkeypatch, fake.kubeconfig(tmp_path), 1.0) as connection, pytest.raises(Unavailable):
        connection.scale("zeroq-actor")
    assert 1000 - fault.times <= 8


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("-1", 0.0), ("nan", None), ("inf", 3600.0), ("Wed, 21 Oct", None), (None, None)]
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after({} if value is None else {"Retry-After": value}) == seconds
    assert retry_after(None) is None


def test_a_rotated_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet replaces a service account's token within the hour; a file that is being replaced is no crash."""
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text(f"first-{name}")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))

    ahead = timedelta(0)
    clock = SimpleNamespace(now=lambda: datetime.now() + ahead)
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=clock, timedelta=timedelta))
    with connect(in_cluster=True, patience_s=0.0) as cluster:
        settings = cluster.connection.configuration.auth_settings

        def token() -> str:
            return str(settings()["BearerToken"]["value"])

        assert token() == "bearer first-token"
        (tmp_path / "token").write_text("second-token")
        ahead += timedelta(minutes=2)
        assert token() == "bearer second-token"
        (tmp_path / "token").write_text("")
        ahead += timedelta(minutes=2)
        with pytest.raises(Unavailable, match="this pod's service account: Token file exists but empty"):
            cluster.pods("a=b")

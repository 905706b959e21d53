"""A control plane of one's own: etcd, kube-apiserver, kube-controller-manager, kube-scheduler as child processes.

The binaries are looked for where controller-runtime's tests have them: the folder `KUBEBUILDER_ASSETS` (setup-envtest
makes one with etcd, kube-apiserver and kubectl), then PATH. Without the last two daemons objects are stored and nothing
acts on them. Nothing here needs root. A kubelet of one's own: tests/cluster/node.py.

`python -m tests.cluster.control_plane DIR` keeps one running until Ctrl-C and says where its kubeconfig is.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

DAEMONS = ("etcd", "kube-apiserver")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
_CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}
_START_S = 90


def binary(name: str) -> str | None:
    """The path of a daemon or of kubectl; None where there is none."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if folder and (Path(folder) / name).is_file():
        return str(Path(folder) / name)
    return shutil.which(name) if name != "kubectl" or not folder else None


def missing(names: Sequence[str] = DAEMONS + CONTROLLERS) -> list[str]:
    """Which of these binaries are not here."""
    return [name for name in names if binary(name) is None]


class ControlPlane:
    """A control plane in `folder`, with `address` as its node's; a context manager.

    `service_range`: addresses of Services, a /16. `port`: the API server's; a free one if None. `admin`: kubeconfig of
    a system:masters user.
    """

    def __init__(
        self, folder: Path, address: str = "127.0.0.1", service_range: str = "10.96.0.0/16", port: int | None = None
    ) -> None:
        self.folder, self.address, self.service_range = folder, address, service_range
        self.pki = folder / "pki"
        self.port = port or _free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{self.address}:{self.port}"

    @property
    def admin(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    def __enter__(self) -> ControlPlane:
        self.pki.mkdir(parents=True)
        self._make_keys()
        try:
            self._start_etcd()
            self._start_api_server()
            self._wait()
            for name in CONTROLLERS:
                if path := binary(name):
                    self._start_controllers(name, path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl says as the administrator. Raises RuntimeError with its error unless `check` is False."""
        command = [binary("kubectl") or "kubectl", "--kubeconfig", str(self.admin), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode and check:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout + (done.stderr if not check else "")

    def get(self, *arguments: str) -> dict[str, object]:
        """Objects as the API server has them: `get("pods", "-A")`."""
        answer: dict[str, object] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return answer

    def version(self) -> tuple[int, int]:
        """The API server's, such as (1, 32)."""
        server = json.loads(self.kubectl("version", "-o", "json"))["serverVersion"]
        return int(server["major"]), int(server["minor"].rstrip("+"))

    def add_client(self, name: str, subject: str) -> Path:
        """A certificate of `subject` (/O=group/CN=user), as a kubeconfig."""
        self._sign(name, subject)
        return self._kubeconfig(name)

    def _make_keys(self) -> None:
        _openssl("genrsa", "-out", "ca.key", "2048", folder=self.pki)
        _openssl(
            *("req", "-x509", "-new", "-key", "ca.key", "-days", "3", "-subj", "/CN=tests", "-out", "ca.crt"),
            folder=self.pki,
        )
        _openssl("genrsa", "-out", "accounts.key", "2048", folder=self.pki)
        first = self.service_range.split("/")[0].rsplit(".", 1)[0] + ".1"
        names = [f"IP:{self.address}", "IP:127.0.0.1", f"IP:{first}", "DNS:kubernetes", "DNS:kubernetes.default.svc"]
        self._sign("server", "/CN=kube-apiserver", "subjectAltName=" + ",".join(dict.fromkeys(names)))
        for name, subject in _CLIENTS.items():
            self.add_client(name, subject)

    def _sign(self, name: str, subject: str, extension: str = "extendedKeyUsage=clientAuth") -> None:
        (self.pki / f"{name}.ext").write_text(extension + "\n")
        _openssl("genrsa", "-out", f"{name}.key", "2048", folder=self.pki)
        _openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr", folder=self.pki)
        _openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "3", "-extfile", f"{name}.ext", "-out", f"{name}.crt"),
            folder=self.pki,
        )

    def _kubeconfig(self, name: str) -> Path:
        def data(file: str) -> str:
            return base64.b64encode((self.pki / file).read_bytes()).decode()

        cluster = {"server": self.url, "certificate-authority-data": data("ca.crt")}
        user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "tests", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
                    "current-context": "tests",
                }
            )
        )
        path.chmod(0o600)
        return path

    def _start(self, name: str, path: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [path, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def _start_etcd(self) -> None:
        self.etcd = f"http://127.0.0.1:{_free_port()}"
        peer = f"http://127.0.0.1:{_free_port()}"
        self._start(
            *("etcd", binary("etcd") or "etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync"),
            *(f"--listen-client-urls={self.etcd}", f"--advertise-client-urls={self.etcd}"),
            *(
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ),
        )

    def _start_api_server(self) -> None:
        pki = self.pki
        self._start(
            *("kube-apiserver", binary("kube-apiserver") or "kube-apiserver", f"--etcd-servers={self.etcd}"),
            *(f"--bind-address={self.address}", f"--advertise-address={self.address}", f"--secure-port={self.port}"),
            *(f"--client-ca-file={pki}/ca.crt", f"--cert-dir={self.folder}"),
            *(f"--tls-cert-file={pki}/server.crt", f"--tls-private-key-file={pki}/server.key"),
            *(f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key"),
            *(
                f"--service-account-key-file={pki}/accounts.key",
                f"--service-account-signing-key-file={pki}/accounts.key",
            ),
            *("--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC"),
            *(f"--service-cluster-ip-range={self.service_range}", "--enable-admission-plugins=NodeRestriction"),
            *(
                "--allow-privileged=true",
                "--kubelet-preferred-address-types=InternalIP",
                "--endpoint-reconciler-type=none" if self._loopback else "--v=1",
            ),
        )

    @property
    def _loopback(self) -> bool:
        """An API server may not name a loopback address as its endpoint."""
        return self.address.startswith("127.")

    def _start_controllers(self, name: str, path: str) -> None:
        role = name.removeprefix("kube-")
        arguments = [f"--kubeconfig={self.folder / f'{role}.kubeconfig'}", "--leader-elect=false"]
        arguments += [f"--secure-port={_free_port()}", "--bind-address=127.0.0.1", f"--cert-dir={self.folder}"]
        if role == "controller-manager":
            arguments += [
                f"--root-ca-file={self.pki}/ca.crt",
                f"--service-account-private-key-file={self.pki}/accounts.key",
            ]
            arguments += ["--use-service-account-credentials=true", "--terminated-pod-gc-threshold=50"]
        self._start(name, path, *arguments)

    def _wait(self) -> None:
        until = time.monotonic() + _START_S
        while self.kubectl("get", "--raw", "/readyz", check=False).strip() != "ok":
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.tail(name)}")
            if time.monotonic() > until:
                raise RuntimeError(f"the API server is not ready after {_START_S} s:\n{self.tail('kube-apiserver')}")
            time.sleep(0.5)

    def tail(self, name: str) -> str:
        """The last lines of a daemon's log."""
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def _openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Keep a control plane running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("--address", default="127.0.0.1", help="this node's; pods reach the API server there")
    arguments = parser.parse_args()
    if absent := missing():
        print(f"error: {', '.join(absent)}: not in $KUBEBUILDER_ASSETS nor on PATH", file=sys.stderr)
        return 2
    with ControlPlane(arguments.folder, arguments.address) as plane:
        print(f"export KUBECONFIG={plane.admin}", flush=True)
        wait_for_a_stop()
    return 0


def wait_for_a_stop() -> None:
    """Until SIGINT or SIGTERM comes; what was started is ended by those who started it."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


if __name__ == "__main__":
    sys.exit(main())

"""One real node under a control plane of one's own: containerd, kubelet, kube-proxy and a name server, on this machine.

Needs root, containerd, runc, the CNI plug-ins (Debian: containernetworking-plugins), dnsmasq, iptables, and images for
containerd, that of `PAUSE` among them. Everything runs in a network namespace of its own: no packet of a pod leaves it.
The name server answers for Services and for the pods of headless ones, from what the API server says, as a cluster's
own does. No network plug-in that enforces policies is among Debian's packages: what policies allow is the matter of
tests/unit/test_k8s_network.py.

    python -m tests.cluster.node DIR IMAGE.tar...       a control plane and a node, until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane, binary, missing, wait_for_a_stop
from tests.cluster.policies import Policies
from tests.unit.manifests import objects

NAMESPACE = "zeroq-cluster"
ADDRESS = "10.250.0.1"
API_PORT = 6443
NAME = "here"
PODS = "10.244.0.0/24"
NAME_SERVER = "10.96.0.10"
STORAGE = "local"
PAUSE = "localhost/pause:1"
"""What holds a pod's namespaces; build/pause of Kubernetes's sources makes it."""
_CNI = "/usr/lib/cni"
_NEEDS = ("containerd", "ctr", "runc", "dnsmasq", "iptables", "ip", "nsenter", "kubelet", "kube-proxy")


@contextlib.contextmanager
def network() -> Iterator[None]:
    """The network namespace, with the node's address on it; this process moves into it for good."""
    _run("ip", "netns", "add", NAMESPACE)
    try:
        with open(f"/run/netns/{NAMESPACE}") as there:  # os.setns comes with Python 3.12
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "node0", "type", "bridge")
        _run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
        _run("ip", "link", "set", "node0", "up")
        _run("ip", "route", "add", "default", "via", ADDRESS, "dev", "node0")  # kubelet wants one; nobody is there
        for key in ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables"):
            Path(f"/proc/sys/net/{key}").write_text("1")
        yield
    finally:
        _run("ip", "netns", "delete", NAMESPACE)


class Node:
    """kubelet and what it needs, for `plane`; a context manager inside `network()`. `images`: archives for containerd.

    `store`: where containerd keeps images, for a node that comes back; in the control plane's folder otherwise.
    """

    def __init__(self, plane: ControlPlane, images: list[Path], store: Path | None = None) -> None:
        self.plane, self.images = plane, images
        self.folder = plane.folder / "node"
        self.store = store or self.folder / "containerd"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._before = _network_namespaces()
        self._ended = threading.Event()
        self._names = threading.Thread(target=self._follow_names, daemon=True)

    def __enter__(self) -> Node:
        self.folder.mkdir()
        try:
            self._start_containerd()
            for image in self.images:
                self._ctr("images", "import", str(image))
            self._storage()
            self._start_names()
            self._start_kubelet()
            _until(self._ready, f"node {NAME}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> bool:
        return NAME in self.plane.kubectl("get", "nodes") and " Ready " in self.plane.kubectl("get", "nodes")

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for name in ("kubelet", "kube-proxy", "dnsmasq"):
            self._stop(name)
        if "containerd" in self.processes:
            for task in self._ctr("tasks", "list", "-q").split():
                self._ctr("tasks", "kill", "--all", "-s", "KILL", task, check=False)
            time.sleep(1)
            for container in self._ctr("containers", "list", "-q").split():
                self._ctr("tasks", "delete", "--force", container, check=False)
                self._ctr("containers", "delete", container, check=False)
        self._stop("containerd")
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounted if path.startswith(str(self.folder))), reverse=True):
            _run("umount", "--lazy", path, check=False)
        for name in _network_namespaces() - self._before:
            _run("ip", "netns", "delete", name, check=False)
        for top in Path("/sys/fs/cgroup").glob("**/kubepods"):
            for group in [*sorted(top.glob("**/"), reverse=True)]:
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _stop(self, name: str) -> None:
        if process := self.processes.pop(name, None):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [binary(name) or name, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _ctr(self, *arguments: str, check: bool = True) -> str:
        return _run("ctr", "-a", f"{self.folder}/containerd.sock", "-n", "k8s.io", *arguments, check=check)

    def _start_containerd(self) -> None:
        cni = self.folder / "cni"
        cni.mkdir()
        (cni / "10-bridge.conflist").write_text(
            json.dumps(
                {
                    "cniVersion": "0.4.0",
                    "name": "pods",
                    "plugins": [
                        {
                            "type": "bridge",
                            "bridge": "pods0",
                            "isDefaultGateway": True,
                            "hairpinMode": True,
                            "ipam": {"type": "host-local", "subnet": PODS, "dataDir": str(self.folder / "ipam")},
                        },
                        {"type": "portmap", "capabilities": {"portMappings": True}},
                    ],
                }
            )
        )
        (self.folder / "containerd.toml").write_text(f"""
version = 2
root = "{self.store}"
state = "{self.folder}/state"
[grpc]
  address = "{self.folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_CNI}"
    conf_dir = "{cni}"
""")
        self._start("containerd", "--config", str(self.folder / "containerd.toml"))
        _until(lambda: (self.folder / "containerd.sock").exists(), "containerd's socket")

    def _storage(self) -> None:
        """The default storage class, and local volumes for whoever claims one (a local one takes the pod's fsGroup)."""
        storage_class = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        volumes = []
        for number, size in enumerate(["5Gi", "20Gi", "20Gi", "50Gi", "50Gi"]):
            path = self.folder / "volumes" / str(number)
            path.mkdir(parents=True)
            here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
            spec = {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": STORAGE,
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(path)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            }
            volumes.append(
                {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"v{number}"}, "spec": spec}
            )
        for item in [storage_class, *volumes]:
            self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(item))

    def _start_kubelet(self) -> None:
        kubeconfig = self.plane.add_client("kubelet", f"/O=system:nodes/CN=system:node:{NAME}")
        (self.folder / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
        (self.folder / "kubelet.json").write_text(
            json.dumps(
                {
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "kind": "KubeletConfiguration",
                    "authentication": {
                        "anonymous": {"enabled": False},
                        "x509": {"clientCAFile": str(self.plane.pki / "ca.crt")},
                    },
                    "cgroupDriver": "cgroupfs",
                    "clusterDNS": [NAME_SERVER],
                    "clusterDomain": "cluster.local",
                    "failSwapOn": False,
                    "resolvConf": str(self.folder / "resolv.conf"),
                    "evictionHard": {"memory.available": "200Mi", "nodefs.available": "2%"},
                    "imageGCHighThresholdPercent": 100,
                }
            )
        )
        arguments = [f"--config={self.folder}/kubelet.json", f"--kubeconfig={kubeconfig}", f"--node-ip={ADDRESS}"]
        arguments += [f"--hostname-override={NAME}", f"--root-dir={self.folder}/kubelet", f"--cert-dir={self.folder}"]
        arguments += [f"--container-runtime-endpoint=unix://{self.folder}/containerd.sock"]
        if self.plane.version() < (1, 27):
            arguments += ["--container-runtime=remote"]
        self._start("kubelet", *arguments)
        proxy = [f"--kubeconfig={self.plane.folder / 'proxy.kubeconfig'}", f"--hostname-override={NAME}"]
        proxy += [f"--cluster-cidr={PODS}", "--proxy-mode=iptables", "--conntrack-max-per-core=0"]
        proxy += ["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"]
        self._start("kube-proxy", *proxy)

    def _start_names(self) -> None:
        """dnsmasq at the cluster's usual address, behind a Service as in any cluster."""
        (self.folder / "hosts").write_text("")
        self._start(
            *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", f"--addn-hosts={self.folder}/hosts"),
            *(
                f"--listen-address={ADDRESS}",
                "--bind-interfaces",
                "--user=root",
                "--local=/cluster.local/",
                "--pid-file=",
            ),
        )
        ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": NAME_SERVER, "ports": ports},
        }
        endpoints = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "subsets": [{"addresses": [{"ip": ADDRESS}], "ports": ports}],
        }
        for item in (service, endpoints):
            self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(item))
        self._names.start()

    def _follow_names(self) -> None:
        before = ""
        while not self._ended.wait(1):
            try:
                now = "\n".join(_names(self.plane)) + "\n"
            except (RuntimeError, subprocess.TimeoutExpired, json.JSONDecodeError):
                continue  # the API server is busy or going; the next second will tell
            if now != before:
                (self.folder / "hosts").write_text(now)
                self.processes["dnsmasq"].send_signal(signal.SIGHUP)
                before = now


def _names(plane: ControlPlane) -> list[str]:
    """Lines of a hosts file: Services by their address, pods of headless ones by their host name."""
    lines = []
    items: list[dict] = plane.get("services,endpoints", "-A")["items"]  # type: ignore[assignment,type-arg]
    headless = set()
    for item in items:
        meta = item["metadata"]
        domain = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
        if item["kind"] == "Service":
            if item["spec"].get("clusterIP") == "None":
                headless.add((meta["namespace"], meta["name"]))
            else:
                lines.append(f"{item['spec']['clusterIP']} {domain}")
    for item in items:
        meta = item["metadata"]
        if item["kind"] != "Endpoints" or (meta["namespace"], meta["name"]) not in headless:
            continue
        domain = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
        for subset in item.get("subsets", []):
            for address in subset.get("addresses", []):
                lines.append(f"{address['ip']} {domain}")
                if address.get("hostname"):
                    lines.append(f"{address['ip']} {address['hostname']}.{domain}")
    return sorted(lines)


def _network_namespaces() -> set[str]:
    return {line.split()[0] for line in _run("ip", "netns", "list").splitlines()}


def _until(condition, what: str, timeout_s: float = 60) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"{what}: not there after {timeout_s:.0f} s")
        time.sleep(0.2)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode and check:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def main() -> int:
    """Keep a node running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE.tar", help="images for containerd, with pause")
    parser.add_argument("--policies", metavar="FOLDER", help="enforce those of this folder of deploy/k8s")
    parser.add_argument("--store", type=Path, help="keep images in this folder, for the next time")
    arguments = parser.parse_args()
    absent = missing() + [name for name in _NEEDS if binary(name) is None and shutil.which(name) is None]
    if absent:
        print(f"error: {', '.join(absent)}: not in $KUBEBUILDER_ASSETS nor on PATH", file=sys.stderr)
        return 2
    with (
        network(),
        ControlPlane(arguments.folder, ADDRESS, port=API_PORT) as plane,
        Node(plane, arguments.images, arguments.store),
        enforced(plane, arguments.policies) as policies,
    ):
        print(f"export KUBECONFIG={plane.admin}; network namespace {NAMESPACE}", flush=True)
        wait_for_a_stop()
        if policies is not None:
            print("dropped since the last change of pods:", policies.dropped(), flush=True)
    return 0


@contextlib.contextmanager
def enforced(plane: ControlPlane, folder: str | None) -> Iterator[Policies | None]:
    """The NetworkPolicies of a folder of deploy/k8s in force; None: of none."""
    if folder is None:
        yield None
        return

    def pods() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = plane.get("pods", "-A")["items"]  # type: ignore[assignment]
        return items

    with Policies(objects(folder), pods, ADDRESS) as policies:
        yield policies


if __name__ == "__main__":
    sys.exit(main())

"""NetworkPolicies in force on the node of tests/cluster/node.py: nftables rules, renewed as pods come and go.

A stand-in for a network plug-in, read strictly: what no policy allows is dropped, ports are those behind a Service, and
blocks of addresses do not mean pods. The node itself reaches every pod, as probes must. The name server of the node
counts as the pod that clusters label `k8s-app: kube-dns`. It reads the manifests and not the server's objects, since an
older server has dropped `endPort`.
"""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from tests.unit.manifests import Manifest, matches, of_kind

TABLE = "zeroq_policies"
_ROUND_S = 0.5
_ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class Pod:
    """One end of a connection."""

    address: str
    labels: tuple[tuple[str, str], ...]
    namespace: str = "zeroq"

    def is_in(self, peer: Manifest) -> bool:
        """Whether a peer of a rule in the namespace `zeroq` means this pod."""
        if "ipBlock" in peer:
            return False
        here = {"matchLabels": {"kubernetes.io/metadata.name": "zeroq"}}
        space = {"kubernetes.io/metadata.name": self.namespace}
        return matches(peer.get("namespaceSelector", here), space) and matches(
            peer.get("podSelector", {}), dict(self.labels)
        )


def rules(manifests: list[Manifest], pods: list[Pod]) -> str:
    """An nft script that replaces the table: a chain for each side of each pod of the namespace. A packet that a side
    allows returns from its chain and meets the other side's; at a chain's end it is counted and dropped."""
    policies = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    chains, jumps = [], []
    for number, pod in enumerate(pod for pod in pods if pod.namespace == "zeroq"):
        for direction, own, other in (("Egress", "saddr", "daddr"), ("Ingress", "daddr", "saddr")):
            chosen = [
                p for p in policies if direction in p["policyTypes"] and matches(p["podSelector"], dict(pod.labels))
            ]
            if not chosen:
                continue
            name = f"{direction.lower()}_{number}"
            lines = [
                f"    ip {other} {source} {ports} return"
                for policy in chosen
                for rule in policy.get(direction.lower(), [])
                for source in _sources(rule.get("to" if direction == "Egress" else "from"), pods, other)
                for ports in _ports(rule.get("ports"))
            ]
            component = dict(pod.labels).get("app.kubernetes.io/component", "?")
            lines.append(f'    counter drop comment "{direction} of {component} {pod.address}"')
            chains.append(f"  chain {name} {{\n" + "\n".join(lines) + "\n  }")
            jumps.append(f"    ip {own} {pod.address} jump {name}")
    known = "    ct state established,related accept"
    hooks = [
        f"  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n{known}\n"
        + "\n".join(jumps)
        + "\n  }"
        for hook in ("forward", "input")
    ]
    whole = "\n".join([*chains, *hooks])
    return f"table ip {TABLE} {{}}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n{whole}\n}}\n"


def _sources(peers: list[Manifest] | None, pods: list[Pod], side: str) -> list[str]:
    if peers is None:
        return [_ANYWHERE]
    found = [pod.address for pod in pods if any(pod.is_in(peer) for peer in peers)]
    lines = ["{ " + ", ".join(found) + " }"] if found else []
    for block in (peer["ipBlock"] for peer in peers if "ipBlock" in peer):
        if ":" not in block["cidr"]:
            inside = [pod.address for pod in pods if pod.namespace == "zeroq"]
            holes = ", ".join([*block.get("except", []), *inside])  # ours may not rely on a block's meaning pods
            lines.append(f"{block['cidr']}" + (f" ip {side} != {{ {holes} }}" if holes else ""))
    return lines


def _ports(ports: list[Manifest] | None) -> list[str]:
    if ports is None:
        return [""]
    return [
        f"{port['protocol'].lower()} dport {port['port']}" + (f"-{port['endPort']}" if "endPort" in port else "")
        for port in ports
    ]


class Policies:
    """Keeps the rules of `manifests` in force; a context manager. `list_pods`: pods as the API server has them."""

    def __init__(self, manifests: list[Manifest], list_pods: Any, name_server: str) -> None:
        self._manifests, self._list_pods = manifests, list_pods
        self._names = Pod(name_server, (("k8s-app", "kube-dns"),), "kube-system")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._in_force: list[Pod] | None = None

    def __enter__(self) -> Policies:
        self.renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        subprocess.run(["nft", "delete", "table", "ip", TABLE], check=False, capture_output=True)

    def renew(self) -> None:
        """Put the rules for the pods of this moment in force, if these are others than before."""
        pods = [self._names]
        for item in self._list_pods():
            address = (item.get("status") or {}).get("podIP")
            if address and item["status"].get("phase") in ("Pending", "Running"):
                labels = tuple(sorted((item["metadata"].get("labels") or {}).items()))
                pods.append(Pod(address, labels, item["metadata"]["namespace"]))
        if pods != self._in_force:
            subprocess.run(["nft", "-f", "-"], input=rules(self._manifests, pods), text=True, check=True)
            self._in_force = pods

    def dropped(self) -> dict[str, int]:
        """Packets dropped since the rules were last renewed, by side, component and address."""
        listed = subprocess.run(
            ["nft", "list", "table", "ip", TABLE], capture_output=True, text=True, check=True
        ).stdout
        counts = {}
        for line in listed.splitlines():
            if "drop comment" in line:
                count = int(line.split("packets ")[1].split()[0])
                counts[line.split('"')[1]] = count
        return {side: count for side, count in counts.items() if count}

    def _follow(self) -> None:
        while not self._ended.wait(_ROUND_S):
            try:
                self.renew()
            except (RuntimeError, subprocess.SubprocessError, ValueError):
                continue  # the API server is busy or going; the next round will tell

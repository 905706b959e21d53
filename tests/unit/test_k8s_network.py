"""Who may talk to whom, computed from the NetworkPolicies: exactly the edges of the river, at both ends.

A connection is possible if the policies of its source let it out and those of its target let it in; a pod that no
policy of a direction selects is open in that direction. Everything else is asked of every pair of pods and every port.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from itertools import product
from typing import Literal

import pytest
from manifests import PLAIN, SOURCES, Manifest, built, matches, named, objects, of_kind, plain, pod_templates

NCCL = range(40000, 41000)
METRICS = 9400
OF_OURS = ["broker", "learner", "actor", "evaluator", "evaluator-models", "autoscaler"]
RIVER: dict[tuple[str, str], set[int]] = {
    ("learner", "broker"): {7601},
    ("actor", "broker"): {7602},
    ("evaluator", "broker"): {7603},
    ("evaluator-models", "broker"): {7603},
    ("autoscaler", "broker"): {7604},
    ("actor", "learner"): {7610, 7611, *NCCL},
    ("learner", "actor"): {*NCCL},
    ("actor", "actor"): {*NCCL},
    ("learner", "learner"): {7620, *NCCL},
    ("grafana", "prometheus"): {9090},
} | {("prometheus", component): {METRICS} for component in OF_OURS}

PORTS = {22, 80, 443, 3000, 6443, 8443, 16443, 7600, 7601, 7602, 7603, 7604, 7605, 7610, 7611, 7620, 9090, METRICS}
PORTS |= {39999, 40000, 40500, 40999, 41000, 53, 29500, 32768, 60999}

API_PORTS = {443, 6443, 8443, 16443}
"""Its own ports, which policies see, not the service's: of kubeadm, kind, k3s and clouds, of minikube, of MicroK8s."""
DNS, API_SERVER, JUDGES, METADATA = "10.96.0.10", "10.0.0.1", "203.0.113.7", "169.254.169.254"
OUTSIDE: dict[str, dict[str, set[int]]] = {
    "autoscaler": {API_SERVER: API_PORTS, JUDGES: API_PORTS},
    "prometheus": {API_SERVER: API_PORTS, JUDGES: API_PORTS},
    "evaluator-models": {API_SERVER: {443}, JUDGES: {443}},
}
"""Addresses outside the namespace that a component may reach, and their ports. A policy cannot name the API server."""
RESOLVE = {"learner", "actor", "evaluator-models", "autoscaler", "prometheus", "grafana"}
SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod (labels of pod and namespace), or an address outside."""

    pod: tuple[tuple[str, str], ...] = ()
    namespace: tuple[tuple[str, str], ...] = (("kubernetes.io/metadata.name", "zeroq"),)
    address: str | None = None


def pod(labels: dict[str, str], namespace: dict[str, str] | None = None) -> Peer:
    here = {"kubernetes.io/metadata.name": "zeroq"} if namespace is None else namespace
    return Peer(tuple(labels.items()), tuple(here.items()))


class Policies:
    """The NetworkPolicies of one namespace, as a network plug-in understands them."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.policies = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
        self.pods = {p.component: pod(p.labels) for p in pod_templates(manifests)}

    def allows(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        """Whether `source` can connect to `target` there."""
        out = source.address is not None or self.side("Egress", source, target, port, protocol)
        return out and (target.address is not None or self.side("Ingress", target, source, port, protocol))

    def side(self, direction: str, own: Peer, other: Peer, port: int, protocol: str = "TCP") -> bool:
        """Whether the policies of `own` let it reach (Egress), or be reached by (Ingress), the other."""
        if dict(own.namespace) != {"kubernetes.io/metadata.name": "zeroq"}:
            return True  # other namespaces are not ours to police
        chosen = [
            p for p in self.policies if direction in p["policyTypes"] and matches(p["podSelector"], dict(own.pod))
        ]
        if not chosen:
            return True
        peers, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
        return any(
            self._peers(rule.get(peers), other) and self._ports(rule.get("ports"), port, protocol)
            for policy in chosen
            for rule in policy.get(rules, [])
        )

    @staticmethod
    def _peers(peers: list[Manifest] | None, other: Peer) -> bool:
        return peers is None or any(_is_peer(peer, other) for peer in peers)

    @staticmethod
    def _ports(ports: list[Manifest] | None, port: int, protocol: str) -> bool:
        return ports is None or any(
            p["protocol"] == protocol and p["port"] <= port <= p.get("endPort", p["port"]) for p in ports
        )


def _is_peer(peer: Manifest, other: Peer) -> bool:
    if block := peer.get("ipBlock"):
        if other.address is None:
            return False  # a plug-in may or may not apply blocks to pods; ours never rely on it
        inside = ipaddress.ip_address(other.address) in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            ipaddress.ip_address(other.address) in ipaddress.ip_network(hole) for hole in block.get("except", [])
        )
    if other.address is not None:
        return False
    here = {"matchLabels": {"kubernetes.io/metadata.name": "zeroq"}}
    return matches(peer.get("namespaceSelector", here), dict(other.namespace)) and matches(
        peer.get("podSelector", {}), dict(other.pod)
    )


def matrix(policies: Policies) -> dict[tuple[str, str], set[int]]:
    """Ports that each pod may reach at each other one, of those in PORTS."""
    return {
        (source, target): open_ports
        for source, target in product(policies.pods, repeat=2)
        if (open_ports := {p for p in PORTS if policies.allows(policies.pods[source], policies.pods[target], p)})
    }


def expected(components: set[str]) -> dict[tuple[str, str], set[int]]:
    return {edge: ports & PORTS for edge, ports in RIVER.items() if set(edge) <= components}


@pytest.mark.parametrize(
    "source", ["plain", "overlays/cpu", "overlays/gvisor", "overlays/models", "leaderworkerset", "overlays/combined"]
)
def test_who_may_talk_to_whom_is_the_river(source: str) -> None:
    policies = Policies(objects(source))
    assert matrix(policies) == expected(set(policies.pods))


def test_the_readme_lists_these_edges() -> None:
    text = (PLAIN / "README.md").read_text(encoding="utf-8").partition("## Edges")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("|")]
    listed: dict[tuple[str, str], set[int]] = {}
    for sources, targets, ports in rows[2:]:
        every = (
            "broker, learner, actor, evaluator, evaluator-models, autoscaler" if targets == "all of ours" else targets
        )
        for source, target in product(sources.split(", "), every.split(", ")):
            for part in ports.split(", "):
                first, _, last = part.partition("-")
                listed.setdefault((source, target), set()).update(range(int(first), int(last or first) + 1))
    outside = {edge: ports for edge, ports in listed.items() if edge[1] in ("API server", "judges", "the hub")}
    assert {edge: ports for edge, ports in listed.items() if edge not in outside} == RIVER
    assert outside == {
        ("autoscaler", "API server"): API_PORTS,
        ("prometheus", "API server"): API_PORTS,
        ("evaluator-models", "judges"): {443},
        ("model-fetch", "the hub"): {443},
    }


def test_no_pod_is_forgotten_in_the_river() -> None:
    assert {end for edge in RIVER for end in edge} == set(Policies(plain()).pods)


@pytest.mark.parametrize("direction", ["Egress", "Ingress"])
def test_the_policies_of_each_end_alone_are_the_river(direction: Literal["Egress", "Ingress"]) -> None:
    """No end relies on the other to be as narrow as it should be."""
    policies = Policies(plain())
    found = {}
    for source, target in product(policies.pods, repeat=2):
        own, other = (source, target) if direction == "Egress" else (target, source)
        ports = {p for p in PORTS if policies.side(direction, policies.pods[own], policies.pods[other], p)}
        found |= {(source, target): ports} if ports else {}
    assert found == expected(set(policies.pods))


@pytest.mark.parametrize("edge", sorted(RIVER), ids=lambda edge: f"{edge[0]} to {edge[1]}")
def test_each_end_alone_closes_an_edge(edge: tuple[str, str]) -> None:
    """A rule is needed at both ends: with either end's policies gone (but the deny), nothing passes."""
    source, target = edge
    for direction, own in (("Egress", source), ("Ingress", target)):
        policies = Policies(plain())
        labels = dict(policies.pods[own].pod)
        for spec in policies.policies:
            if spec["podSelector"] and matches(spec["podSelector"], labels):
                spec[direction.lower()] = []
        assert edge not in matrix(policies)


def test_without_the_deny_the_matrix_is_another() -> None:
    manifests = [m for m in plain() if m["metadata"]["name"] != "zeroq-default-deny"]
    policies = Policies(manifests)
    assert matrix(policies) != expected(set(policies.pods))


def test_the_deny_covers_pods_that_nobody_thought_of() -> None:
    policies = Policies(plain())
    stranger = pod({"app": "stranger"})
    for peer in [*policies.pods.values(), Peer(address=JUDGES), stranger]:
        for port in PORTS:
            assert not policies.allows(stranger, peer, port)
            assert peer.address is not None or not policies.allows(peer, stranger, port)


def test_nobody_from_outside_gets_in() -> None:
    policies = Policies(plain())
    others = [pod({"app": "x"}, {"kubernetes.io/metadata.name": "default"}), Peer(address=JUDGES)]
    others.append(pod({"app.kubernetes.io/component": "actor"}, {"kubernetes.io/metadata.name": "default"}))
    for source, target, port in product(others, policies.pods.values(), PORTS):
        assert not policies.allows(source, target, port)


@pytest.mark.parametrize("source", ["plain", "overlays/models"])
def test_who_may_leave_the_namespace(source: str) -> None:
    policies = Policies(objects(source))
    wanted = OUTSIDE | ({"model-fetch": {API_SERVER: {443}, JUDGES: {443}}} if source != "plain" else {})
    for component, peer in policies.pods.items():
        for address in (API_SERVER, JUDGES, METADATA, "fe80::1"):
            found = {port for port in PORTS if policies.allows(peer, Peer(address=address), port)}
            assert found == wanted.get(component, {}).get(address, set()), (component, address)


@pytest.mark.parametrize("source", ["plain", "overlays/models"])
def test_who_may_resolve_names(source: str) -> None:
    policies = Policies(objects(source))
    servers = [pod({"k8s-app": "kube-dns"}, SYSTEM), Peer(address="169.254.20.10")]
    for component, peer in policies.pods.items():
        for server, protocol in product(servers, ("UDP", "TCP")):
            wanted = component in RESOLVE or component == "model-fetch"
            assert policies.allows(peer, server, 53, protocol) is wanted, component
        for other in (pod({"k8s-app": "else"}, SYSTEM), pod({"k8s-app": "kube-dns"}, {"a": "b"}), Peer(address=DNS)):
            assert not policies.allows(peer, other, 53, "UDP"), component


def test_evaluators_reach_the_brokers_port_and_nothing_else() -> None:
    policies = Policies(plain())
    evaluator, broker = policies.pods["evaluator"], policies.pods["broker"]
    places = [
        *policies.pods.values(),
        Peer(address=JUDGES),
        Peer(address=METADATA),
        pod({"k8s-app": "kube-dns"}, SYSTEM),
    ]
    reached = {
        (place, port, protocol)
        for place, port, protocol in product(places, PORTS, ("TCP", "UDP", "SCTP"))
        if policies.allows(evaluator, place, port, protocol)
    }
    assert reached == {(broker, 7603, "TCP")}


@pytest.mark.parametrize("source", SOURCES)
def test_ports_of_nccl_and_gloo_are_held_where_the_policies_let_them_through(source: str) -> None:
    for p in pod_templates(objects(source)):
        sysctls = {s["name"]: s["value"] for s in p.spec["securityContext"].get("sysctls", [])}
        wanted = {"net.ipv4.ip_local_port_range": f"{NCCL[0]} {NCCL[-1]}"}
        assert sysctls == (wanted if p.component in ("learner", "actor") else {}), p.name


def test_keda_reaches_prometheus() -> None:
    policies = Policies(built("keda"))
    keda = pod({"app": "keda-operator"}, {"kubernetes.io/metadata.name": "keda"})
    assert policies.allows(keda, policies.pods["prometheus"], 9090)
    assert not any(policies.allows(keda, policies.pods["broker"], port) for port in PORTS)


def test_the_operators_prometheus_reaches_the_metrics_alone() -> None:
    policies = Policies(plain() + built("prometheus-operator"))
    other = pod({"app.kubernetes.io/name": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"})
    for component in OF_OURS:
        assert {port for port in PORTS if policies.allows(other, policies.pods[component], port)} == {METRICS}


def test_our_prometheus_reaches_the_gpu_exporter() -> None:
    policies = Policies(plain() + built("dcgm"))
    exporter = pod({"app": "nvidia-dcgm-exporter"}, {"kubernetes.io/metadata.name": "gpu-operator"})
    assert policies.allows(policies.pods["prometheus"], exporter, METRICS)
    assert not policies.allows(policies.pods["actor"], exporter, METRICS)


def test_policies_are_no_wider_than_ports() -> None:
    """No rule without ports, none without peers: such a rule opens everything."""
    for policy in of_kind(plain(), "NetworkPolicy"):
        spec = policy["spec"]
        for rule in spec.get("egress", []) + spec.get("ingress", []):
            assert rule["ports"], policy["metadata"]["name"]
            assert rule.get("to") or rule.get("from"), policy["metadata"]["name"]
    deny = named(plain(), "NetworkPolicy", "zeroq-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

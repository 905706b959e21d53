"""Manifests as an API server before the oldest supported release takes them.

zeroq's manifests are for Kubernetes 1.30 and later. The newest API server that Debian has the sources of is 1.20, and
a cluster of those is worth more than none: what it does not know yet is put in its older words, or left out, and every
change is said.

    kubectl kustomize deploy/k8s/overlays/cpu | python -m tests.cluster.older_server 1.20 | kubectl apply -f -
"""

from __future__ import annotations

import argparse
import copy
import sys

import yaml

from tests.unit.manifests import Manifest, load_all, pod_templates


def fit(manifests: list[Manifest], version: tuple[int, int]) -> tuple[list[Manifest], list[str]]:
    """The same objects for this server, and what was changed, a line each; nothing is for 1.30 and later."""
    manifests, changes = copy.deepcopy(manifests), []
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "PodDisruptionBudget":
            if version < (1, 21):
                manifest["apiVersion"] = "policy/v1beta1"
                changes.append(f"{name}: policy/v1beta1")
            if version < (1, 27) and manifest["spec"].pop("unhealthyPodEvictionPolicy", None):
                changes.append(f"{name}: without unhealthyPodEvictionPolicy")
        if manifest["kind"] == "NetworkPolicy" and version < (1, 22):
            rules = [*manifest["spec"].get("egress", []), *manifest["spec"].get("ingress", [])]
            ranges = [port for rule in rules for port in rule.get("ports", []) if port.pop("endPort", None)]
            if ranges:
                changes.append(f"{name}: the first port of {len(ranges)} ranges")
    if version < (1, 28):
        for template in pod_templates(manifests):
            for container in template.containers:
                for variable in container.get("env", []):
                    reference = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
                    if "pod-index" in reference:  # a label that the StatefulSet controller sets since 1.28
                        del variable["valueFrom"]
                        variable["value"] = "0"
                        changes.append(f"{template.name}, {container['name']}: {variable['name']}=0")
    return manifests, changes


def main() -> int:
    """Standard input to standard output; the changes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", metavar="MAJOR.MINOR", help="the server's, such as 1.20")
    major, minor = parser.parse_args().version.split(".")
    manifests, changes = fit(load_all(sys.stdin.read()), (int(major), int(minor)))
    yaml.safe_dump_all(manifests, sys.stdout)
    print(*changes, sep="\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

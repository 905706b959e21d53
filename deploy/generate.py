"""Writes the manifests that have their content from elsewhere: `python deploy/generate.py [--check]`.

    recipes/configs/k8s.yaml, k8s_cpu.yaml  -->  the ConfigMap zeroq-config, also of overlays/cpu
    deploy/prometheus/rules.yaml            -->  k8s/31-prometheus-rules.yaml, and the operator's PrometheusRule
    deploy/grafana/dashboards/*.json        -->  k8s/33-grafana-dashboards.yaml, one ConfigMap each
    deploy/k8s/*.yaml                       -->  k8s/overlays/base/zeroq.yaml, all in one

The last is for kustomize, which accepts no file from outside a kustomization's folder, while a kustomization in
deploy/k8s itself would break `kubectl apply -f deploy/k8s`. `--check` writes nothing and exits 1 when a file is not
what would be written; tests/unit/test_k8s_generated.py does the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ROOT / "deploy" / "k8s"
CONFIGS = ROOT / "recipes" / "configs"
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"

CONFIG_FILE = PLAIN / "10-config.yaml"
RULES_FILE = PLAIN / "31-prometheus-rules.yaml"
DASHBOARDS_FILE = PLAIN / "33-grafana-dashboards.yaml"
BASE_FILE = PLAIN / "overlays" / "base" / "zeroq.yaml"
CPU_FILE = PLAIN / "overlays" / "cpu" / "component" / "config.yaml"
OPERATOR_FILE = PLAIN / "prometheus-operator" / "rules.yaml"

MAX_BYTES = 256 * 1024
"""What kubectl keeps of an object in an annotation, which the API server bounds."""


def metadata(name: str, component: str | None = None) -> dict[str, Any]:
    """An object's name, namespace and labels."""
    labels = {"app.kubernetes.io/name": "zeroq", "app.kubernetes.io/part-of": "zeroq"}
    if component is not None:
        labels["app.kubernetes.io/component"] = component
    return {"name": name, "namespace": "zeroq", "labels": dict(sorted(labels.items()))}


def config_map(name: str, data: Mapping[str, str], component: str | None = None) -> str:
    """A ConfigMap as YAML."""
    return to_yaml({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name, component), "data": dict(data)})


def run_config(text: str) -> str:
    """The ConfigMap that every process of a run reads."""
    return config_map("zeroq-config", {"config.yaml": text})


def dashboard_maps() -> list[str]:
    """One ConfigMap for each dashboard, without the white space."""
    return [
        config_map(
            f"zeroq-dashboard-{path.stem}",
            {path.name: json.dumps(json.loads(path.read_text("utf-8")), separators=(",", ":"), ensure_ascii=False)},
            "grafana",
        )
        for path in sorted(DASHBOARDS.glob("*.json"))
    ]


def prometheus_rule(text: str) -> str:
    """The alerts as the Prometheus operator's object."""
    return to_yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": metadata("zeroq", "prometheus"),
            "spec": yaml.safe_load(text),
        }
    )


def generated() -> dict[Path, str]:
    """Text of each file. The last one is made of the plain files as they would then be."""
    config = (CONFIGS / "k8s.yaml").read_text("utf-8")
    rules = RULES.read_text("utf-8")
    files = {
        CONFIG_FILE: _said(run_config(config), "recipes/configs/k8s.yaml"),
        RULES_FILE: _said(
            config_map("zeroq-prometheus-rules", {"zeroq.yaml": rules}, "prometheus"), "deploy/prometheus/rules.yaml"
        ),
        DASHBOARDS_FILE: _said("---\n".join(dashboard_maps()), "deploy/grafana/dashboards"),
        CPU_FILE: _said(run_config((CONFIGS / "k8s_cpu.yaml").read_text("utf-8")), "recipes/configs/k8s_cpu.yaml"),
        OPERATOR_FILE: _said(prometheus_rule(rules), "deploy/prometheus/rules.yaml"),
    }
    plain = {path: path.read_text("utf-8") for path in PLAIN.glob("*.yaml")} | {
        path: text for path, text in files.items() if path.parent == PLAIN
    }
    parts = [f"# {path.name}\n{text.rstrip()}\n" for path, text in sorted(plain.items())]
    files[BASE_FILE] = _said("---\n".join(parts), "the files in deploy/k8s")
    return files


def to_yaml(value: object) -> str:
    """YAML with texts of several lines as blocks."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20))


def _said(text: str, source: str) -> str:
    return f"# Made by deploy/generate.py from {source}; edit that.\n{text}"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as literal blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def main(arguments: list[str]) -> int:
    """Write the files, or check them; returns the exit code."""
    files = generated()
    for path, text in files.items():
        current = path.read_text("utf-8") if path.is_file() else None
        if current == text:
            continue
        if arguments == ["--check"]:
            print(f"{path}: not current; run python deploy/generate.py", file=sys.stderr)
            return 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

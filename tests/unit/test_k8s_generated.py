"""Manifests that are made from other files are current, whole and within bounds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from manifests import PLAIN, ROOT, built, load_all, named, of_kind, plain

from common.config import RunConfig, dump_config, load_config


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zeroq_deploy_generate", ROOT / "deploy" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _load()


def test_the_files_are_current() -> None:
    stale = [path for path, text in generate.generated().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python deploy/generate.py"


def test_check_says_which_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 0
    files = generate.generated()
    stale = tmp_path / "10-config.yaml"
    stale.write_text("old")
    monkeypatch.setattr(generate, "generated", lambda: {**files, stale: "new"})
    assert generate.main(["--check"]) == 1
    assert str(stale) in capsys.readouterr().err
    assert stale.read_text() == "old"


@pytest.mark.parametrize(
    ("source", "recipe"), [("plain", "k8s"), ("overlays/cpu", "k8s_cpu"), ("overlays/models", "k8s")]
)
def test_config_map_and_configuration_are_the_same_in_both_directions(source: str, recipe: str, tmp_path: Path) -> None:
    manifests = plain() if source == "plain" else built(source)
    data = named(manifests, "ConfigMap", "zeroq-config")["data"]
    assert list(data) == ["config.yaml"]
    original = ROOT / "recipes" / "configs" / f"{recipe}.yaml"
    assert data["config.yaml"] == original.read_text(encoding="utf-8")  # comments too
    mounted = tmp_path / "config.yaml"
    mounted.write_text(data["config.yaml"], encoding="utf-8")
    config = load_config(mounted)
    assert config == load_config(original)
    # And back: what a process resolves, put into a ConfigMap, is what the next one reads.
    dump_config(config, tmp_path / "resolved.yaml")
    (again,) = load_all(generate.run_config((tmp_path / "resolved.yaml").read_text(encoding="utf-8")))
    mounted.write_text(again["data"]["config.yaml"], encoding="utf-8")
    assert load_config(mounted) == config


def without(config: RunConfig, *paths: str) -> dict[str, object]:
    """The configuration as data, less some keys."""
    data = config.model_dump(mode="json")
    for path in paths:
        *parents, last = path.split(".")
        at = data
        for part in parents:
            at = at[part]
        del at[last]
    return data


def test_on_cpus_the_run_is_the_demo() -> None:
    """What differs is where things are, and that cores are the kubelet's to give."""
    places = ["broker", "weights", "metrics", "security", "autoscaler", "run", "resume"]
    ours = load_config(ROOT / "recipes/configs/k8s_cpu.yaml")
    demo = load_config(ROOT / "recipes/configs/cpu_demo.yaml")
    differ = [*places, "actor.cpu_threads", "actor.model_from", "evaluator.sandbox_tier"]
    assert without(ours, *differ) == without(demo, *differ)
    assert (ours.weights.backend, ours.actor.model_from, ours.evaluator.sandbox_tier) == ("gloo", "learner", 1)


def test_the_base_for_kustomize_is_the_plain_files() -> None:
    assert load_all(generate.BASE_FILE.read_text(encoding="utf-8")) == plain()


def test_every_dashboard_is_a_config_map_of_its_own_that_kubectl_can_annotate() -> None:
    sources = {path.name: path for path in generate.DASHBOARDS.glob("*.json")}
    assert sources
    maps = [m for m in of_kind(plain(), "ConfigMap") if m["metadata"]["name"].startswith("zeroq-dashboard-")]
    found = {}
    for config_map in maps:
        ((name, text),) = config_map["data"].items()
        found[name] = json.loads(text)
    assert found == {name: json.loads(path.read_text(encoding="utf-8")) for name, path in sources.items()}


def test_no_object_is_larger_than_the_annotation_that_holds_it() -> None:
    for manifest in plain():
        assert len(json.dumps(manifest).encode()) < generate.MAX_BYTES, manifest["metadata"]["name"]


def test_prometheus_and_the_operator_have_the_same_alerts() -> None:
    rules = yaml.safe_load(generate.RULES.read_text(encoding="utf-8"))
    assert rules["groups"]
    mounted = named(plain(), "ConfigMap", "zeroq-prometheus-rules")["data"]
    assert yaml.safe_load(mounted["zeroq.yaml"]) == rules
    assert named(built("prometheus-operator"), "PrometheusRule", "zeroq")["spec"] == rules


def test_the_rules_lie_where_prometheus_looks() -> None:
    config = yaml.safe_load(named(plain(), "ConfigMap", "zeroq-prometheus")["data"]["prometheus.yml"])
    (container,) = named(plain(), "StatefulSet", "zeroq-prometheus")["spec"]["template"]["spec"]["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert config["rule_files"] == [f"{places['rules']}/*.yaml"]
    assert config["scrape_config_files"] == [f"{places['jobs']}/*.yaml"]


def test_prometheus_reads_again_what_has_changed() -> None:
    """The kubelet renews whole ConfigMaps in a running pod, never a part (subPath)."""
    (container,) = named(plain(), "StatefulSet", "zeroq-prometheus")["spec"]["template"]["spec"]["containers"]
    assert "--enable-feature=auto-reload-config" in container["args"]
    places = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert f"--config.file={places['config']['mountPath']}/prometheus.yml" in container["args"]
    assert not any("subPath" in mount for mount in places.values())


def test_the_scrape_adds_the_labels_that_dashboards_and_alerts_rely_on() -> None:
    """docs/metrics.md, "Labels that the scrape adds"; the operator's PodMonitor must agree."""
    config = yaml.safe_load(named(plain(), "ConfigMap", "zeroq-prometheus")["data"]["prometheus.yml"])
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "zeroq")
    ours = {r["target_label"]: r["source_labels"] for r in job["relabel_configs"] if "target_label" in r}
    monitor = named(built("prometheus-operator"), "PodMonitor", "zeroq")["spec"]["podMetricsEndpoints"][0]
    theirs = {r["targetLabel"]: r.get("sourceLabels") for r in monitor["relabelings"] if "targetLabel" in r}
    (pending,) = [
        r for r in monitor["relabelings"] if "targetLabel" not in r
    ]  # the operator drops what has ended itself
    assert pending == {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Pending", "action": "drop"}
    assert {"component", "instance", "namespace"} == set(ours)
    assert theirs == {
        "job": None,
        **{label: ours[label] for label in ("component", "instance")},
    }  # namespace: by itself
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"own_namespace": True}}]
    assert PLAIN.name == "k8s"

"""Every container's command line, run with --check against the ConfigMap's YAML and the keys of its role's Secret."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import ROOT, Manifest, PodTemplate, load_all, named, objects, plain, pod_templates

CONFIG, KEYS, RUN = "/etc/zeroq/config.yaml", "/etc/zeroq/keys", "/var/lib/zeroq/run"
TIMEOUT_S = 60.0

CASES = [
    *(("plain", name) for name in ("broker", "learner", "actor", "evaluator", "evaluator-models", "autoscaler")),
    *(("overlays/cpu", name) for name in ("learner", "actor")),
    ("overlays/gvisor", "evaluator"),
    ("leaderworkerset", "learner"),
    ("overlays/combined", "evaluator"),
]


def of_component(source: str, component: str) -> PodTemplate:
    return next(pod for pod in pod_templates(objects(source)) if pod.component == component)


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """As the images do: their entry point is `tini -- python -m`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def value_of(variable: Manifest) -> str:
    """What the kubelet would put there."""
    if "value" in variable:
        return str(variable["value"])
    path = variable["valueFrom"].get("fieldRef", {}).get("fieldPath", "")
    return {"metadata.name": "zeroq-0", "metadata.namespace": "zeroq", "status.podIP": "10.1.2.3"}.get(path, "0")


def arguments_of(pod: PodTemplate, container: Manifest, places: dict[str, Path]) -> list[str]:
    """The container's arguments with variables and mounted paths put in. Each path must be mounted."""
    values = {v["name"]: value_of(v) for v in container["env"]}
    if pod.spec["enableServiceLinks"]:
        values["ZEROQ_BROKER_SERVICE_HOST"] = "10.96.12.34"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(places) <= mounted
    made = []
    for argument in container["args"]:
        text = re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], argument)
        for place, here in places.items():
            text = text.replace(place, str(here))
        made.append(text)
    return made


@pytest.fixture(scope="module")
def secrets() -> dict[str, dict[str, bytes]]:
    """What `zeroq keygen --k8s | kubectl apply -f -` leaves in the cluster: files by Secret."""
    done = run(["launcher", "keygen", "--k8s"])
    assert done.returncode == 0, done.stderr
    return {
        secret["metadata"]["name"]: {name: base64.b64decode(text) for name, text in secret["data"].items()}
        for secret in load_all(done.stdout)
    }


def mount(pod: PodTemplate, source: str, secrets: dict[str, dict[str, bytes]], tmp_path: Path) -> dict[str, Path]:
    """Configuration, keys and run directory of a pod, as folders of the test."""
    places = {CONFIG: tmp_path / "config.yaml", KEYS: tmp_path / "keys", RUN: tmp_path / "run"}
    places[CONFIG].write_text(named(objects(source), "ConfigMap", "zeroq-config")["data"]["config.yaml"])
    places[KEYS].mkdir()
    (secret,) = [volume["secret"] for volume in pod.spec["volumes"] if "secret" in volume]
    for name, content in secrets[secret["secretName"]].items():
        (places[KEYS] / name).write_bytes(content)
        (places[KEYS] / name).chmod(secret["defaultMode"] | 0o040)  # fsGroup adds the group
    return places


@pytest.mark.parametrize(("source", "component"), CASES)
def test_the_command_line_is_in_order(
    source: str, component: str, secrets: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    pod = of_component(source, component)
    places = mount(pod, source, secrets, tmp_path)
    (container,) = pod.spec["containers"]
    arguments = arguments_of(pod, container, places)
    done = run([*arguments, f"security.keys={places[KEYS]}", "--check"])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "is in order" in done.stdout
    assert not places[RUN].exists()  # --check writes nothing
    assert "--keep-running" in arguments


def test_a_check_notices_the_keys_of_another_role(secrets: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    pod = of_component("plain", "broker")
    stolen = {**secrets, "zeroq-keys-broker": secrets["zeroq-keys-evaluator"]}
    places = mount(pod, "plain", stolen, tmp_path)
    arguments = arguments_of(pod, pod.spec["containers"][0], places)
    done = run([*arguments, f"security.keys={places[KEYS]}", "--check"])
    assert done.returncode == 2
    assert "broker.secret" in done.stderr


def test_prepare_reads_the_configuration_into_the_learners_volume(tmp_path: Path) -> None:
    """It has no --check; what is wrong with the configuration it says before it does anything."""
    pod = of_component("plain", "learner")
    (prepare,) = pod.spec["initContainers"]
    config = tmp_path / "config.yaml"
    config.write_text(named(plain(), "ConfigMap", "zeroq-config")["data"]["config.yaml"])
    places = {CONFIG: config, RUN: tmp_path / "run"}
    done = run([*arguments_of(pod, prepare, places), "learner.lr=-1"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "learner.lr" in done.stderr
    assert not places[RUN].exists()


def test_the_images_take_arguments_that_begin_with_the_room() -> None:
    files = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
    assert files
    for path in files:
        assert 'ENTRYPOINT ["tini", "--", "python", "-m"]' in path.read_text(encoding="utf-8"), path
    rooms = {
        "control": {"broker", "launcher"},
        "actor": {"actor"},
        "learner": {"launcher", "learner.node"},
        "evaluator": {"evaluator"},
        "evaluator-models": {"evaluator"},
    }
    for pod in pod_templates(plain()):
        for container in pod.containers:
            if pod.ours:
                image = container["image"].partition("/")[2].partition(":")[0]
                assert container["args"][0] in rooms[image], pod.name
                assert "command" not in container, pod.name

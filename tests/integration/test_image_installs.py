"""The torch-less images' install lines, run here: a fresh environment, the rooms that the image has, and they work.

The `RUN pip ...` and `RUN python -m ...` commands of deploy/docker/*.Dockerfile are taken as they stand; only the
places are others. What actors and learners install (gigabytes) is tried on this environment instead, with everything
that is not in their lists hidden from the import system.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image_files import LISTS, ROOT, STARTS, dockerfile, packages, rooms_in
from packaging.utils import canonicalize_name

LINES = [
    {"id": "math", "kind": "math", "gold": "\\frac{1}{2}", "response": "<think>half</think> \\boxed{0.5}"},
    {"id": "integral", "kind": "math", "gold": "\\int_0^1 x dx", "response": "<think>a</think> \\boxed{\\frac12}"},
    {"id": "wrong", "kind": "math", "gold": "2", "response": "<think>guess</think> \\boxed{3}"},
    {"id": "format", "kind": "format", "response": "<think>a</think><answer>4</answer>"},
    {"id": "words", "kind": "language", "response": "<think>this is plain english text</think>yes", "language": "en"},
    {"id": "code", "kind": "code", "language": "python", "source": "print(int(input()) * 2)",
     "tests": {"kind": "stdio", "cases": [{"stdin": "4", "expected": "8"}]}},
]  # fmt: skip
GRADE = """
import importlib.util, json, sys
assert importlib.util.find_spec("torch") is None
from evaluator.graders.reasoning_gym_answer import grade
from evaluator.lines import LineGrader, parse
from evaluator.pool import WorkerPool
from evaluator.sandbox.grader import CodeGrader

if __name__ == "__main__":
    with WorkerPool(1, warm=["evaluator.graders.math_answer:self_test"]) as pool, CodeGrader(1, tier=2) as sandbox:
        grader = LineGrader(pool, lambda: sandbox, 5.0)
        for line in sys.stdin:
            print(json.dumps(grader.submit(parse(line.encode()))()))
    spec = {"reasoning_gym": {"dataset": "chain_sum", "entry": {"question": "1 + 2", "answer": "3", "metadata": {}}}}
    print(json.dumps(grade("3", spec)))
"""


@dataclass(frozen=True)
class Installed:
    """An image's environment and rooms, in folders of this test's."""

    python: Path
    rooms: Path

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS` as in the image: nothing of this project's own environment is visible."""
        env = {"PYTHONPATH": str(self.rooms), "PYTHONDONTWRITEBYTECODE": "1", "HOME": os.environ["TMPDIR"]}
        env |= {name: os.environ[name] for name in ("PATH", "TMPDIR")}
        return subprocess.run(
            [self.python, *arguments], env=env, cwd=self.rooms, input=stdin, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """All that takes long, two at a time: a Future for each image's environment or report, and for the stage `app`."""
    folder = tmp_path_factory.mktemp("images")
    with ThreadPoolExecutor(2) as threads:
        futures: dict[str, Future[Any]] = {
            image: threads.submit(install, image, folder / image) for image in ("evaluator", "control")
        }
        futures["app"] = threads.submit(build, folder / "app")
        futures |= {image: threads.submit(load, image) for image in LOADS}
        try:
            yield futures
        finally:
            threads.shutdown(cancel_futures=True)


def build(folder: Path) -> Path:
    """What the stage `app` makes of the build context: /app."""
    context = folder / "src"
    context.mkdir(parents=True)
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        name = line.removeprefix("!")
        if line.startswith("!") and (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif line.startswith("!"):
            shutil.copy(ROOT / name, context / name)
    run_lines("control", "app", {"/app": folder / "app"}, cwd=context)
    return folder / "app"


def install(image: str, folder: Path) -> Installed:
    """Run the image's install lines."""
    folder.mkdir()
    places = {"/opt/venv": folder / "venv", "/opt/wheels": folder / "wheels", "/opt/requirements": LISTS}
    for stage in ("wheels", "environment"):
        run_lines(image, stage, places, cwd=folder)
    return Installed(folder / "venv" / "bin" / "python", folder / "zeroq")


def complete(image: str, work: dict[str, Future[Any]]) -> Installed:
    """The environment with the image's rooms beside it."""
    installed: Installed = work[image].result()
    for room in rooms_in(image):
        shutil.copytree(work["app"].result() / room, installed.rooms / room)
    return installed


def run_lines(image: str, stage: str, places: dict[str, Path], cwd: Path) -> None:
    """The pip and python commands of one stage. apt-get's are not run; setuptools is here in the same version."""
    for line in [text for s in dockerfile(image)[1] if s.name == stage for text in s.all("RUN")]:
        for command in (part.strip() for part in line.split("&&")):
            if not re.match(r"(pip|python) ", command) or "install --no-cache-dir --no-deps setuptools==" in command:
                continue
            command = re.sub(r"^pip ", f"{sys.executable} -m pip --quiet ", command)
            command = re.sub(r"^python ", f"{sys._base_executable} ", command)  # type: ignore[attr-defined]
            for place, ours in places.items():
                command = re.sub(rf"{place}(?=[/ ]|$)", str(ours), command)
            assert "/opt/" not in command.replace(str(ROOT), "")
            env = os.environ | {"PIP_COMPILE": "0"}  # bytecode costs more than the rest
            done = subprocess.run(
                ["sh", "-euc", command], cwd=cwd, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_control_installs_and_starts(work: dict[str, Future[Any]]) -> None:
    control = complete("control", work)
    for words in (["broker", "--help"], ["launcher", "autoscaler", "--help"]):
        done = control.run("-m", *words)
        assert done.returncode == 0, done.stderr
        assert "usage: " in done.stdout
    modules = ["broker.server", "launcher.autoscaler.loop", "launcher.k8s.client"]
    done = control.run("-c", f"import importlib.util, {', '.join(modules)}; print(importlib.util.find_spec('torch'))")
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_evaluator_installs_and_grades_without_torch(work: dict[str, Future[Any]], tmp_path: Path) -> None:
    evaluator = complete("evaluator", work)
    done = evaluator.run("-m", "evaluator", "--help")
    assert done.returncode == 0, done.stderr
    script = tmp_path / "grade.py"
    script.write_text(GRADE, encoding="utf-8")
    done = evaluator.run(str(script), stdin="".join(json.dumps(line) + "\n" for line in LINES))
    assert done.returncode == 0, done.stderr
    *answers, gym = [json.loads(line) for line in done.stdout.splitlines()]
    rewards: dict[str, Any] = {answer["id"]: answer["reward"] for answer in answers}
    assert rewards.pop("words") == pytest.approx(1.0)
    assert rewards == {"math": 1.0, "integral": 1.0, "wrong": 0.0, "format": 1.0, "code": 1.0}
    assert gym["score"] == 1.0


# What these processes load on their way to work, engine and data included.
LOADS = {
    "actor": ["actor.weights", "vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker",
              "vllm.model_executor.models.qwen3"],
    "learner": ["learner.loop", "learner.weights.publisher", "launcher.prepare", "recipes.tiny_model", "datasets",
                "reasoning_gym", "transformers.models.qwen3.modeling_qwen3"],
}  # fmt: skip
HIDE = """
import importlib, importlib.machinery, json, sys
hidden = set(json.loads(sys.argv[1]))

class Hider(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hider
try:
    import pytest
except ModuleNotFoundError:
    for name in sys.argv[2:]:
        importlib.import_module(name)
    print("loaded")
"""


@pytest.mark.parametrize("image", sorted(LOADS))
def test_heavy_images_load_with_what_their_lists_have(image: str, work: dict[str, Future[Any]]) -> None:
    done = work[image].result()
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["loaded"]), done.stderr


# In a fresh process: setuptools, once imported, adds the packages that it carries within itself.
OWNERS = "import json; from importlib import metadata; print(json.dumps(metadata.packages_distributions()))"


def load(image: str) -> subprocess.CompletedProcess[str]:
    """Import what the image's processes import, with only its packages to be found."""
    allowed = set(packages(image)) | {"zeroq"}
    hidden = [
        name
        for name, owners in json.loads(subprocess.check_output([sys.executable, "-c", OWNERS])).items()
        if not allowed & {canonicalize_name(owner) for owner in owners} and name not in sys.stdlib_module_names
    ]
    starts = [name for name in STARTS[image][0] if not name.endswith("__main__")]
    env = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", HIDE, json.dumps(hidden), *starts, *LOADS[image]]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

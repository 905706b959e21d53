"""Settings of vLLM, and how its process is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actor.environment import parse_cores, prepare, starting_engine
from actor.metrics import RateMeter
from common.config import RunConfig
from common.errors import UserError


def make_config(**actor: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": "m", "data": {"train": "x"}, "actor": {"device": "cpu", **actor}, "learner": {"device": "cpu"}}
    )


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """os.environ is restored afterwards, additions included."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "VLLM_WORKER_MULTIPROC_METHOD", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    return monkeypatch


def test_parse_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6})
    assert parse_cores("0") == {0}
    assert parse_cores("0-2,6") == {0, 1, 2, 6}
    for wrong in ("", "a", "1-", "3-2", "4", "0,,1"):
        with pytest.raises(UserError, match="cpu_threads"):
            parse_cores(wrong)


@pytest.mark.usefixtures("environ")
def test_prepare(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    assert prepare(make_config(cpu_threads=str(core), startup_timeout_s=7.2)) == {core}
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] == "7"
    assert "TORCHDYNAMO_DISABLE" not in os.environ, "compiled models need it"
    assert "HF_HUB_OFFLINE" not in os.environ, "a model by name may have to be fetched"
    prepare(make_config(enforce_eager=True).model_copy(update={"model": str(tmp_path)}))
    assert os.environ["TORCHDYNAMO_DISABLE"] == os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize(("fresh", "threads", "forks"), [(True, "1", True), (False, "1", False), (True, "2", False)])
def test_forks_only_what_has_no_threads(fresh: bool, threads: str, forks: bool) -> None:
    os.environ["OMP_NUM_THREADS"] = threads
    before = os.sched_getaffinity(0)
    core = max(before)
    with starting_engine(make_config(), {core}, fresh=fresh):
        assert (os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == "fork") == forks
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


def test_a_forked_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from actor.environment import starting_engine
from tests.unit.test_actor_environment import make_config
os.environ["OMP_NUM_THREADS"] = "1"
reader, writer = os.pipe()
with starting_engine(make_config(), None, fresh=True):
    if os.fork() == 0:
        os.write(writer, b"x")
        time.sleep(60)
os.read(reader, 1)
os._exit(0)
"""
    root = Path(__file__).parents[2]
    # The child holds our end of the pipe open for as long as it lives: `run` returns when it is dead, or times out.
    subprocess.run([sys.executable, "-c", script, str(root)], cwd=root, timeout=30, check=True, capture_output=True)


def test_the_loop_starts_without_torch() -> None:
    root = Path(__file__).parents[2]
    code = "import sys, actor.__main__; sys.exit('torch' in sys.modules or 'vllm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=True)


def test_rate_meter() -> None:
    meter = RateMeter(window_s=10)
    assert meter.rate(5) == 0
    meter.add(100, now=100)
    meter.add(100, now=104)
    assert meter.rate(104) == 50
    assert meter.rate(110) == 20
    assert meter.rate(112) == 10
    assert meter.rate(200) == 0

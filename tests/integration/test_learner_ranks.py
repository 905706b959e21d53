"""Two FSDP ranks compute what one rank computes; a checkpoint goes on as if nothing had happened, on either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.learner_rig import (
    ROOT,
    River,
    broker_process,
    make_config,
    make_process,
    read_lines,
    tiny_model,
    wait_until,
    write_data,
)

pytestmark = pytest.mark.usefixtures("no_leaked_processes")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
}


def torchrun(ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def work(
    out: Path, model: Path, *, ranks: int, kl: float = 0.0, checkpoints: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    out.parent.mkdir(exist_ok=True)
    start = torchrun(ranks) if ranks > 1 else [sys.executable]
    arguments = [str(out), str(model), str(kl), str(checkpoints or "-"), device]
    command = [*start, "-m", "tests.integration.learner_ranks_worker"]
    if ranks > 1:
        command = [*start, "--module", "tests.integration.learner_ranks_worker"]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = torch.load(out, weights_only=True)
    return result


@pytest.mark.parametrize("kl", [0.1])
def test_two_ranks_equal_one_and_checkpoints_resume_on_either(tmp_path: Path, kl: float) -> None:
    model = tiny_model(tmp_path / "model")
    one = work(tmp_path / "one" / "out.pt", model, ranks=1, kl=kl)
    two = work(tmp_path / "two" / "out.pt", model, ranks=2, kl=kl)
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
    # Resumed from step 3 on the same number of ranks, step 4 is the same to the last bit; on another, to 1e-5.
    same = work(tmp_path / "one" / "same.pt", model, ranks=1, kl=kl, checkpoints=tmp_path / "one" / "checkpoints")
    assert torch.equal(same["losses"][0], one["losses"][3])
    assert all(torch.equal(same["weights"][name], tensor) for name, tensor in one["weights"].items())
    other = work(tmp_path / "one" / "other.pt", model, ranks=2, kl=kl, checkpoints=tmp_path / "one" / "checkpoints")
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, rtol=0, atol=1e-5)


def test_the_process_trains_on_two_ranks_and_stops_on_sigterm(tmp_path: Path) -> None:
    config = make_config(tiny_model(tmp_path / "model"), learner={"ranks": 2, "max_steps": 10_000, "num_threads": 1})
    paths = make_process(tmp_path, config).paths
    write_data(tmp_path)
    command = [*torchrun(2), "--module", "learner", "--run-dir", str(tmp_path), "--name", "learner"]
    with broker_process(tmp_path), River(paths), (tmp_path / "learner.log").open("w") as log:
        learner = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            wait_until(
                lambda: (paths.metrics.exists() and len(read_lines(paths.metrics)) >= 2) or learner.poll() is not None,
                "two steps",
                timeout_s=120,
            )
            assert learner.poll() is None, (tmp_path / "learner.log").read_text()[-3000:]
            for child in _ranks(paths):
                os.kill(child, signal.SIGTERM)
            assert learner.wait(timeout=60) == 0, (tmp_path / "learner.log").read_text()[-3000:]
        finally:
            learner.kill()
            learner.wait()
    steps = read_lines(paths.metrics)[-1]["step"]
    assert (paths.checkpoints / f"step-{steps}" / "manifest.json").exists()
    assert (tmp_path / "learner_summary.json").exists()


def _ranks(paths: Any) -> list[int]:
    import json

    return [json.loads(file.read_text())["pid"] for file in sorted(paths.processes.glob("learner*.json"))]

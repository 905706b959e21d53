"""CUDA IPC and NCCL: the handle's way through JSON, and each whole path with real vLLM. Skipped without GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

READER = """
import sys, torch
from common.weights import IpcHandle
from actor.weights.engine import rebuild_arguments
from torch.multiprocessing.reductions import rebuild_cuda_tensor
torch.cuda.init()
shared = rebuild_cuda_tensor(*rebuild_arguments(IpcHandle.from_json(sys.stdin.read()), 0))
print(shared.numel(), int(shared.long().sum()))
"""


def test_another_process_reads_the_buffer_by_its_handle() -> None:
    from learner.weights.ipc import export_handle

    flat_B = torch.arange(4096, device="cuda").to(torch.uint8)
    torch.cuda.synchronize()
    result = subprocess.run(
        [sys.executable, "-c", READER],
        input=export_handle(flat_B).to_json(),
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert result.stdout.split() == [b"4096", str(int(flat_B.long().sum())).encode()]


@pytest.mark.parametrize("backend", ["ipc", "nccl"])
def test_greedy_outputs_after_an_update_equal_a_freshly_loaded_engine(backend: str, tmp_path: Path) -> None:
    if backend == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("nccl needs two CUDA devices: one for the learner, one for the actor")
    subprocess.run([sys.executable, "-m", "tests.gpu.weights_check", backend, str(tmp_path)], check=True, timeout=580)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs two CUDA devices")
def test_either_side_is_lost_in_mid_broadcast_and_the_next_version_arrives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "tests.gpu.weights_losses_check", "nccl", str(tmp_path)], check=True)

"""Owns the pool of FSDP ranks: process group, device mesh, and how ranks that hear nobody wait for the one that does.

Rank 0 alone talks to the broker, so only it knows when there is something to do. The others must neither time out in a
collective nor wait without a deadline: in `wait_on_first` rank 0 says every few seconds that it still waits.
One rank runs through the same code, over a process group of one without sockets.

Ranks on several machines (`spread`, learner/node.py) share no files: only rank 0's machine has the run's data, model
and checkpoints, and what the others need of them comes by broadcast.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from common.config import TrainingSection
from common.errors import UserError
from common.health import Health

HEARTBEAT_S = 5.0
PART = "loop"
"""Of the process's health: ranks have one thread that matters."""
_SPARE_S = 30.0


def rank_of_environment() -> int:
    """This process's rank as torchrun set it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


class Ranks:
    """The learner's process group. Close it (or use it as a context manager) before the process ends."""

    def __init__(self, config: TrainingSection, health: Health | None = None) -> None:
        """Join the group; `health` hears of progress. UserError when `learner.ranks` and torchrun disagree, or the
        device is not there."""
        self.rank = rank_of_environment()
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.spread = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
        self.health = health or Health()
        self._stuck_after_s = config.collective_timeout_s + _SPARE_S
        if self.size != config.ranks:
            raise UserError(
                f"learner.ranks is {config.ranks} but {self.size} process(es) were started; "
                f"use torchrun --standalone --nproc-per-node {config.ranks} -m learner"
            )
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("learner.device is cuda, but PyTorch finds no CUDA device; set learner.device=cpu")
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        backend = "gloo"
        self.device = torch.device("cpu")
        if config.device == "cuda":
            backend = "cpu:gloo,cuda:nccl"
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
            if config.gpu_memory_fraction is not None:
                torch.cuda.set_per_process_memory_fraction(config.gpu_memory_fraction, self.device)
        timeout = timedelta(seconds=config.collective_timeout_s)
        if self.size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
        else:
            dist.init_process_group(backend, timeout=timeout)
        self.mesh: DeviceMesh = init_device_mesh(config.device, (self.size,))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.size > 1:
            # A rank that takes the group apart while another still writes its files was seen to abort, once, in the
            # threads of gloo. After an error there is nobody to wait for.
            self.barrier()
        self.close()

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Is this rank 0, the one that talks to the broker and writes files?"""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a host tensor over all ranks."""
        values = values.clone()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """True on all ranks if true on any."""
        return bool(flag) if self.size == 1 else bool(self.sum(torch.tensor([int(flag)])).item())

    def broadcast(self, values: Tensor | None) -> Tensor:
        """Rank 0's int64 or float32 host tensor of any shape, on all ranks; the others pass None."""
        if self.size == 1:
            assert values is not None
            return values
        head = torch.zeros(6, dtype=torch.int64)
        if values is not None:
            assert values.ndim <= 4
            head[0], head[1] = int(values.dtype == torch.float32), values.ndim
            head[2 : 2 + values.ndim] = torch.tensor(values.shape)
        dist.broadcast(head, 0)
        if values is None:
            shape = [int(size) for size in head[2 : 2 + int(head[1])]]
            values = torch.empty(shape, dtype=torch.float32 if head[0] else torch.int64)
        values = values.contiguous()
        dist.broadcast(values, 0)
        return values

    def broadcast_text(self, text: str | None) -> str:
        """Rank 0's text, on all ranks; what the others pass is not looked at."""
        own = torch.frombuffer(bytearray((text or "").encode() + b"\0"), dtype=torch.uint8) if self.first else None
        data = self.broadcast(None if own is None else own.to(torch.int64))
        return bytes(data.to(torch.uint8).tolist())[:-1].decode()

    def beat(self, doing: str, limit_s: float | None = None) -> None:
        """Tell the probes that this rank gets on. It is stuck once it has done the same for `limit_s` seconds: by
        default a little longer than a collective may take, which the process group ends by itself if it can."""
        self.health.beat(PART, doing, self._stuck_after_s if limit_s is None else limit_s)

    def barrier(self) -> None:
        """Wait until all ranks are here (at most `collective_timeout_s`)."""
        self.sum(torch.zeros(1))

    def wait_on_first(self, poll: Callable[[float], bool], stopped: Callable[[], bool]) -> bool:
        """Run `poll(seconds)` on rank 0 until it returns True; the other ranks wait. False once any rank shall stop.

        `poll` waits at most the seconds given, then says whether it is done. Deadlines are poll's own matter: it
        raises, rank 0 ends, and with it the pool.
        """
        while True:
            done, stop = False, stopped()
            if self.first:
                beat = time.monotonic() + HEARTBEAT_S
                while not (done or stop) and (left := beat - time.monotonic()) > 0:
                    self.beat("waiting for groups or evaluations")
                    done = poll(min(left, 0.5))
                    stop = stopped()
            else:
                self.beat("waiting for rank 0")
            any_done, any_stop = self.sum(torch.tensor([int(done), int(stop)])).tolist()
            if any_stop:
                return False
            if any_done:
                return True

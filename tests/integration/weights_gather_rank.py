"""One FSDP2 rank: shards a model, gathers it, and on rank 0 compares with the whole. Arguments: rank, store port."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

from common.lifecycle import die_with_parent
from learner.weights import gather_full_tensors


def main(rank: int, port: int) -> None:
    die_with_parent()
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(5 + i, 6 + i) for i in range(4)))
    whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    gathered = gather_full_tensors(model, torch.bfloat16, bucket_bytes=100)
    if rank == 0:
        received = dict(gathered)
        assert list(received) == list(whole)
        assert all(torch.equal(received[name], whole[name].bfloat16()) for name in whole)
        print("equal")
    else:
        for _ in gathered:
            pass
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""Stand-ins for the weight path's tests: an engine without vLLM, and processes that receive and can be killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from actor.weights import WeightReceiver
from actor.weights.staging import map_private
from common.config import RunConfig
from common.lifecycle import die_with_parent
from common.weights import Layout


def weights_config(**weights: Any) -> RunConfig:
    """Smallest configuration, float32 actors, short deadlines."""
    section = {"ready_timeout_s": 3.0, "transfer_timeout_s": 10.0, "bucket_bytes": 4096, **weights}
    return RunConfig.model_validate(
        {
            "model": "none",
            "data": {"train": "none.jsonl"},
            "actor": {"device": "cpu", "dtype": "float32"},
            "learner": {"device": "cpu"},
            "weights": section,
        }
    )


class FakeLLM:
    """Has the weight methods of AsyncLLM and of its engine core; keeps what was loaded as arrays."""

    def __init__(self) -> None:
        self.weights: dict[str, np.ndarray] = {}
        self.weight_version = "default"
        self.calls: list[str] = []
        self.engine_core = self

    async def pause_scheduler_async(self, *, mode: str, clear_cache: bool) -> None:
        assert mode == "keep"
        assert not clear_cache
        self.calls.append("pause")

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def start_weight_update(self) -> None:
        self.calls.append("start")

    async def update_weights(self, request: Any) -> None:
        self.calls.append("update")
        info = request.update_info
        layout = Layout.from_manifest(info["manifest"].encode())
        mapped = map_private(info["path"], layout.total_bytes)
        self.weights = {
            slot.meta.name: np.frombuffer(mapped, np.float32, slot.size_bytes // 4, slot.offset).reshape(
                slot.meta.shape
            )
            for slot in layout.slots
        }

    async def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")
        if weight_version is not None:
            self.weight_version = weight_version

    async def update_weight_version(self, version: str) -> None:
        self.weight_version = version


def checksum(weights: dict[str, np.ndarray]) -> float:
    """One number that tells versions apart."""
    return sum(float(array.astype(np.float64).sum()) for array in weights.values())


async def receive_for_ever(endpoint: str, name: str) -> None:
    """Run a receiver; print `VERSION CHECKSUM` for each version it comes to."""
    llm = FakeLLM()

    def on_version(version: int) -> None:
        print(version, checksum(llm.weights), flush=True)

    incarnation = f"{name}-{time.time_ns()}"
    receiver = WeightReceiver(
        llm,
        weights_config(),
        endpoint=endpoint,
        name=name,
        incarnation=incarnation,
        on_version=on_version,
        on_pause=lambda: None,
    )
    await receiver.run()


def signal_myself_in_mid_broadcast(signum: int) -> None:
    """In the first broadcast after this call, get as far as the third bucket."""
    from actor.weights import gloo

    receive, received = gloo._receive_bucket, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal received
        received += 1
        if received == 3:
            os.kill(os.getpid(), signum)
        receive(*arguments)

    gloo._receive_bucket = interrupted


def main(endpoint: str, name: str, signum: int) -> None:
    """A receiving process; `signum` other than 0 is what it sends itself in the middle of a broadcast."""
    die_with_parent()
    # vLLM's request classes are plain holders; importing vLLM for them takes ten seconds.
    holder = SimpleNamespace(
        WeightTransferInitRequest=lambda info: SimpleNamespace(init_info=info),
        WeightTransferUpdateRequest=lambda info: SimpleNamespace(update_info=info),
    )
    sys.modules["vllm.distributed.weight_transfer.base"] = holder  # type: ignore[assignment]
    if signum:
        signal_myself_in_mid_broadcast(signum)
    asyncio.run(receive_for_ever(endpoint, name))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

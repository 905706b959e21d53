"""Weights over CUDA end to end: `python -m tests.gpu.weights_check ipc|nccl [WORKDIR]`; figures, exit 0 if right.

    learner process (WeightPublisher) --handles, or NCCL--> this process (WeightReceiver, real vLLM AsyncLLM)

ipc: both on card 0. nccl: the learner on card 0, the actor on card 1.

1. an engine freshly loaded from model `new` says what greedy outputs must be; 2. another starts from `old`; 3. it joins
by a pull (a staging file, whatever the backend); 4. takes `new` with requests running; 5. its
greedy outputs must equal those of 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.lifecycle import die_with_parent
from tests.integration.weights_rig import EngineRig, load_model, make_config, make_model, until

ENGINE = {"gpu_memory_utilization": 0.2}
DEADLINES = {"ready_timeout_s": 30.0, "transfer_timeout_s": 60.0}


def config_for(model: Path, backend: str) -> RunConfig:
    return make_config(model, device="cuda", backend=backend, **DEADLINES)


def learner(backend: str, old: Path, new: Path) -> None:
    """Publish `old` as 0; on each line of standard input publish `new` and `old` in turn, printing a report."""
    die_with_parent()
    from learner.weights import WeightPublisher, gather_full_tensors

    models = [load_model(path).to("cuda") for path in (old, new)]
    publisher = WeightPublisher(config_for(old, backend), host="127.0.0.1")
    publisher.publish(0, gather_full_tensors(models[0]))
    print(publisher.endpoint, flush=True)
    for version, _ in enumerate(sys.stdin, start=1):
        report = publisher.publish(version, gather_full_tensors(models[version % 2]))
        print(json.dumps([report.num_actors, report.num_excluded, report.seconds, report.bytes]), flush=True)
    publisher.close()


def check(backend: str, workdir: Path) -> dict[str, Any]:
    """Run the comparison; AssertionError says what differs. Returns figures."""
    cards = {"ipc": ("0", "0"), "nccl": ("0", "1")}[backend]
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[1]
    old = make_model(workdir / "old", seed=0, tied=False)
    new = make_model(workdir / "new", seed=1, tied=False)
    fresh = EngineRig(config_for(new, backend), **ENGINE)
    expected = fresh.greedy()
    fresh.close()
    rig = EngineRig(config_for(old, backend), **ENGINE)
    before = rig.greedy()
    assert before != expected
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.weights_check", backend, "--learner", str(old), str(new)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": cards[0]},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def publish() -> tuple[list[float], float]:
        began = time.monotonic()
        stdin.write("\n")
        stdin.flush()
        return json.loads(stdout.readline()), time.monotonic() - began

    async def flow() -> dict[str, Any]:
        receiver = rig.receiver((await asyncio.to_thread(stdout.readline)).strip())
        task = asyncio.create_task(receiver.run())
        try:
            await until(lambda: receiver.version == 0 or task.done(), 60)
            assert not task.done(), task.exception()
            figures = []
            requests = [asyncio.create_task(rig.generate([i, i + 1, i + 2], 900)) for i in range(12)]
            for version in (1, 2, 3):
                await asyncio.sleep(1.0)  # the actor asks twice a second, which makes it current
                (num_actors, num_excluded, seconds, size), _ = await asyncio.to_thread(publish)
                assert (num_actors, num_excluded) == (1, 0), (version, num_actors, num_excluded)
                assert receiver.version == version
                figures.append({"version": version, "publish_s": seconds, "bytes": size})
            outputs = await asyncio.gather(*requests)
            assert all(len(output.token_ids) == 900 for output in outputs)
            return {"publishes": figures, "spans": max(len(output.weight_versions) for output in outputs)}
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    try:
        figures = rig.run(flow, timeout_s=300)
        assert rig.greedy() == expected, "greedy outputs after the update differ from a freshly loaded engine's"
    finally:
        process.kill()
        process.wait()
        stdin.close()
        stdout.close()
        rig.close()
    return figures


def main() -> None:
    backend, *rest = sys.argv[1:]
    if rest[:1] == ["--learner"]:
        learner(backend, Path(rest[1]), Path(rest[2]))
    elif rest:
        print(json.dumps(check(backend, Path(rest[0]))))
    else:
        with tempfile.TemporaryDirectory() as workdir:
            print(json.dumps(check(backend, Path(workdir))))


if __name__ == "__main__":
    main()

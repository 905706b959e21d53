"""What vLLM's statistics cost an actor's front end: CPU time of that process for each token sampled.

    none    as zeroq started vLLM before: no statistics at all
    engine  as zeroq starts it: those of the engine, once a scheduler step (actor/engine_stats.py)
    all     vLLM's default: besides, the front end's own, for each token

Each variant is a process with an engine of its own, one after the other, `--repeats` times in turn, on the same tiny
random model and prompts. The least of all rounds is shown, because whatever else runs on the machine only adds. Held
equal: everything but the switch. Not on the clock: the engine's process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.arguments import LineParser
from common.config import RunConfig
from common.messages import Sampling

VARIANTS = ("none", "engine", "all")
NUM_GROUPS, GROUP_SIZE, MAX_TOKENS = 24, 8, 200


def main() -> None:
    """Run all variants, or (in a child) one."""
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="processes of each variant")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of sampling in each")
    parser.add_argument("--child", nargs=2, metavar=("VARIANT", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asyncio.run(measure(*arguments.child, arguments.rounds))))
        return
    from recipes.tiny_model import create_tiny_model

    least = dict.fromkeys(VARIANTS, float("inf"))
    with tempfile.TemporaryDirectory() as directory:
        model = create_tiny_model(Path(directory) / "model")
        for _ in range(arguments.repeats):
            for variant in VARIANTS:
                command = [sys.executable, "-W", "ignore", __file__, "--rounds", str(arguments.rounds)]
                done = subprocess.run(
                    [*command, "--child", variant, str(model)], check=True, stdout=subprocess.PIPE, text=True
                )
                least[variant] = min(least[variant], *json.loads(done.stdout.splitlines()[-1]))
    for variant, seconds in least.items():
        print(f"{variant:8} {1e6 * seconds:6.1f} us a token  {seconds / least['none']:.2f}x")


async def measure(variant: str, model: str, rounds: int) -> list[float]:
    """CPU seconds of this process for each token, by round."""
    from actor import engine as zeroq_engine

    config = RunConfig.model_validate(
        {
            "model": model,
            "data": {"train": "unused"},
            "actor": {"device": "cpu", "dtype": "bfloat16", "max_num_seqs": 64, "kv_cache_gib": 0.125}
            | {"enforce_eager": True, "max_model_len": 256, "cpu_threads": "0"},
        }
    )
    with _switched(variant):
        engine = await zeroq_engine.Engine.start(config, "actor-0")
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=1.0)

    async def sample(number: int) -> int:
        prompt = [5, 6, 7, 8, 9, 10 + number % 40]
        group = await engine.generate_group(prompt, sampling, GROUP_SIZE, salt="0", request_id=f"r{number}")
        return len(group.token_ids)

    figures = []
    for number in range(rounds + 1):
        began = time.process_time()
        tokens = sum(await asyncio.gather(*(sample(1000 * number + group) for group in range(NUM_GROUPS))))
        if number:  # the first round sets things up
            figures.append((time.process_time() - began) / tokens)
    engine.shutdown()
    return figures


@contextlib.contextmanager
def _switched(variant: str) -> Any:
    """vLLM made with the statistics of `variant`."""
    from vllm.v1.engine.async_llm import AsyncLLM

    from actor import engine as zeroq_engine

    make, reports = AsyncLLM.from_vllm_config, zeroq_engine.engine_reports
    if variant == "none":
        zeroq_engine.engine_reports = contextlib.nullcontext  # type: ignore[assignment]
    if variant == "all":
        AsyncLLM.from_vllm_config = lambda config, **options: make(config, **{**options, "disable_log_stats": False})
    try:
        yield
    finally:
        AsyncLLM.from_vllm_config, zeroq_engine.engine_reports = make, reports


if __name__ == "__main__":
    main()

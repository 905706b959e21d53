"""Real vLLM for the weight path's tests: tiny random Qwen3 models, one engine at a time, its event loop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from actor.plugin import engine_name, register
from actor.weights import WeightReceiver
from common.config import RunConfig

T = TypeVar("T")
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [200, 100, 50, 25, 12], [1, 2, 3]]


def make_model(path: Path, *, seed: int, tied: bool, **sizes: int) -> Path:
    """A random float32 Qwen3 without a tokenizer; `sizes` overrides some of its small ones."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    small = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128}
    config = Qwen3Config(
        **{**small, **sizes},
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


def load_model(path: Path) -> Any:
    """The same model in transformers, as the learner has it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def make_config(model: Path, *, dtype: str = "bfloat16", device: str = "cpu", **weights: Any) -> RunConfig:
    """Configuration with deadlines fit for a test."""
    section = {"ready_timeout_s": 5.0, "transfer_timeout_s": 20.0, "bucket_bytes": 64 * 1024, **weights}
    return RunConfig.model_validate(
        {
            "model": str(model),
            "data": {"train": "unused.jsonl"},
            "actor": {"device": device, "dtype": dtype},
            "learner": {"device": device},
            "weights": section,
        }
    )


class EngineRig:
    """AsyncLLM and the loop it lives in. `on_cpu` False needs a GPU."""

    def __init__(self, config: RunConfig, **engine: Any) -> None:
        settings = {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
        if config.actor.device == "cpu":
            settings |= {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            }
        os.environ.update(settings)
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        register()
        self.config = config
        self.runner = asyncio.Runner()
        arguments = AsyncEngineArgs(
            model=config.model,
            dtype=config.actor.dtype,
            max_model_len=1024,
            max_num_seqs=32,
            skip_tokenizer_init=True,
            enforce_eager=True,
            disable_log_stats=True,
            weight_transfer_config=WeightTransferConfig(backend=engine_name(config.weights.backend)),
            **engine,
        )

        async def start() -> Any:
            return AsyncLLM.from_engine_args(arguments)

        self.llm: Any = self.runner.run(start())
        self._count = 0

    def run(self, task: Callable[[], Coroutine[Any, Any, T]], timeout_s: float = 120) -> T:
        """Run a coroutine function in the engine's loop."""

        async def bounded() -> T:
            return await asyncio.wait_for(task(), timeout_s)

        return self.runner.run(bounded())

    async def generate(self, prompt: list[int], max_tokens: int) -> Any:
        """One greedy completion: vLLM's CompletionOutput."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._count += 1
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final: Any = None
        request: Any = {"prompt_token_ids": prompt, "cache_salt": str(self._count)}
        async for output in self.llm.generate(request, params, f"r{self._count}"):
            final = output
        return final.outputs[0]

    def greedy(self, max_tokens: int = 48) -> list[list[int]]:
        """Greedy completions of PROMPTS."""

        return self.run(lambda: self.greedy_outputs(max_tokens))

    async def greedy_outputs(self, max_tokens: int = 48) -> list[list[int]]:
        """The same, from within the engine's loop."""
        outputs = await asyncio.gather(*(self.generate(prompt, max_tokens) for prompt in PROMPTS))
        return [list(output.token_ids) for output in outputs]

    def receiver(
        self, endpoint: str, *, name: str = "actor-0", on_version: Any = lambda version: None
    ) -> WeightReceiver:
        """A new incarnation of the weight receiver on this engine."""
        return WeightReceiver(
            self.llm,
            self.config,
            endpoint=endpoint,
            name="actor-0",
            incarnation=os.urandom(4).hex(),
            on_version=on_version,
            on_pause=lambda: None,
        )

    def close(self) -> None:
        """End the engine's process."""

        async def shutdown() -> None:
            self.llm.shutdown(timeout=2.0)

        self.runner.run(shutdown())
        self.runner.close()
        # vLLM never closes the ZeroMQ context below its asyncio one.
        self.llm.engine_core.ctx._shadow_obj.destroy(linger=0)
        del self.llm
        gc.collect()


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)

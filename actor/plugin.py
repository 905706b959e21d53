"""Entry point that vLLM calls in each of its processes (group `vllm.general_plugins`, see pyproject.toml).

Workers are processes of their own, so registering our engines in the actor's main process would not reach them.
"""

from __future__ import annotations

import multiprocessing

from common.lifecycle import die_with_parent

ENGINES = {
    "gloo": ("actor.weights.engine", "StagedEngine"),
    "zeroq_ipc": ("actor.weights.engine", "IpcEngine"),
    "zeroq_nccl": ("actor.weights.engine", "NcclEngine"),
}
_BACKENDS = {"gloo": "gloo", "ipc": "zeroq_ipc", "nccl": "zeroq_nccl"}


def engine_name(backend: str) -> str:
    """Name for vLLM's `WeightTransferConfig(backend=...)` that goes with our `weights.backend`."""
    return _BACKENDS[backend]


def register() -> None:
    """Register our weight-transfer engines (once) and allow small blocks; in a child process of vLLM, also die with
    the parent."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for name, (module, class_name) in ENGINES.items():
        if name not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(name, module, class_name)
    _allow_small_blocks()
    if multiprocessing.parent_process() is not None:
        die_with_parent()


def _allow_small_blocks() -> None:
    """Blocks of 16 tokens on CPUs (actor.kv_block_tokens). vLLM 0.32 has the kernel, which it takes for models with odd
    head sizes, but declares multiples of 32 alone, so that prompts shorter than that are computed once a completion."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.v1.attention.backend import MultipleOf
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(lambda kv_cache_spec=None: [MultipleOf(16)])

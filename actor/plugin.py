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
    """Register our weight-transfer engines (once); in a child process of vLLM, also die with the parent."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for name, (module, class_name) in ENGINES.items():
        if name not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(name, module, class_name)
    if multiprocessing.parent_process() is not None:
        die_with_parent()

"""Loading new weights into a model that vLLM serves, inside its worker: all of them, or an error.

vLLM's layerwise reload (vllm/model_executor/model_loader/reload) replaces a layer when all its weights have come. Three
of its traps are dealt with here:

- An update that broke off leaves the reload open, and the next one would build on it: it is closed first.
- Weights shared by modules (tied embeddings) are loaded once, so only one of the modules is processed again. On CPUs
  the other keeps its old packed copy and samples from a mixture of two versions, silently.
- A parameter that does not come keeps its old value, with a line in the log: here it is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Weights = Iterable[tuple[str, torch.Tensor]]


@contextmanager
def layerwise_reload(model: torch.nn.Module, model_config: Any) -> Iterator[Callable[[Weights], None]]:
    """Yield `load(weights)`, to be called once or in parts. On leaving, the model is whole again.

    ValueError if parameters are missing at the end. After any error the weights are a mixture: sample no more until
    another reload has succeeded.
    """
    from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    close_open_reload(model, model_config)
    expected = _expected_names(model, model_config)
    loaded: set[str] = set()

    def load(weights: Weights) -> None:
        loaded.update(model.load_weights(weights) or ())  # type: ignore[operator]

    initialize_layerwise_reload(model)
    try:
        with disable_mtp_completeness_check():
            yield load
    finally:
        with _quiet():
            finalize_layerwise_reload(model, model_config)
        process_shared_weights(model)
    missing = sorted(expected - loaded)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(expected)} parameters did not come with the new weights, such as {missing[0]!r}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """vLLM warns of each module without weights in the checkpoint (rotary tables) at each update; we check names."""
    logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def close_open_reload(model: torch.nn.Module, model_config: Any) -> None:
    """Finalise a layerwise reload that an earlier, failed update left open."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    if any(get_layerwise_info(layer).can_load() for layer in model.modules()):
        finalize_layerwise_reload(model, model_config)


def process_shared_weights(model: torch.nn.Module) -> None:
    """Have each module that shares its weight with another process it anew (on CPUs: pack it)."""
    for module in modules_sharing_weights(model):
        process = getattr(getattr(module, "quant_method", None), "process_weights_after_loading", None)
        if process is not None:
            process(module)


def modules_sharing_weights(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Modules whose parameter `weight` is also another module's."""
    owners: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(module)
    return [module for sharers in owners.values() if len(sharers) > 1 for module in sharers]


def _expected_names(model: torch.nn.Module, model_config: Any) -> set[str]:
    """Parameters that must come, shared ones once. Empty for quantized models: theirs are made, not loaded."""
    if getattr(model_config, "quantization", None) is not None:
        return set()
    return {name for name, _ in model.named_parameters()}

"""Owns the policy network: a transformers model, sharded with FSDP2, that scores completion tokens.

Master weights are float32; with `learner.dtype: bfloat16` each block is gathered and computed in bfloat16 and gradients
are reduced in float32. One rank takes the same path. The model's `forward` is replaced by one that ends in our chunked
head, because only a forward called through the root lets FSDP gather what the root owns (embedding, norm, head).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from common.config import TrainingSection
from common.errors import UserError
from learner import attention
from learner.attention import PackedLayout
from learner.head import Statistic, token_logprobs
from learner.packing import MicroBatch
from learner.ranks import Ranks

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy:
    """A causal language model over packed sequences. `module` is the transformers model (for weights and saving)."""

    def __init__(self, module: nn.Module, vocab_size: int) -> None:
        self.module = module
        self.vocab_size = vocab_size

    def logprobs(
        self, batch: MicroBatch, temperature: float = 1.0, *, statistic: Statistic = "entropy"
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities float32[T] of the micro-batch's completion tokens, with gradients, and entropies (nats) or
        whether each token is the likeliest."""
        layout = PackedLayout.of(batch.lengths, batch.token_ids_S.device, batch.row_tokens_R)
        logprobs, beside = self.module(batch, layout, temperature, statistic)
        return logprobs, beside

    def reshard(self) -> None:
        """Let go of gathered weights (the root keeps its own after a forward without a backward). Whoever writes
        weights into the shards does so first: a block that is still gathered would go on with its old ones."""
        for own in self.module.modules():
            if isinstance(own, FSDPModule):
                own.reshard()

    def copy_from(self, other: Policy) -> None:
        """Take over the weights of a policy sharded the same way."""
        self.reshard()
        with torch.no_grad():
            for target, source in zip(self.module.parameters(), other.module.parameters(), strict=True):
                _local(target).copy_(_local(source))


def load_policy(
    source: str | Path, config: TrainingSection, ranks: Ranks, *, trainable: bool = True, always_shard: bool = True
) -> Policy:
    """Load a Hugging Face directory or hub name and shard it over `ranks`.

    A policy that is not trainable (the reference) is held in the compute type and without gradients. Without
    `always_shard` a float32 model on one rank stays a plain module: FSDP takes a fifth of a small model's step on a
    CPU. Of ranks on several machines only rank 0 needs `source`. UserError when the model is missing, is no causal
    language model, or does something to its logits that our head would leave out.
    """
    compute = _DTYPES[config.dtype]
    dtype = torch.float32 if trainable else compute
    weights: dict[str, Any] = {}
    if not ranks.spread:
        model = _load(source, dtype)
    else:
        own = _load(source, dtype) if ranks.first else None
        described = ranks.broadcast_text(None if own is None else own.config.to_json_string(use_diff=False))
        model = _empty(described, dtype) if own is None else own
        if own is not None:
            weights = {name: tensor.detach().clone() for name, tensor in own.state_dict().items()}
    model.to(ranks.device)
    model.train(trainable)
    model.requires_grad_(trainable)
    if trainable and config.recompute:
        model.gradient_checkpointing_enable()
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    model.forward = MethodType(_forward, model)
    if always_shard or ranks.size > 1 or compute != torch.float32:
        shard(model, compute if trainable else torch.float32, ranks)
    if ranks.spread:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
    return Policy(model, vocab_size)


def _load(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation=attention.NAME)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model {str(source)!r} cannot be loaded: {reason}") from None
    assert isinstance(model, PreTrainedModel)
    _check_supported(model, source)
    return model


def _empty(described: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a config.json, to be filled with rank 0's weights."""
    fields = json.loads(described)
    config = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
    assert isinstance(model, PreTrainedModel)
    return model


def _check_supported(model: PreTrainedModel, source: str | Path) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError(f"model {str(source)!r} ({type(model).__name__}): a head without bias is needed")
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise UserError(f"model {str(source)!r}: {name} is not supported by the learner's head")


def shard(model: PreTrainedModel, compute: torch.dtype, ranks: Ranks) -> None:
    """One FSDP group for each decoder block, and one for the rest. Gradients are summed, not averaged."""
    policy = MixedPrecisionPolicy()
    if compute != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    blocks = set(model._no_split_modules or ())
    sharded: list[FSDPModule] = []
    for module in [*(m for m in model.modules() if type(m).__name__ in blocks), model]:
        sharded.append(fully_shard(module, mesh=ranks.mesh, mp_policy=policy))
    for part in sharded:
        part.set_gradient_divide_factor(1.0)  # losses carry the step's denominators already
        part.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def _forward(
    model: Any, batch: MicroBatch, layout: PackedLayout, temperature: float, statistic: Statistic
) -> tuple[Tensor, Tensor]:
    output = model.get_decoder()(
        input_ids=batch.token_ids_S[None], position_ids=batch.positions_S[None], use_cache=False, packed=layout
    )
    hidden_T = output.last_hidden_state[0].index_select(0, batch.predict_at_T)
    weight = model.get_output_embeddings().weight
    return token_logprobs(hidden_T, weight, batch.targets_T, temperature, statistic=statistic)


def _local(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)
    return parameter if to_local is None else to_local()

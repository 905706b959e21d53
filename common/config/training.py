"""Sections on learning: cold start, loss, learner, in-loop evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config_file import Section


class ColdStartSection(Section):
    """Supervised fine-tuning before RL (R1's stage 2a). steps: 0 switches it off."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1, description="Sequences per optimizer step.")
    lr: float = Field(5e-5, gt=0)
    lr_final_ratio: float = Field(0.1, ge=0, le=1, description="Cosine decay ends at lr times this.")
    warmup_steps: int = Field(10, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    num_examples: int = Field(20_000, ge=1)
    max_seconds: float | None = Field(None, gt=0, description="Stop early after this time.")
    trace_stop_probability: float = Field(
        0.0, ge=0, lt=1, description="Chance per step that a generated trace gives up."
    )


class LossSection(Section):
    """Clipped policy-gradient loss (RECIPE: GRPO). Mirrors learner.loss.LossConfig."""

    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    clip_low: float = Field(0.2, ge=0)
    clip_high: float = Field(0.2, ge=0)
    kl_coef: float = Field(
        0.0, ge=0, description="beta of the k3 KL term against the reference policy; 0: no reference."
    )
    constant_length: int | None = Field(None, ge=1, description="Denominator of aggregation: constant.")
    dual_clip: float | None = Field(
        None, gt=1, description="Bound of ratio times advantage below 0; null: off (at 3 it defeats clip_high: 10)."
    )
    objective: Literal["ppo", "gspo", "cispo"] = Field(
        "ppo", description="Ratio per token (GRPO), per sequence (GSPO), or a clipped weight without gradient (CISPO)."
    )
    proximal: Literal["none", "recompute"] = Field(
        "none",
        description="Anchor of the clipped ratio: the sampler's log-probabilities, or those that the learner itself "
        "computes under the weights of the last publish (decoupled objective).",
    )
    importance: Literal["none", "tis_token", "tis_sequence", "icepop"] = Field(
        "none", description="Limit of the weight pi_proximal / pi_sampler; needs proximal: recompute."
    )
    importance_cap: float = Field(2.0, gt=0, description="Largest weight (importance: tis_token, tis_sequence).")
    importance_low: float = Field(0.5, ge=0, description="Smallest ratio not masked (importance: icepop).")
    importance_high: float = Field(5.0, gt=0, description="Largest ratio not masked (importance: icepop).")

    @model_validator(mode="after")
    def _weighted(self) -> LossSection:
        if self.importance != "none" and self.proximal == "none":
            raise ValueError(
                f"importance: {self.importance} limits the weight of a proximal policy; set proximal: recompute, or "
                "importance: none"
            )
        if self.dual_clip is not None and self.objective == "cispo":
            raise ValueError("dual_clip bounds a ratio's loss, and objective: cispo has none; leave it out")
        if self.importance_low > self.importance_high:
            raise ValueError(f"importance_low {self.importance_low} is above importance_high {self.importance_high}")
        return self

    @model_validator(mode="after")
    def _constant(self) -> LossSection:
        if self.aggregation == "constant" and self.constant_length is None:
            raise ValueError("aggregation: constant needs constant_length (tokens)")
        return self


class TrainingSection(Section):
    """What every training process has, RL or supervised."""

    ranks: int = Field(1, ge=1, description="FSDP2 ranks (torchrun processes).")
    device: Literal["cpu", "cuda"] = "cuda"
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Compute type; master weights are float32.")
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(1.0, gt=0)
    tokens_per_microbatch: int = Field(16_384, ge=1, description="Packing budget.")
    recompute: bool = Field(
        False,
        description="Of each block keep only its input for the backward pass and compute the rest again: less memory, "
        "a third more work.",
    )
    checkpoint_every_steps: int = Field(100, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    num_threads: int | None = Field(None, ge=1, description="PyTorch threads per rank (CPU).")
    gpu_memory_fraction: float | None = Field(None, gt=0, le=1, description="Cap when sharing a card with an actor.")
    collective_timeout_s: float = Field(600.0, gt=0)


class LearnerSection(TrainingSection):
    """The learner pool."""

    lr: float = Field(1e-6, gt=0)
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_steps: int = Field(1000, ge=1, description="Optimizer steps.")
    groups_per_step: int = Field(32, ge=1, description="Groups per optimizer step (R1: 32 questions).")
    steps_per_publish: int = Field(1, ge=1)
    max_staleness: int = Field(2, ge=0, le=1024, description="eta, in publishes; 0 is synchronous.")
    staleness_policy: Literal["mask", "drop", "pace"] = "mask"
    advantage_scale: Literal["std", "none"] = "std"
    advantage_ddof: Literal[0, 1] = 0
    advantage_eps: float = Field(1e-6, ge=0)
    skip_without_gradient: bool = Field(
        True,
        description="Leave out what cannot move the policy (groups of equal rewards); entropy and the like then cover "
        "the rest only.",
    )
    mask_truncated: bool = Field(False, description="Truncated completions carry no gradient.")
    reference_refresh_steps: int | None = Field(
        None, ge=1, description="Replace the reference by the policy (R1: 400)."
    )
    loss: LossSection = LossSection()


class EvalSection(Section):
    """In-loop evaluation on held-out problems."""

    every_steps: int = Field(0, ge=0, description="While training; 0: never.")
    before_and_after: bool = Field(True, description="Before the first and after the last step; training waits.")
    samples: int = Field(4, ge=1, description="k samples per problem.")
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, description="Default: rollout.max_tokens.")
    greedy: bool = True

"""Sections on the other processes: broker, actors, evaluators, and the way of weights to the actors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from common.config_file import Section, on_off


class BrokerSection(Section):
    """Queues, leases, credit."""

    host: str = Field("127.0.0.1", description="Address to bind.")
    address: str | None = Field(
        None,
        description="Name or address by which processes of other machines reach the broker; needs all four ports. "
        "null: processes of this machine find it through the run's directory.",
    )
    ports: dict[Literal["learner", "actor", "evaluator", "monitor"], Annotated[int, Field(ge=0, le=65535)]] = Field(
        default_factory=dict, description="Fixed ports per role; unnamed ones are chosen free."
    )
    generate_lease_s: float = Field(60.0, gt=0)
    grade_lease_s: float = Field(60.0, gt=0)
    max_attempts: int = Field(3, ge=1, description="Failed attempts before a task is dead-lettered.")
    max_message_bytes: int = Field(256 * 1024 * 1024, ge=65_536)

    @model_validator(mode="after")
    def _reachable(self) -> BrokerSection:
        missing = [role for role in ("learner", "actor", "evaluator", "monitor") if not self.ports.get(role)]
        if self.address is not None and missing:
            raise ValueError(
                f"address: {self.address} is of use with fixed ports only; name ports.{missing[0]} as well"
            )
        return self


class ActorSection(Section):
    """vLLM actors."""

    replicas: int = Field(1, ge=1)
    device: Literal["cpu", "cuda"] = "cuda"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_concurrent_groups: int = Field(16, ge=1, description="Leases an actor holds at once.")
    max_num_seqs: int = Field(256, ge=1)
    max_model_len: int | None = Field(None, ge=16)
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    kv_cache_gib: float = Field(1.0, gt=0, description="Key-value cache on CPUs.")
    kv_block_tokens: Literal[16, 32, 64, 128] = Field(
        32,
        description="Tokens in a block of the cache on CPUs. A group computes the whole blocks of its prompt once; 16 "
        "is for prompts of fewer than 32 tokens, with a slower kernel for attention.",
    )
    cpu_threads: str | None = Field(
        None, description="Cores for vLLM on CPUs, such as '0' or '0-3'; null: its default."
    )
    enforce_eager: bool = False
    model_from: Literal["disk", "learner"] = Field(
        "disk",
        description="disk: `model` is there. learner: an actor without any volume gets configuration and tokenizer "
        "from the learner, and starts without weights, which it gets from there anyway.",
    )
    startup_timeout_s: float = Field(600.0, gt=0)
    max_restarts: int = Field(3, ge=0, description="Restarts of one replica before the run fails.")


class EvaluatorSection(Section):
    """Graders."""

    replicas: int = Field(1, ge=1)
    max_concurrent_groups: int = Field(4, ge=1)
    max_restarts: int = Field(3, ge=0)
    code: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_off)] = Field(
        "auto", description="The sandbox for programs: on from the start, when the first program comes, or never."
    )
    sandbox_tier: Literal[1, 2, 3] = Field(
        2, description="The least isolation of programs (docs/evaluators.md); below it evaluators refuse to start."
    )
    reward_model_device: Literal["cpu", "cuda"] = Field("cpu", description="Where reward models score.")
    reward_model_dtype: Literal["float32", "bfloat16"] = "float32"
    reward_model_tokens: int = Field(16_384, ge=1, description="Tokens of a reward model's batch, padding included.")


PUBLISH_ATTEMPTS = 2
"""Broadcasts of a version: one, and if it breaks off another with the actors that are left."""


class WeightsSection(Section):
    """Weight broadcast from learner to actors."""

    backend: Literal["gloo", "ipc", "nccl"] = "gloo"
    bucket_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    ready_timeout_s: float = Field(10.0, gt=0, description="Actors that do not answer a proposal by then are left out.")
    transfer_timeout_s: float = Field(60.0, gt=0)
    host: str = Field("127.0.0.1", description="Address that the learner binds.")
    address: str | None = Field(None, description="Name or address by which actors reach the learner; null: host.")
    port: int = Field(0, ge=0, le=65535, description="Port of the learner's weights socket; 0: a free one.")
    store_port: int = Field(0, ge=0, le=65535, description="Port of gloo's rendezvous store; 0: a free one.")

    @property
    def longest_publish_s(self) -> float:
        """A publish has ended by then, well or not: each attempt proposes and broadcasts, the last commits, too."""
        return PUBLISH_ATTEMPTS * (self.ready_timeout_s + self.transfer_timeout_s) + self.transfer_timeout_s

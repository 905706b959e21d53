"""The sampler: vLLM's AsyncLLM in this process (its engine core in a child), token ids in and packed groups out.

vLLM's front end costs Python time per token, and on fast cards that is what limits an actor. So a group is one request
with `n` children, log-probabilities are flat, nothing is detokenised while sampling, and only finished groups come
back. Progress is read from vLLM's own books when somebody asks, which costs nothing per token.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from typing import Any

from actor.engine_stats import engine_reports, follow
from actor.environment import prepare, starting_engine, torch_is_fresh
from actor.group import GeneratedGroup, GenerationAborted, pack
from actor.metrics import engine_is_idle
from actor.plugin import engine_name
from common.config import RolloutSection, RunConfig
from common.errors import RunFailure, UserError, ZeroqError
from common.messages import Sampling

log = logging.getLogger(__name__)

_SHUTDOWN_S = 1.0
_HEALTH_CHECK_S = 0.2
_WARM_UP_TOKENS = 16


class EngineDied(ZeroqError):
    """The engine's process is gone; nothing can be sampled any more."""


class PromptRefused(ZeroqError):
    """This prompt cannot be sampled from (too long for the model, or ids outside its vocabulary)."""


class Engine:
    """Samples groups. Make one with `await Engine.start(config, name)`; one per process."""

    def __init__(self, llm: Any, *, loaded_version: int = 0) -> None:
        self.llm = llm
        self._loaded_version = loaded_version
        self._num_loads = 0
        self._tokenizer = llm.get_tokenizer()
        self._max_model_len = int(llm.model_config.max_model_len)
        self._running: dict[str, int] = {}  # request id -> tokens of it seen so far
        self._began_at: dict[str, int] = {}  # request id -> `tokens_generated` when it was added
        self._tokens_of_past_requests = 0

    @classmethod
    async def start(cls, config: RunConfig, name: str) -> Engine:
        """Load the model and start the engine's process (blocks the event loop meanwhile).

        Raises UserError for a model or setting that vLLM refuses, RunFailure when the engine does not come up.
        """
        began = time.monotonic()
        fresh = torch_is_fresh()
        cores = prepare(config)
        from vllm.v1.engine.async_llm import AsyncLLM

        imported = time.monotonic()
        try:
            vllm_config = _engine_args(config, name).create_engine_config()
        except (ValueError, OSError) as error:
            raise UserError(f"model {config.model}: vLLM refuses it: {error}") from error
        with starting_engine(config, cores, fresh=fresh), engine_reports():
            try:
                llm = AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True)
            except (RuntimeError, ValueError, TimeoutError) as error:
                raise RunFailure(f"vLLM did not start: {error}; its own report is above") from error
        follow(llm)
        now = time.monotonic()
        log.info("engine ready in %.1f s (imports %.1f s)", now - began, imported - began)
        return cls(llm)

    async def warm_up(self, rollout: RolloutSection, num_groups: int) -> None:
        """Sample one group of a few tokens, then `num_groups` at once, and forget them: what first requests and other
        batch sizes set up (compiled helpers) is set up, and a model that cannot be sampled from shows before work is
        leased (RunFailure)."""
        began = time.monotonic()
        num_tokens = min(rollout.max_tokens, _WARM_UP_TOKENS)
        sampling = Sampling(
            max_tokens=num_tokens, temperature=rollout.temperature, top_p=rollout.top_p, top_k=rollout.top_k
        )
        prompt = [0] * min(_WARM_UP_TOKENS, self._max_model_len - num_tokens)
        try:
            for count in (1, num_groups):
                names = [f"warm-up-{count}-{number}" for number in range(count)]
                await asyncio.gather(
                    *(
                        self.generate_group(prompt, sampling, rollout.group_size, salt=name, request_id=name)
                        for name in names
                    )
                )
        except (EngineDied, GenerationAborted, PromptRefused) as error:
            raise RunFailure(f"vLLM started, but cannot sample: {error}; its own report is above") from error
        self._tokens_of_past_requests = 0
        log.info("engine warm in %.1f s", time.monotonic() - began)

    async def generate_group(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        group_size: int,
        *,
        request_id: str,
        salt: str | None = None,
    ) -> GeneratedGroup:
        """Sample `group_size` completions of one prompt.

        Requests with the same `salt` share the key-value cache of their prompts; without one, those do that begin with
        the same load of weights, so that none starts from prefixes computed with others. Cancelling the awaiting task
        aborts the request. Raises PromptRefused, GenerationAborted, EngineDied.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if len(prompt_ids) >= self._max_model_len:
            raise PromptRefused(f"prompt of {len(prompt_ids)} tokens; the model's context is {self._max_model_len}")
        prompt = tokens_input(prompt_ids, cache_salt=salt or f"load-{self._num_loads}")
        # vLLM refuses n > 1 for greedy sampling: one completion stands for all.
        copies = group_size if sampling.temperature == 0 else 1
        self._began_at[request_id] = self.tokens_generated
        self._running[request_id] = 0
        final: Any = None
        try:
            async for output in self.llm.generate(prompt, _sampling_params(sampling, group_size // copies), request_id):
                final = output
            if final is None:
                raise GenerationAborted("vLLM ended the request without an output")
            group = pack(final.outputs * copies, self._decode, loaded_version=self._loaded_version)
            self._running[request_id] = len(group.token_ids)
        except EngineDeadError as error:
            raise EngineDied(f"vLLM's engine process died while sampling {request_id}") from error
        except EngineGenerateError as error:
            raise GenerationAborted(f"vLLM failed on {request_id}: {error.__cause__ or error}") from error
        except (VLLMClientError, ValueError) as error:
            raise PromptRefused(f"vLLM refuses the request: {error}") from error
        finally:
            self._tokens_of_past_requests += self._running.pop(request_id)
            del self._began_at[request_id]
            if not self._running:
                engine_is_idle()
        return group

    async def abort(self, request_id: str) -> None:
        """Stop sampling a group; its `generate_group` raises GenerationAborted."""
        self._own_tokens(request_id)
        await self.llm.abort(request_id)

    def progress(self, request_id: str) -> int:
        """Proof of life for a lease: tokens the engine has sampled since the request was added. 0 if unknown.

        Other requests count while vLLM holds this one, because a group that waits its turn for cache space in a
        working engine is not stuck; an engine that stands still makes no progress for anybody.
        """
        if request_id not in self._running:
            return 0
        if request_id not in self.llm.output_processor.external_req_ids:
            return self._running[request_id]
        return self.tokens_generated - self._began_at[request_id]

    @property
    def tokens_generated(self) -> int:
        """Tokens sampled by this engine so far, those of unfinished rollouts included."""
        return self._tokens_of_past_requests + sum(self._own_tokens(request_id) for request_id in self._running)

    @property
    def num_running(self) -> int:
        """Rollouts that vLLM holds, sampling or waiting."""
        return int(self.llm.get_num_unfinished_requests())

    def weights_change(self) -> None:
        """Tell that sampling stops for other weights; what is requested meanwhile begins with those. At every load:
        versions are no measure, since a learner that begins anew, or goes on from an older checkpoint, gives other
        weights the versions that there have been."""
        self._num_loads += 1

    async def watch(self) -> None:
        """Return never; raise EngineDied soon after the engine's process died."""
        while not self.llm.errored:
            await asyncio.sleep(_HEALTH_CHECK_S)
        raise EngineDied("vLLM's engine process died")

    def shutdown(self) -> None:
        """End the engine's process, and the ZeroMQ context that vLLM leaves open. Call inside the event loop."""
        self.llm.shutdown(timeout=_SHUTDOWN_S)
        self.llm.engine_core.resources.ctx.destroy(linger=0)
        self.llm.shutdown = lambda timeout=None: None  # its finalizer would do it again, in a half-gone interpreter

    def _own_tokens(self, request_id: str) -> int:
        """Tokens of one group, from vLLM's books: rollouts still being sampled and those that wait for the rest."""
        books = self.llm.output_processor
        states = [books.request_states[i] for i in books.external_req_ids.get(request_id, ())]
        if states:
            total = sum(state.detokenizer.num_output_tokens() for state in states)
            if (parent := states[0].parent_req) is not None:
                total += sum(len(done.token_ids) for done in parent.output_aggregator if done is not None)
            self._running[request_id] = total
        return self._running.get(request_id, 0)

    def _decode(self, token_ids: list[list[int]]) -> list[str]:
        return [str(text) for text in self._tokenizer.batch_decode(token_ids, skip_special_tokens=False)]


def _engine_args(config: RunConfig, name: str) -> Any:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    actor = config.actor
    on_cpu = actor.device == "cpu"
    return AsyncEngineArgs(
        model=config.model,
        load_format="dummy" if actor.model_from == "learner" else "auto",  # all weights come from the learner
        dtype=actor.dtype,
        max_model_len=actor.max_model_len,
        max_num_seqs=actor.max_num_seqs,
        gpu_memory_utilization=actor.gpu_memory_utilization,
        kv_cache_memory_bytes=int(actor.kv_cache_gib * 2**30) if on_cpu else None,
        enforce_eager=actor.enforce_eager,
        enable_prefix_caching=True,
        # Whole blocks are shared. vLLM's 128 on CPUs is longer than many prompts, whose groups then share nothing.
        block_size=actor.kv_block_tokens if on_cpu else None,
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=engine_name(config.weights.backend)),
        # vLLM's default seed is 0 everywhere: replicas would draw the same random numbers.
        seed=zlib.crc32(f"{config.seed}/{name}".encode()) & 0x7FFFFFFF,
        disable_log_stats=True,
    )


def _sampling_params(sampling: Sampling, group_size: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=group_size,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
